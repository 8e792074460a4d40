"""Traces: the right run is found, files round trip, and what is not a trace is refused by name."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from sag_core.trace import FORMAT, AttentionTrace, Recording, Step, fingerprint, levels


def recording(samples, maps, size, **fields):
    steps = [Step(10.0 / (i + 1), attn_map, "middle.0", ("uncond", "cond")[i % 2], i % 3 == 0)
             for i, attn_map in enumerate(maps)]
    return Recording(size, steps=steps, results={fingerprint(samples)}, **fields)


def trace_of(*recordings):
    trace = AttentionTrace()
    for each in recordings:
        trace.add(each)
    return trace


@pytest.fixture
def saved(normal, tmp_path):
    """A small trace on disk, and its samples."""
    samples = normal(1, 4, 8, 8, dtype=torch.float32)
    path = tmp_path / "saved.safetensors"
    trace_of(recording(samples, [normal(1, 2, 2)], (8, 8))).save(path, samples)
    return path, samples


@pytest.mark.parametrize(("size", "grid"), [((8, 12), (2, 3)), ((5, 8, 12), (5, 2, 3))], ids=["image", "video"])
@pytest.mark.parametrize("samples_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_save_and_load_round_trip(normal, tmp_path, size, grid, samples_dtype):
    samples = normal(2, 4, *size, dtype=samples_dtype)
    maps = [normal(2, *grid, dtype=torch.float32) for _ in range(12)]
    before = recording(samples, maps, size, threshold=1.25, notes=["no middle block; used input.4"])
    trace_of(before).save(tmp_path / "t.safetensors", samples)
    trace, loaded = AttentionTrace.load(tmp_path / "t.safetensors")

    assert loaded.dtype == samples_dtype and torch.equal(loaded, samples)
    after = trace.find(samples)
    for name in ("size", "threshold", "notes", "results"):
        assert getattr(after, name) == getattr(before, name)
    assert len(after.steps) == 12
    for one, other in zip(after.steps, before.steps, strict=True):
        assert torch.equal(one.attn_map, other.attn_map)
        for name in ("sigma", "layer", "branch", "guided"):
            assert getattr(one, name) == getattr(other, name)


def test_saved_run_is_the_one_of_the_samples(normal, tmp_path):
    first, second = normal(1, 4, 8, 8), normal(1, 4, 8, 8)
    maps = [normal(1, 2, 2), normal(1, 2, 2)]
    trace = trace_of(recording(first, maps[:1], (8, 8)), recording(second, maps[1:], (8, 8)))
    trace.save(tmp_path / "t.safetensors", second)
    loaded, samples = AttentionTrace.load(tmp_path / "t.safetensors")
    assert torch.equal(samples, second)
    assert torch.equal(loaded.find(second).attn_map(0), maps[1])


def test_maps_that_share_memory_can_be_saved(normal, tmp_path):
    # A step that a cache node skipped may repeat the map before it.
    samples, both = normal(2, 4, 8, 8), normal(2, 2, 2)
    trace_of(recording(samples, [both, both[:, :1], both, both.transpose(1, 2)], (8, 8))).save(tmp_path / "t", samples)
    loaded = AttentionTrace.load(tmp_path / "t")[0].find(samples)
    assert torch.equal(loaded.attn_map(2), both) and torch.equal(loaded.attn_map(3), both.transpose(1, 2))


def test_an_existing_file_is_never_overwritten(normal, tmp_path):
    samples, path = normal(1, 4, 8, 8), tmp_path / "taken.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="taken.safetensors"):
        trace_of(recording(samples, [normal(1, 2, 2)], (8, 8))).save(path, samples)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("maps", [[], None], ids=["no steps", "other samples"])
def test_nothing_is_written_where_there_is_nothing_to_save(normal, tmp_path, maps):
    samples = normal(1, 4, 8, 8)
    trace = trace_of(recording(samples, [normal(1, 2, 2)] if maps is None else maps, (8, 8)))
    with pytest.raises(ValueError):
        trace.save(tmp_path / "t", samples + 1 if maps is None else samples)
    assert not (tmp_path / "t").exists()


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("damage", ["empty", "text", "zip", "cut in the header", "cut in the data"])
def test_damaged_file_is_refused_by_name(saved, damage):
    path, whole = saved[0], saved[0].read_bytes()
    path.write_bytes({"empty": b"", "text": b"not a trace", "zip": b"PK\x03\x04" + bytes(100),
                      "cut in the header": whole[:40], "cut in the data": whole[:-1]}[damage])
    with pytest.raises(ValueError, match="saved.safetensors"):
        AttentionTrace.load(path)


@pytest.mark.parametrize("write", [
    lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save], ids=["pickle", "torch.save"])
def test_pickle_is_refused_by_name_and_never_run(tmp_path, write):
    path, exploded = tmp_path / "bomb.safetensors", tmp_path / "exploded"
    write(Bomb(exploded), path)
    with pytest.raises(ValueError, match="bomb.safetensors"):
        AttentionTrace.load(path)
    assert not exploded.exists()


def test_missing_file_and_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "nowhere.safetensors", tmp_path):
        with pytest.raises(ValueError, match=path.name):
            AttentionTrace.load(path)


def contents(path):
    """Tensors and metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def without(key):
    return lambda description: {name: value for name, value in description.items() if name != key}


