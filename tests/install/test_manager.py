"""ComfyUI-Manager installs the pack from a git URL, lists it, and removes all of it."""

import json
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest

from tests.server.installed import check_pack
from tools.package import provision_manager
from tools.process import capture
from tools.provision import provision
from tools.server import POLL_SECONDS, ComfyServer

ALLOWED = "allow_git_url_install = true\n"
"""What users have to write into user/__manager/config.ini first: the Manager installs from no URL without it."""
# The Manager's own lists come with it; it needs no network to install from an address.
CONFIG = "[default]\nnetwork_mode = offline\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(repository, tmp_path):
    """The repository, as git clones it over HTTP."""
    bare = tmp_path / "served" / repository.name
    for command in (["clone", "--quiet", "--bare", repository, bare], ["-C", bare, "update-server-info"]):
        status, printed = capture(["git", *command])
        assert status == 0, printed
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=bare.parent)) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}/{bare.name}"
        http_server.shutdown()


@pytest.fixture
def server():
    """A host with the Manager and without packs."""
    host = provision()
    if not (host.comfyui / "manager_requirements.txt").is_file():
        pytest.skip("this ComfyUI comes without a manager")
    server = ComfyServer(provision_manager(host), packs={}, arguments=["--enable-manager-legacy-ui"])
    for folder in ("custom_nodes", "user/__manager"):
        (server.base / folder).mkdir(parents=True)
    configure(server, CONFIG)
    with server:
        yield server


def configure(server, text):
    (server.base / "user" / "__manager" / "config.ini").write_text(text, encoding="utf-8")


def post(server, path, body=b"", kind="application/json"):
    """The status of an answer of the Manager's."""
    request = urllib.request.Request(server.url + path, data=body, headers={"Content-Type": kind}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def restart(server):
    """Restart as the Manager's button does: the program replaces itself, so the connection ends without an answer."""
    starts = server.log_text().count("To see the GUI go to")
    with pytest.raises(ConnectionResetError):
        post(server, "/v2/manager/reboot", b"{}")
    wait(lambda: server.log_text().count("To see the GUI go to") > starts)
    wait(lambda: answers(server))


def answers(server):
    try:
        return server.get_json("/queue") is not None
    except aiohttp.ClientError:
        return False


def wait(done, seconds=180):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited for {seconds} s"
        time.sleep(POLL_SECONDS)


def files_that_name_it(server):
    return [path for path in server.base.rglob("*") if "sag" in path.relative_to(server.base).as_posix().lower()]


def test_installed_from_an_address_listed_and_removed(server, address):
    def install():
        return post(server, "/v2/customnode/install/git_url", address.encode(), "text/plain; charset=utf-8")

    assert install() == 403 and not files_that_name_it(server)
    configure(server, CONFIG + ALLOWED)
    restart(server)

    assert install() == 200
    restart(server)
    assert [*server.get_json("/v2/customnode/installed")] == ["comfyui-sag"]
    check_pack(server, server.base / "custom_nodes" / "comfyui-sag")
    for picture in (server.base / "output").glob("SAG_*"):
        picture.unlink()  # made by that check, and the user's

    item = {"id": "comfyui-sag", "ui_id": "1", "version": "unknown", "files": [address]}
    assert post(server, "/v2/manager/queue/batch", json.dumps({"uninstall": [item]}).encode()) == 200
    # Removing takes a moment, of which a restart would cut off the rest.
    wait(lambda: not server.get_json("/v2/manager/queue/status")["is_processing"])
    wait(lambda: not (server.base / "custom_nodes" / "comfyui-sag").exists())
    assert server.get_json("/v2/customnode/installed") == {}
    restart(server)
    assert files_that_name_it(server) == []
    with pytest.raises(KeyError):
        server.object_info("SAGGuidance")
