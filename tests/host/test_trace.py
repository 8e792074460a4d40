"""Which run a trace shows, and traces on disk."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext

import nodes
from tests.host import models
from tests.host.graph import call, guide, maps, only, record, sample, sample_basic


@pytest.fixture
def tiny():
    return models.sd15()


@contextmanager
def as_node(node_id, list_index=0):
    """Inside a node of a graph, as the executor runs it."""
    with CurrentNodeContext("prompt", node_id, list_index):
        yield


def preview(trace, samples, step=-1, style="heatmap", **inputs):
    return call("SAGMaskPreview", trace=trace, latent={"samples": samples}, step=step, style=style, **inputs)


def test_trace_of_a_run_knows_its_output_and_what_it_was(tiny):
    guided, trace = guide(tiny.model, threshold=1.3, end_percent=0.4)
    out = sample(tiny, guided, steps=3)
    recording = trace.find(out)
    assert recording is only(trace)
    assert (recording.size, recording.threshold, recording.notes) == ((16, 24), 1.3, [])
    assert [(s.layer, s.branch, s.guided) for s in recording.steps] == [
        ("middle.0", "uncond", True), ("middle.0", "uncond", True), ("middle.0", "uncond", False)]
    assert [s.sigma for s in recording.steps] == sorted((s.sigma for s in recording.steps), reverse=True)


def test_two_samplers_share_a_patched_model(tiny):
    """The hires second pass: each LATENT shows its own run."""
    guided, trace = guide(tiny.model)
    with as_node("3"):
        first = sample(tiny, guided)
    with as_node("5"):
        second = sample(tiny.sized(24, 36), guided, steps=3)
    assert len(trace.recordings) == 2
    assert trace.find(first).size == (16, 24) and len(trace.find(first).steps) == 2
    assert trace.find(second).size == (24, 36) and len(trace.find(second).steps) == 3
    assert preview(trace, first)[1].shape == (1, 16, 24)
    assert preview(trace, second)[1].shape == (1, 24, 36)


def test_same_size_runs_of_two_samplers_are_told_apart(tiny):
    guided, trace = guide(tiny.model)
    with as_node("3"):
        first = sample(tiny, guided, seed=1)
    with as_node("5"):
        second = sample(tiny, guided, seed=2)
    assert trace.find(first) is not trace.find(second)
    assert not torch.equal(trace.find(first).steps[0].attn_map, trace.find(second).steps[0].attn_map)


def test_items_of_a_list_are_runs_of_their_own(tiny):
    guided, trace = guide(tiny.model)
    outs = []
    for index in range(2):
        with as_node("3", index):
            outs.append(sample(tiny, guided, seed=index))
    assert trace.find(outs[0]) is not trace.find(outs[1])


def test_a_new_run_of_a_node_has_none_of_the_old_steps(tiny):
    guided, trace = guide(tiny.model)
    with as_node("3"):
        old = sample(tiny, guided, seed=1)
        new = sample(tiny, guided, seed=2, steps=3)
    assert len(trace.find(new).steps) == 3 and trace.find(new) is only(trace)
    # The graph may come back to the old result, which the host has cached: its preview still works.
    assert len(trace.find(old).steps) == 2 and preview(trace, old)


def test_the_same_run_again_replaces_itself(tiny):
    guided, trace = guide(tiny.model)
    first, second = sample(tiny, guided), sample(tiny, guided)
    assert torch.equal(first, second) and len(trace.recordings) == 1


def test_the_denoised_output_is_recognised_too(tiny):
    recorded, trace = record(tiny.model)
    (guider,) = call("BasicGuider", model=recorded, conditioning=tiny.positive)
    (noise,), (sampler,) = call("RandomNoise", noise_seed=1), call("KSamplerSelect", sampler_name="euler")
    (sigmas,) = call("BasicScheduler", model=recorded, scheduler="simple", steps=4, denoise=1.0)
    out, denoised = call("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas[:3],
                         latent_image={"samples": tiny.latent})
    assert not torch.equal(out["samples"], denoised["samples"])
    assert trace.find(out["samples"]) is trace.find(denoised["samples"]) is only(trace)


def test_a_latent_of_elsewhere_is_not_taken_for_a_run(tiny):
    guided, trace = guide(tiny.model)
    with pytest.raises(ValueError, match="the trace is empty: no sampler has run"):
        trace.find(torch.zeros(1, 4, 16, 24))
    out = sample(tiny, guided)
    other = sample(tiny)
    for samples in (other, out + 1, out[:, :, :8], torch.zeros_like(out)):
        with pytest.raises(ValueError, match="not the result of a run in this trace"):
            trace.find(samples)
    assert trace.find(out.clone())


def save(trace, samples, prefix="maps"):
    call("SAGSaveTrace", trace=trace, latent={"samples": samples}, filename_prefix=prefix)


@pytest.mark.parametrize("batch", [1, 2])
def test_saved_and_loaded_a_trace_is_the_same(tiny, output_folder, batch):
    guided, trace = guide(tiny.model, threshold=1.2, layer="output.0, input.1", end_percent=0.4)
    out = sample(tiny.sized(batch=batch), guided, steps=3)
    save(trace, out)
    loaded, latent = call("SAGLoadTrace", trace_name="maps_00001_.sag.safetensors [output]")
    assert torch.equal(latent["samples"], out)
    assert torch.equal(maps(loaded), maps(trace))
    ours, theirs = only(trace), only(loaded)
    assert (ours.size, ours.threshold, ours.notes) == (theirs.size, theirs.threshold, theirs.notes)
    assert [(s.sigma, s.layer, s.branch, s.guided) for s in ours.steps] == [
        (s.sigma, s.layer, s.branch, s.guided) for s in theirs.steps]
    for style in ("heatmap", "mask", "overlay", "sheet"):
        for a, b in zip(preview(trace, out, 1, style), preview(loaded, latent["samples"], 1, style), strict=True):
            assert torch.equal(a, b)


def test_traces_are_listed_and_found_in_folders_of_the_output(tiny, output_folder):
    guided, trace = guide(tiny.model)
    out = sample(tiny, guided)
    save(trace, out, "nightly/run")
    node = nodes.NODE_CLASS_MAPPINGS["SAGLoadTrace"]
    name = "nightly/run_00001_.sag.safetensors [output]"
    assert name in node.define_schema().inputs[0].options
    assert node.validate_inputs(trace_name=name) is True
    assert "neither the output nor the input folder" in node.validate_inputs(trace_name="gone.sag.safetensors [output]")
    assert torch.equal(call("SAGLoadTrace", trace_name=name)[1]["samples"], out)


def test_a_file_that_was_written_anew_is_read_again(tiny, output_folder):
    guided, trace = guide(tiny.model)
    save(trace, sample(tiny, guided))
    node, name = nodes.NODE_CLASS_MAPPINGS["SAGLoadTrace"], "maps_00001_.sag.safetensors [output]"
    before = node.fingerprint_inputs(trace_name=name)
    (output_folder / "maps_00001_.sag.safetensors").unlink()
    save(trace, sample(tiny, guided))
    assert node.fingerprint_inputs(trace_name=name) != before


def test_both_outputs_of_a_run_without_a_negative_are_recognised(tiny):
    guided, trace = guide(tiny.model)
    for samples in sample_basic(tiny, guided):
        assert trace.find(samples) is only(trace)