def with_step(**fields):
    return lambda description: description | {"steps": [description["steps"][0] | fields]}


@pytest.mark.parametrize("change", [
    *[without(key) for key in ("size", "threshold", "notes", "steps")],
    lambda description: [],
    lambda description: None,
    lambda description: description | {"size": None},
    lambda description: description | {"size": [4096, 4096]},
    lambda description: description | {"threshold": "1"},
    lambda description: description | {"threshold": math.nan},
    lambda description: description | {"steps": 3},
    lambda description: description | {"steps": [{}]},
    lambda description: description | {"steps": description["steps"] * 2},
    with_step(surprise=1),
], ids=["no size", "no threshold", "no notes", "no steps", "list", "null", "size null", "another size",
        "threshold text", "threshold nan", "steps 3", "step empty", "more steps than maps", "unknown field"])
def test_trace_with_a_wrong_description_is_refused_by_name(saved, tmp_path, change):
    tensors, metadata = contents(saved[0])
    same, changed = tmp_path / "same.safetensors", tmp_path / "changed.safetensors"
    save_file(tensors, same, metadata)
    assert torch.equal(AttentionTrace.load(same)[1], saved[1])
    description = change(json.loads(metadata["recording"]))
    save_file(tensors, changed, metadata | {"recording": json.dumps(description)})
    with pytest.raises(ValueError, match="changed.safetensors"):
        AttentionTrace.load(changed)


