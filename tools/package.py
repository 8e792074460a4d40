"""The pack as users get it: the files of the registry's package, and what makes and installs that package."""

import os
import shutil
from pathlib import Path

from tools import cache, install, locate
from tools.process import capture
from tools.provision import CHECKOUT, Host, Say, say_now

COMFY_CLI = "comfy-cli==1.23.0"
"""Validates, packs and publishes for the registry."""


def checkout_files() -> list[str]:
    """The files of the checkout that git keeps or would keep, as paths with slashes.

    Raises:
        RuntimeError: git is not there, or the checkout is no repository.
    """
    status, printed = capture(["git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    if status != 0:
        raise RuntimeError(f"git cannot list the files of {CHECKOUT}: {printed}")
    return sorted(name for name in set(printed.split("\0")) if (CHECKOUT / name).is_file())


def left_out() -> list[str]:
    """The names at the root that .comfyignore leaves out of the package.

    Raises:
        ValueError: a line is more than a name at the root.
    """
    lines = (CHECKOUT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    for name in names:
        if not name.startswith("/") or "/" in name.strip("/") or any(sign in name for sign in "*?[!"):
            raise ValueError(f".comfyignore has the line {name!r}; it must be a name at the root, like /tests/")
    return [name.strip("/") for name in names]


def package_files() -> list[str]:
    """The files of the registry's package."""
    ignored = left_out()
    return [name for name in checkout_files() if name.split("/")[0] not in ignored]


def copy_files(names: list[str], target: Path) -> Path:
    """Copy files of the checkout into `target`, which is returned."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, target / name)
    return target


def provision_comfy_cli(say: Say = say_now) -> Path:
    """The Python that has comfy-cli; it is started with `-m comfy_cli`."""
    return _provision_venv("comfy-cli", [COMFY_CLI], say)


def provision_manager(host: Host, say: Say = say_now) -> Host:
    """A host with the ComfyUI-Manager it asks for, in an environment of its own that leans on the host's packages.

    Raises:
        FileNotFoundError: the host is too old to have a manager among its requirements.
    """
    requirements = (host.comfyui / "manager_requirements.txt").read_text(encoding="utf-8").split()
    python = _provision_venv("manager", requirements, say, install.site_packages(host.python))
    return Host(host.comfyui, python, host.tools, f"{host.origin}, with {' '.join(requirements)}")


def _provision_venv(prefix: str, packages: list[str], say: Say, shared: Path | None = None) -> Path:
    recipe = {"packages": packages, "shared": str(shared), "interpreter": cache.interpreter_tag()}
    directory = cache.cache_root(os.environ) / cache.directory_name(prefix, recipe)
    cache.build_once(directory, recipe, lambda target: install.install_venv(target, packages, say, shared), say)
    return locate.venv_python(directory / "venv")
