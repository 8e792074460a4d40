"""A run that a node looks at and that is gone: the node says which and why, gives nothing, and the graph goes on."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch
from comfy_api.latest import io

from benchmarks.host import pack_module
from tests.host import models
from tests.host.graph import call, guide, record, sample

NODES = {node.define_schema().node_id: node
         for node in asyncio.run(pack_module("extension").SAGExtension().get_node_list())}
# Every node that looks a run up.
LOOKS = [name for name, node in NODES.items()
         if {"SAG_TRACE", "LATENT"} <= {one.get_io_type() for one in node.define_schema().inputs}]
HEIGHT, WIDTH, BATCH = 16, 24, 2


def missing_run(reason):
    """A trace and a LATENT whose run is not in it."""
    tiny = models.no_attention() if reason == "nothing recorded" else models.sd15()
    tiny = tiny.sized(HEIGHT, WIDTH, batch=BATCH)
    recorded, trace = record(tiny.model)
    if reason == "no run":
        return trace, torch.zeros(BATCH, 4, HEIGHT, WIDTH)
    out = sample(tiny, recorded, steps=1)
    return trace, out + 1 if reason == "another sampler" else out


REASONS = {"no run": "the trace is empty: no sampler has run",
           "another sampler": f"this LATENT of shape ({BATCH}, 4, {HEIGHT}, {WIDTH}) is not the result of a run",
           "nothing recorded": "the trace has no steps: BaseModel has no self-attention"}


def run(name, **inputs):
    """A node as the executor runs it: everything it gives."""
    node, needed = NODES[name], {}
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "1"}})
    for one in node.define_schema().inputs:
        kind = one.get_io_type()
        if kind == "IMAGE":
            needed[one.id] = torch.rand(BATCH, 8 * HEIGHT, 8 * WIDTH, 3)
        elif kind == "MASK" and not one.optional:
            needed[one.id] = torch.ones(BATCH, 8 * HEIGHT, 8 * WIDTH)
    return getattr(clone, node.FUNCTION)(**{**needed, **inputs})


def test_nodes_that_look_a_run_up_are_seen():
    assert {"SAGMaskPreview", "SAGSaveTrace", "SAGFrequencyAnalysis", "SAGMaskOverlap", "SAGVisualize"} <= set(LOOKS)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("name", LOOKS)
def test_without_its_run_a_node_says_why_and_gives_nothing(name, reason, output_folder, caplog):
    trace, samples = missing_run(reason)
    caplog.clear()
    given = run(name, trace=trace, latent={"samples": samples})
    (text,) = given.ui["text"]
    assert text.startswith(REASONS[reason])
    assert [record.getMessage() for record in caplog.records] == [f"SAG: {text}"]
    assert len(given.result or ()) == len(NODES[name].define_schema().outputs)
    for output, value in zip(NODES[name].define_schema().outputs, given.result or (), strict=True):
        kind = output.get_io_type()
        if kind in ("IMAGE", "MASK"):
            assert value.ndim == (4 if kind == "IMAGE" else 3) and not value.any() and value.dtype == torch.float32
        else:
            assert value == text if kind == "STRING" else math.isnan(value)
    assert list(output_folder.iterdir()) == []


@pytest.mark.parametrize("make", [models.sd15, models.svd], ids=["image", "video"])
@pytest.mark.parametrize("with_image", [False, True])
def test_nothing_has_the_size_of_what_would_be_shown(make, with_image):
    tiny = make()
    recorded, trace = record(tiny.model)
    samples = sample(tiny, recorded, steps=1)
    there = call("SAGMaskPreview", trace=trace, latent={"samples": samples}, step=-1, style="heatmap")
    image = {"image": torch.rand(len(there[1]), 40, 60, 3)} if with_image else {}
    there, gone = (call("SAGMaskPreview", trace=trace, latent={"samples": latent}, step=-1, style="heatmap", **image)
                   for latent in (samples, samples + 1))
    assert [t.shape for t in gone] == [t.shape for t in there]


def test_a_step_that_is_not_there_is_still_refused():
    """That is no run that is gone, but a number that a user has to change."""
    tiny = models.sd15()
    recorded, trace = record(tiny.model)
    latent = {"samples": sample(tiny, recorded, steps=1)}
    with pytest.raises(ValueError, match="step is 1; this run has steps 0 to 0"):
        call("SAGMaskPreview", trace=trace, latent=latent, step=1, style="heatmap")


@pytest.fixture
def in_files(monkeypatch):
    """Traces that keep their latest run alone in memory."""
    for module in ("host.patch", "host.sampler"):
        trace = pack_module(module).AttentionTrace
        monkeypatch.setattr(pack_module(module), "AttentionTrace",
                            lambda folder, make=trace, **_: make(folder, memory=0))


def test_runs_in_files_are_those_that_were_recorded(in_files):
    import folder_paths

    tiny = models.sd15()
    outs, expected = [], []
    guided, trace = guide(tiny.model, mask_options=call("SAGMaskOptions", strategy="self-attention", softness=0.5)[0])
    for seed in range(4):
        outs.append(sample(tiny, guided, seed=seed, steps=2))
        expected.append(trace.find(outs[-1]))  # the latest, in memory
    folder = pack_module("host.files").runs_folder()
    assert str(folder).startswith(folder_paths.get_temp_directory()) and len(list(folder.rglob("*.safetensors"))) >= 3
    for out, before in zip(outs, expected, strict=True):
        after = trace.find(out)
        assert [(s.sigma, s.layer, s.branch, s.guided) for s in after.steps] == [
            (s.sigma, s.layer, s.branch, s.guided) for s in before.steps]
        for one, other in zip(after.steps, before.steps, strict=True):
            assert torch.equal(one.attn_map, other.attn_map) and torch.equal(one.mask, other.mask)
        assert call("SAGMaskPreview", trace=trace, latent={"samples": out}, step=-1, style="mask")[1].any()


def test_a_run_that_cannot_be_put_into_a_file_is_sampled_all_the_same(in_files, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder", "utf-8")
    for module in ("host.patch", "host.sampler"):
        monkeypatch.setattr(pack_module(module), "runs_folder", lambda: tmp_path / "file")
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    outs = [sample(tiny, guided, seed=seed, steps=1) for seed in range(4)]
    assert all(trace.find(out) for out in outs)
    said = [record for record in caplog.records if "cannot be put into a file" in record.getMessage()]
    assert len(said) == 1 and any("cannot be put into a file" in note for note in trace.recordings[1].notes)