@pytest.mark.parametrize("attn_map", [
    torch.ones(1, 4), torch.ones(1, 0, 4), torch.ones(2, 2, 2), torch.ones(1, 2, 9),
    torch.ones(1, 2, 2, dtype=torch.int), torch.full((1, 2, 2), torch.nan)
], ids=["flat", "no tokens", "other batch", "finer than pixels", "integer", "nan"])
def test_trace_with_something_else_for_a_map_is_refused_by_name(saved, tmp_path, attn_map):
    tensors, metadata = contents(saved[0])
    save_file(tensors | {"steps.0": attn_map}, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(ValueError, match="odd.safetensors.*step 0 holds no attention map"):
        AttentionTrace.load(tmp_path / "odd.safetensors")


def test_trace_of_no_samples_is_refused_by_name(saved, tmp_path):
    """A few bytes that would be drawn as gigabytes."""
    tensors, metadata = contents(saved[0])
    description = json.loads(metadata["recording"]) | {"size": [10 ** 6, 10 ** 6]}
    save_file(tensors | {"samples": torch.ones(0, 4, 10 ** 6, 10 ** 6)}, tmp_path / "huge.safetensors",
              metadata | {"recording": json.dumps(description)})
    with pytest.raises(ValueError, match="huge.safetensors"):
        AttentionTrace.load(tmp_path / "huge.safetensors")


@pytest.mark.parametrize("metadata", [
    None, {"format": "pt"}, {"format": FORMAT}, {"format": FORMAT, "recording": "{"}], ids=str)
def test_other_safetensors_file_is_refused_by_name(tmp_path, metadata):
    save_file({"samples": torch.ones(1, 4, 8, 8)}, tmp_path / "model.safetensors", metadata)
    with pytest.raises(ValueError, match="model.safetensors"):
        AttentionTrace.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("form", ["sag-trace-0", "sag-trace-2", ""])
def test_trace_of_another_format_is_refused_by_name(saved, tmp_path, form):
    tensors, metadata = contents(saved[0])
    save_file(tensors, tmp_path / "newer.safetensors", metadata | {"format": form})
    with pytest.raises(ValueError, match="newer.safetensors"):
        AttentionTrace.load(tmp_path / "newer.safetensors")


@pytest.mark.parametrize("missing", ["samples", "steps.0"])
def test_trace_without_its_tensors_is_refused_by_name(saved, tmp_path, missing):
    tensors, metadata = contents(saved[0])
    del tensors[missing]
    save_file(tensors, tmp_path / "part.safetensors", metadata)
    with pytest.raises(ValueError, match="part.safetensors"):
        AttentionTrace.load(tmp_path / "part.safetensors")


# -- masks -----------------------------------------------------------------------------------------------------------


def masked(samples, maps, masks, size, **fields):
    """A run whose steps blurred something of their own; None for those that did not."""
    run = recording(samples, maps, size, **fields)
    run.plain = False
    run.steps[:] = [replace(step, mask=None if mask is None else levels(mask))
                    for step, mask in zip(run.steps, masks, strict=True)]
    return run


@pytest.fixture
def saved_masks(normal, tmp_path):
    """A trace of three steps on disk, the second without a mask, and the run."""
    samples = normal(2, 4, 6, 8, dtype=torch.float32)
    masks = [torch.rand(2, 6, 8), None, torch.ones(2, 6, 8)]
    run = masked(samples, [normal(2, 3, 4) for _ in range(3)], masks, (6, 8))
    trace_of(run).save(tmp_path / "masks.safetensors", samples)
    return tmp_path / "masks.safetensors", run, samples


def test_mask_of_a_step_and_the_mean_of_all_by_hand():
    masks = [torch.tensor([[[1.0, 0.0]]]), None, torch.tensor([[[0.2, 0.4]]])]
    run = masked(torch.ones(1), [torch.ones(1, 1, 1)] * 3, masks, (1, 2))
    for step, expected in ((0, [1.0, 0.0]), (1, [0.0, 0.0]), (2, [0.2, 0.4]), (-1, [0.4, 0.4 / 3])):
        assert_close(run.mask(step), torch.tensor(expected).view(1, 1, 1, 2))


def test_mask_is_put_away_in_256_levels():
    kept = levels(torch.linspace(0, 1, 256).view(1, 2, 128))
    assert kept.dtype == torch.uint8 and kept.flatten().tolist() == list(range(256))


@pytest.mark.parametrize(("size", "grid"), [((4, 6), (2, 3)), ((2, 4, 6), (2, 2, 3))], ids=["image", "video"])
def test_mask_of_a_run_that_knows_but_a_threshold_is_where_its_maps_are_above_it(normal, size, grid):
    maps = [normal(2, *grid).exp() for _ in range(3)]
    run = recording(torch.ones(1), maps, size, threshold=1.3)
    for step, attn_map in ((0, maps[0]), (2, maps[2]), (-1, sum(maps) / 3)):
        above = (attn_map > 1.3).float().repeat_interleave(2, -2).repeat_interleave(2, -1)[:, None]
        assert torch.equal(run.mask(step), above)


def test_mask_of_a_run_that_blurred_nothing_is_empty():
    run = masked(torch.ones(1), [torch.full((1, 2, 2), 5.0)] * 2, [None, None], (4, 4))
    assert not run.mask().any() and not run.mask(0).any()


@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 3, 6, 8)], ids=["image", "video"])
def test_masks_have_the_shape_of_the_sample(shape):
    run = masked(torch.ones(1), [torch.ones(2, *[1] * (len(shape) - 1))] * 2, [torch.ones(shape), None], shape[1:])
    for step in (-1, 0, 1):
        mask = run.mask(step)
        assert mask.shape == (2, 1, *shape[1:]) and mask.dtype == torch.float32


