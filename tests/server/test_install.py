"""The files that the registry's package holds, in the custom_nodes of a clean ComfyUI."""

import pytest

from tests.server.installed import check_pack
from tools.package import CHECKOUT, checkout_files, copy_files, left_out, package_files
from tools.provision import provision
from tools.server import ComfyServer

PACKAGE_BYTES = 16e6

pytestmark = pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="the checkout is no git repository")


def test_the_package_is_small_and_holds_nothing_that_only_developers_need():
    files = package_files()
    assert not {"tests", "tools", "training", "benchmarks"} & {name.split("/")[0] for name in files}
    assert sum((CHECKOUT / name).stat().st_size for name in files) < PACKAGE_BYTES


def test_every_name_that_is_left_out_is_there():
    assert set(left_out()) - {".github"} <= {name.split("/")[0] for name in checkout_files()}


def test_the_files_of_the_package_are_enough(tmp_path):
    pack = copy_files(package_files(), tmp_path / "comfyui-self-attention-guidance")
    with ComfyServer(provision(), packs={pack.name: pack}) as server:
        check_pack(server, server.base / "custom_nodes" / pack.name)
    assert not list(pack.rglob("__pycache__"))
