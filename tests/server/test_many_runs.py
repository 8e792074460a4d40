"""Many runs of one model before the first is looked at: a list of latents, and seeds whose results the host keeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.examples import queued, short
from tools.prompt import find_node, with_input
from tools.provision import provision
from tools.server import ComfyServer

LIST = 100
MODEL, LATENT, SAMPLER, PREVIEW, SHEETS = "2", "5", "6", "11", "13"


@pytest.fixture(scope="module")
def keeping() -> Iterator[ComfyServer]:
    """A host that keeps the results of a hundred nodes."""
    with ComfyServer(provision(), arguments=["--cache-lru", "100"]) as running:
        yield running


def quickstart(**sampler) -> dict:
    """The quickstart with two steps, showing the mask."""
    prompt = short(queued("quickstart"))
    prompt[SAMPLER]["inputs"] |= {"steps": 2, **sampler}
    prompt[PREVIEW]["inputs"]["style"] = "mask"
    return prompt


def said(history, *nodes) -> list[str]:
    return [text for node in nodes for text in history.outputs.get(node, {}).get("text", [])]


def test_every_latent_of_a_long_list_shows_and_saves_its_own_run(keeping):
    prompt = with_input(quickstart(), LATENT, "batch_size", LIST)
    prompt["20"] = {"class_type": "RebatchLatents", "inputs": {"latents": [LATENT, 0], "batch_size": 1}}
    prompt = with_input(prompt, SAMPLER, "latent_image", ["20", 0])
    run = {"trace": [MODEL, 1], "latent": [SAMPLER, 0]}
    prompt["21"] = {"class_type": "SAGSaveTrace", "inputs": {**run, "filename_prefix": "list"}}
    prompt["22"] = {"class_type": "MaskToImage", "inputs": {"mask": [PREVIEW, 1]}}
    prompt["23"] = {"class_type": "SaveImage", "inputs": {"images": ["22", 0], "filename_prefix": "mask"}}
    history = keeping.run(prompt)
    assert len(history.images(SHEETS)) == LIST and said(history, PREVIEW) == []
    assert len(said(history, "21")) == LIST and all(text.startswith("list_") for text in said(history, "21"))
    masks = {keeping.image(image) for image in history.images("23")}
    assert len(masks) > LIST * 0.9  # the noise of every latent is another


def test_identical_latents_of_a_list_find_their_run(keeping):
    prompt = with_input(quickstart(), LATENT, "batch_size", 1)
    prompt["20"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": [SAMPLER, 0], "amount": 12}}
    prompt["21"] = {"class_type": "RebatchLatents", "inputs": {"latents": ["20", 0], "batch_size": 1}}
    prompt = with_input(prompt, PREVIEW, "latent", ["21", 0])
    history = keeping.run(prompt)
    assert len(history.images(SHEETS)) == 12 and said(history, PREVIEW) == []


def test_a_result_that_the_host_kept_over_many_seeds_still_shows_its_run(keeping):
    for seed in range(1, 13):
        keeping.run(quickstart(seed=seed))
    history = keeping.run(with_input(quickstart(seed=1), PREVIEW, "step", 0))
    sampled = [data["node"] for kind, data in history.events if kind == "executing"]
    assert PREVIEW in sampled and SAMPLER not in sampled
    assert said(history, PREVIEW) == [] and history.images(SHEETS)


def test_a_trace_of_another_sampler_is_said_on_the_node_and_the_graph_goes_on(keeping):
    prompt = quickstart(seed=50)
    prompt["20"] = {"class_type": "SAGRecordAttention", "inputs": {"model": ["1", 0]}}
    prompt = with_input(prompt, PREVIEW, "trace", ["20", 1])
    history = keeping.run(prompt)
    assert history.images(find_node(prompt, "SaveImage", filename_prefix="SAG_quickstart"))
    assert len(history.images(SHEETS)) == 2
    (text,) = said(history, PREVIEW)
    assert text.startswith("the trace is empty: no sampler has run")
    assert f"SAG: {text}" in keeping.log_text()