@pytest.mark.parametrize("step", [3, -2])
def test_mask_of_a_step_that_is_not_there_is_refused_by_name(step):
    for masks in ([torch.ones(1, 2, 2)] * 3, [None] * 3):
        run = masked(torch.ones(1), [torch.ones(1, 2, 2)] * 3, masks, (2, 2))
        with pytest.raises(ValueError, match=f"step is {step}; this run has steps 0 to 2"):
            run.mask(step)


def test_mask_of_a_run_without_steps_says_why():
    with pytest.raises(ValueError, match="no steps: this model has no softmax attention"):
        Recording((8, 8), notes=["this model has no softmax attention"]).mask()


def test_masks_are_saved_and_loaded(saved_masks):
    path, before, samples = saved_masks
    after = AttentionTrace.load(path)[0].find(samples)
    for step, kept in zip(after.steps, before.steps, strict=True):
        assert (step.mask is None) == (kept.mask is None)
        assert step.mask is None or torch.equal(step.mask, kept.mask)
    for step in (-1, 0, 1, 2):
        assert torch.equal(after.mask(step), before.mask(step))


def test_masks_of_a_video_are_saved_and_loaded(normal, tmp_path):
    samples, mask = normal(1, 4, 3, 6, 8), torch.rand(1, 3, 6, 8)
    run = masked(samples, [normal(1, 3, 3, 4)], [mask], (3, 6, 8))
    trace_of(run).save(tmp_path / "t", samples)
    loaded = AttentionTrace.load(tmp_path / "t")[0].find(samples)
    assert_close(loaded.mask(0), mask[:, None], rtol=0, atol=0.5 / 255 + 1e-6)


def test_a_loaded_trace_can_be_saved_again(saved_masks, tmp_path):
    path, before, samples = saved_masks
    AttentionTrace.load(path)[0].save(tmp_path / "again", samples)
    assert torch.equal(AttentionTrace.load(tmp_path / "again")[0].find(samples).mask(), before.mask())


def test_masks_that_share_memory_can_be_saved(normal, tmp_path):
    samples, mask = normal(1, 4, 6, 8), torch.ones(1, 6, 8, dtype=torch.uint8)
    run = recording(samples, [normal(1, 3, 4), normal(1, 3, 4)], (6, 8))
    run.steps[:] = [replace(step, mask=mask) for step in run.steps]
    trace_of(run).save(tmp_path / "t", samples)
    assert torch.equal(AttentionTrace.load(tmp_path / "t")[0].find(samples).steps[1].mask, mask)


def test_a_run_without_masks_is_saved_as_before(saved):
    tensors, _ = contents(saved[0])
    assert set(tensors) == {"steps.0", "samples"}


