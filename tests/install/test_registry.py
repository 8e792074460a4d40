"""The package of ComfyUI's registry, made by the registry's own program."""

import subprocess
import zipfile

import pytest

from tests.server.installed import check_pack
from tools.package import package_files, provision_comfy_cli
from tools.process import spawn
from tools.provision import provision
from tools.server import ComfyServer

PACKAGE_BYTES = 16e6


@pytest.fixture(scope="module")
def comfy(repository, tmp_path_factory):
    """Runs `comfy node ...` in the repository, with a home of its own, and returns what it printed."""
    python, home = provision_comfy_cli(), tmp_path_factory.mktemp("home")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}

    def run(command):
        parts = [python, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", command]
        with spawn(parts, cwd=repository, env=environment, output=subprocess.PIPE) as process:
            printed = process.communicate(timeout=120)[0].decode()
        assert process.returncode == 0, printed
        return printed

    return run


def test_the_pack_is_valid_without_a_warning(comfy):
    printed = comfy("validate")
    assert "All validation checks passed" in printed
    assert "warning" not in printed.lower() and "invalid" not in printed.lower()


def test_the_package_is_what_the_other_tests_take_it_for_and_works_in_a_clean_host(comfy, repository, tmp_path):
    comfy("pack")
    packed = repository / "node.zip"
    assert packed.stat().st_size < PACKAGE_BYTES
    pack = tmp_path / "comfyui-self-attention-guidance"
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == package_files()
        archive.extractall(pack)
    with ComfyServer(provision(), packs={pack.name: pack}) as server:
        check_pack(server, server.base / "custom_nodes" / pack.name)
