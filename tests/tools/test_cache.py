"""The cache: where it lies, what names a directory, and that a directory is complete or not there."""

import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path, PurePosixPath

import pytest

from tools import cache, install

CHANGES = {
    "sdist": ("SDIST", (*install.SDIST[:2], "0" * 64)),
    "torch": ("TORCH", ("torch==2.12.1", *install.TORCH[1:])),
    "pip": ("PIP", "pip==0"),
    "interpreter": ("interpreter_tag", lambda: ["cpython", "3.99", "linux-x86_64"]),
}


def name_of_host(requirements=""):
    return cache.directory_name("comfyui", install.host_recipe(requirements))


def name_of_tools():
    return cache.directory_name("tools", install.tools_recipe())


@pytest.mark.parametrize(("constant", "value"), CHANGES.values(), ids=CHANGES)
def test_each_pin_names_another_host_directory(monkeypatch, constant, value):
    before = name_of_host()
    monkeypatch.setattr(install, constant, value)
    assert name_of_host() != before


def test_the_packs_requirements_name_the_host_directory_and_its_comments_do_not():
    assert name_of_host("numpy==2.0") != name_of_host("numpy==2.1") != name_of_host()
    assert name_of_host("# a comment\n\nnumpy==2.0  # why\n") == name_of_host("numpy==2.0")


@pytest.mark.parametrize(("constant", "value"), [("TEST_TOOLS", ("pytest==0",)), CHANGES["interpreter"]])
def test_each_pin_names_another_tools_directory(monkeypatch, constant, value):
    before = name_of_tools()
    monkeypatch.setattr(install, constant, value)
    assert name_of_tools() != before


@pytest.mark.parametrize(
    ("environ", "os_name", "expected"),
    [
        ({"SAG_CACHE": "/s", "XDG_CACHE_HOME": "/x"}, "posix", Path("/s").absolute()),
        ({"XDG_CACHE_HOME": "/x", "LOCALAPPDATA": "/l"}, "nt", Path("/x/comfyui-sag")),
        ({"LOCALAPPDATA": "/l"}, "nt", Path("/l/comfyui-sag")),
        ({"LOCALAPPDATA": "/l"}, "posix", Path.home() / ".cache/comfyui-sag"),
        ({"SAG_CACHE": "", "XDG_CACHE_HOME": ""}, "posix", Path.home() / ".cache/comfyui-sag"),
    ],
)
def test_cache_root(environ, os_name, expected):
    assert cache.cache_root(environ, os_name) == expected


def test_a_build_that_failed_is_redone_from_an_empty_directory(tmp_path):
    target = tmp_path / "made"

    def interrupted(directory):
        (directory / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build_once(target, {}, interrupted, print)
    cache.build_once(target, {}, lambda directory: (directory / "whole").touch(), print)
    assert {path.name for path in target.iterdir()} == {"whole", cache.MARKER}


def test_concurrent_builds_happen_once_and_all_see_the_result(tmp_path):
    target, builds, said = tmp_path / "made", [], []
    building = threading.Event()

    def build(directory):
        builds.append(directory)
        building.set()
        while not said:  # until the other one has found the lock taken
            threading.Event().wait(0.01)

    first = threading.Thread(target=cache.build_once, args=(target, {}, build, print))
    first.start()
    building.wait()
    cache.build_once(target, {}, build, said.append)
    first.join()
    assert builds == [target]
    assert "waiting" in said[0]


def test_the_lock_of_a_killed_process_does_not_stay(tmp_path):
    target = tmp_path / "made"
    script = (
        "import sys; from pathlib import Path; from tools.cache import build_once\n"
        "build_once(Path(sys.argv[1]), {}, lambda d: (print('locked', flush=True), sys.stdin.read()), print)"
    )
    command = [sys.executable, "-c", script, str(target)]
    checkout = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603
        assert process.stdout.readline().strip() == b"locked"
        process.kill()
    cache.build_once(target, {}, lambda directory: None, print)
    assert cache.is_complete(target)


def add(tar, name, kind=tarfile.REGTYPE, linkname=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    tar.addfile(member)


def test_only_the_subtree_is_unpacked_and_no_links(tmp_path):
    archive, target = tmp_path / "a.tar", tmp_path / "out"
    with tarfile.open(archive, "w") as tar:
        for name in ("pkg/vendor/App/main.py", "pkg/vendor/App/sub/x.py", "pkg/vendor/Apple/no.py", "pkg/setup.py"):
            add(tar, name)
        add(tar, "pkg/vendor/App/link", tarfile.SYMTYPE, "/etc/passwd")
    install.unpack_tree(archive, PurePosixPath("pkg/vendor/App"), target)
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    assert files == {"main.py", "sub/x.py"}


def test_a_member_that_points_outside_is_refused(tmp_path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        add(tar, "pkg/App/../../evil.py")
    with pytest.raises(ValueError, match=r"evil\.py"):
        install.unpack_tree(archive, PurePosixPath("pkg/App"), tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.tar"]