@pytest.mark.parametrize("mask", [
    torch.ones(2, 6, 8), torch.ones(2, 6, 8, dtype=torch.int8), torch.ones(2, 6, 8, dtype=torch.bool),
    torch.ones(1, 6, 8, dtype=torch.uint8), torch.ones(2, 6, 9, dtype=torch.uint8),
    torch.ones(2, 48, dtype=torch.uint8), torch.ones(2, 1, 6, 8, dtype=torch.uint8), torch.ones(0, dtype=torch.uint8),
], ids=["floats", "signed", "bool", "other batch", "other size", "flat", "channels", "empty"])
@pytest.mark.parametrize("step", [0, 1])
def test_trace_with_something_else_for_a_mask_is_refused_by_name(saved_masks, tmp_path, mask, step):
    tensors, metadata = contents(saved_masks[0])
    save_file(tensors | {f"masks.{step}": mask}, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(ValueError, match=f"odd.safetensors.*step {step} holds no mask"):
        AttentionTrace.load(tmp_path / "odd.safetensors")


def test_find_knows_a_run_by_any_of_its_results(normal):
    runs = [recording(normal(1, 4, 8, 8), [], (8, 8)) for _ in range(2)]
    other = normal(1, 4, 8, 8)
    runs[1].results.add(fingerprint(other))
    assert trace_of(*runs).find(other.float().double()) is runs[1]


def test_find_says_that_the_trace_is_empty():
    with pytest.raises(ValueError, match="trace is empty: no sampler has run"):
        AttentionTrace().find(torch.ones(1, 4, 8, 8))


def test_find_says_which_samples_are_not_of_a_run(normal):
    samples = normal(1, 4, 8, 8)
    trace = trace_of(recording(samples, [], (8, 8)))
    with pytest.raises(ValueError, match=r"shape \(1, 4, 8, 8\) is not the result of a run"):
        trace.find(samples + 1)


def test_map_of_a_step_or_the_mean_of_all():
    maps = [torch.full((1, 1, 2), value) for value in (1.0, 2.0, 6.0)]
    run = recording(torch.ones(1), maps, (8, 16))
    assert [run.attn_map(i)[0, 0, 0].item() for i in range(3)] == [1, 2, 6]
    assert_close(run.attn_map(), torch.full((1, 1, 2), 3.0))


def test_mean_of_maps_on_different_grids_is_taken_on_the_finest():
    maps = [torch.tensor([[[9.0, 9.0], [6.0, 6.0]]]), torch.full((1, 1, 2), 1.0), torch.full((1, 1, 2), 2.0)]
    assert_close(recording(torch.ones(1), maps, (8, 16)).attn_map(), torch.tensor([[[4.0, 4.0], [3.0, 3.0]]]))


def test_a_run_with_the_same_result_takes_the_place_of_the_old_one(normal):
    samples, other = normal(1, 4, 8, 8), normal(1, 4, 8, 8)
    old, between, new = (recording(x, [normal(1, 2, 2)], (8, 8)) for x in (samples, other, samples))
    trace = trace_of(old, between, new)
    assert trace.find(samples) is new and trace.find(other) is between
    assert trace.recordings == [between, new]


@pytest.mark.parametrize("step", [3, 100, -2])
def test_step_that_is_not_there_is_refused_by_name(normal, step):
    run = recording(torch.ones(1), [normal(1, 2, 2) for _ in range(3)], (8, 8))
    with pytest.raises(ValueError, match=f"step is {step}; this run has steps 0 to 2"):
        run.attn_map(step)


def test_run_without_steps_says_why():
    with pytest.raises(ValueError, match="no steps: nothing was recorded"):
        Recording((8, 8)).attn_map()
    with pytest.raises(ValueError, match="no steps: this model has no softmax attention"):
        Recording((8, 8), notes=["this model has no softmax attention"]).attn_map()


@pytest.mark.parametrize("element", [0, 77, -1])
def test_fingerprint_changes_with_one_bit_of_one_element(normal, element):
    samples = normal(2, 3, 5, 7, dtype=torch.float32)
    changed = samples.clone()
    changed.view(-1)[element] = torch.nextafter(changed.view(-1)[element], torch.tensor(100.0))
    assert fingerprint(changed) != fingerprint(samples)


def test_fingerprint_changes_with_the_shape():
    shapes = [(1, 4, 2, 3), (1, 4, 3, 2), (4, 2, 3), (1, 4, 2, 2)]
    assert len({fingerprint(torch.zeros(shape)) for shape in shapes}) == 4


def test_fingerprint_is_that_of_the_values(normal, dtype):
    samples = normal(2, 3, 5, 7).to(dtype)
    strided = samples.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    assert fingerprint(samples) == fingerprint(samples.float()) == fingerprint(strided) == fingerprint(samples.clone())
    assert fingerprint(samples) == fingerprint(samples.requires_grad_())
