"""The client against a real server, with stock nodes only."""

import io
import os

import pytest
from PIL import Image

from tools.cache import is_complete
from tools.client import ExecutionFailed, PromptRejected
from tools.provision import CHECKOUT


def empty_image(**inputs):
    fields = {"width": 16, "height": 8, "batch_size": 2, "color": 0xFF0000, **inputs}
    return {
        "1": {"class_type": "EmptyImage", "inputs": fields},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "red"}},
    }


def test_saved_images_come_back(server):
    history = server.run(empty_image())
    entries = history.images("2")
    assert [entry["filename"] for entry in entries] == ["red_00001_.png", "red_00002_.png"]
    image = Image.open(io.BytesIO(server.image(entries[0])))
    assert image.size == (16, 8)
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_events_of_the_run_are_kept_in_order(server):
    kinds = [kind for kind, _ in server.run(empty_image(color=1), client_id="events").events]
    assert kinds.index("execution_start") < kinds.index("executed") < kinds.index("execution_success")
    assert kinds[-1] == "executing"


def test_a_rejected_prompt_holds_the_node_errors(server):
    with pytest.raises(PromptRejected, match=r"node 1 \(EmptyImage\).*width") as raised:
        server.run(empty_image(width=-1))
    assert raised.value.node_errors["1"]["errors"][0]["extra_info"]["input_name"] == "width"


def test_a_prompt_without_outputs_is_rejected(server):
    prompt = empty_image()
    del prompt["2"]
    with pytest.raises(PromptRejected, match="no outputs"):
        server.run(prompt)


def test_a_failing_node_is_named_with_its_message(server):
    with pytest.raises(ExecutionFailed, match=r"node 2 \(SaveImage\): .*outside the output folder"):
        server.run(
            {
                **empty_image(color=2),
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../x"}},
            }
        )


def test_an_unknown_node_is_a_key_error(server):
    assert server.object_info("KSampler")["output"] == ["LATENT"]
    with pytest.raises(KeyError, match="NoSuchNode"):
        server.object_info("NoSuchNode")


def test_the_pack_is_linked_into_the_base_directory(server):
    assert (server.base / "custom_nodes" / CHECKOUT.name).samefile(CHECKOUT)


def test_the_database_is_not_the_one_of_the_comfyui_tree(server):
    """ComfyUI looks for it there whatever the base directory, and cannot make one in a tree never run before."""
    assert "database" not in server.log_text().lower()


def test_nothing_is_written_to_the_comfyui_tree(server):
    if not is_complete(server.host.comfyui.parent):
        pytest.skip("a ComfyUI of the user's own, which may be running")
    server.run(empty_image(color=3))
    written = [
        path
        for path in server.host.comfyui.rglob("*")
        if path.stat().st_mtime > os.stat(server.base / "custom_nodes").st_mtime
    ]
    assert written == []
