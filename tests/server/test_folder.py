"""The pack's folder: under a good name browsers get every file; under another the log says so, and what to do."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from tests.host.boot import FOLDER
from tools.client import ComfyClient
from tools.provision import CHECKOUT, provision
from tools.server import ComfyServer

SCRIPTS = sorted(path.relative_to(CHECKOUT / "web").as_posix() for path in (CHECKOUT / "web").rglob("*.js"))
HELP = "docs/SAGGuidance.md"
# Names as users make them, and what is proposed in their place; browsers get no file of theirs.
REFUSED = {FOLDER: "ComfyUI-SAG-1-0-copy", "sag (1)": "sag-1", "\uc140\ud504 SAG": "SAG",
           "\uac00\uc774\ub358\uc2a4": "comfyui-self-attention-guidance", "sag#2": "sag-2", "sag%20copy": "sag-20copy",
           "sag [new]": "sag-new", "caf\u00e9": "cafe"}
TAKEN = ("ComfyUI-Self-Attention-Guidance", "sag_2", "sag(1)", "sag+pag")


def status(client: ComfyClient, address: str) -> int:
    try:
        with urllib.request.urlopen(client.url + address) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def listed(client: ComfyClient) -> list[str]:
    """The pack's scripts, as the frontend asks for them."""
    return [address for address in client.get_json("/extensions") if address.endswith(tuple(f"/{s}" for s in SCRIPTS))]


def test_every_file_that_is_listed_is_served(server):
    assert sorted(listed(server)) == sorted(f"/extensions/{CHECKOUT.name}/{script}" for script in SCRIPTS)
    assert {address: status(server, address) for address in listed(server)} == dict.fromkeys(listed(server), 200)
    assert status(server, f"/extensions/{CHECKOUT.name}/{HELP}") == 200
    assert "should have another name" not in server.log_text()


@pytest.fixture(scope="module")
def trivial(tmp_path_factory):
    """A pack that holds one script and no node, under many names; what the host does with each is not this pack's."""
    packs = {}
    for name in [*REFUSED, *REFUSED.values(), *TAKEN]:
        pack = tmp_path_factory.mktemp("pack")
        (pack / "__init__.py").write_text("WEB_DIRECTORY = './web'\nNODE_CLASS_MAPPINGS = {}\n", "utf-8")
        (pack / "web").mkdir()
        (pack / "web" / "one.js").write_text("// nothing", "utf-8")
        packs[name] = pack
    # This pack, too, under a name that is refused.
    with ComfyServer(provision(), packs=packs | {FOLDER: CHECKOUT}) as running:
        yield running


def test_under_a_name_that_the_host_does_not_serve_the_log_says_so_and_nodes_run(trivial):
    found = listed(trivial)
    assert len(found) == len(SCRIPTS)
    # Once the host serves these files, `nodes/host/folder.py` and the README can do without their warning.
    assert {address: status(trivial, address) for address in found} == dict.fromkeys(found, 404)
    assert trivial.object_info("SAGGuidance")["python_module"] == f"custom_nodes.{FOLDER}"
    (line,) = [line for line in trivial.log_text().splitlines() if "should have another name" in line]
    assert f"custom_nodes/{FOLDER} " in line and f"Rename it to {REFUSED[FOLDER]} and restart" in line


def test_the_host_serves_what_it_is_said_to_serve_and_no_other(trivial):
    addresses = [address for address in trivial.get_json("/extensions") if address.endswith("/one.js")]
    names = {urllib.parse.unquote(address).split("/")[2]: status(trivial, address) for address in addresses}
    refused = dict.fromkeys(REFUSED.keys() - {FOLDER}, 404)
    assert names == refused | dict.fromkeys([*REFUSED.values(), *TAKEN], 200)
