"""Starting and stopping a real ComfyUI: what a failure says, and that nothing is left behind."""

import pytest

from tools.provision import provision
from tools.server import ComfyServer


def test_a_server_that_does_not_start_shows_why():
    server = ComfyServer(provision(), packs={}, arguments=["--no-such-option"])
    with pytest.raises(RuntimeError, match=r"ended with status 2(.|\n)*--no-such-option"):
        server.__enter__()
    assert not server.base.exists()


def test_a_pack_that_cannot_be_imported_stops_the_start_and_shows_its_traceback(tmp_path):
    (tmp_path / "__init__.py").write_text("raise ValueError('broken on purpose')\n", encoding="utf-8")
    server = ComfyServer(provision(), packs={"broken": tmp_path})
    with pytest.raises(RuntimeError, match=r"could not import a pack: .*broken(.|\n)*broken on purpose"):
        server.__enter__()
    assert server._process.returncode is not None
    assert not server.base.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["__init__.py"]
