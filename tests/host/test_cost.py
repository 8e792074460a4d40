"""The benchmark measures what it says: networks of the published sizes, each variant's passes, memory to the byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comfy.ldm.modules import attention

from benchmarks import cost, models, recording, report, sampling
from benchmarks.measure import Spread, peak_memory, ratio, seconds, settled

PARAMETERS = {"sd15": 859_520_964, "sdxl": 2_567_463_684, "flux": 11_901_408_320}
SHALLOW = {
    "sd15": {"num_res_blocks": [1, 1, 1, 1], "transformer_depth": [0, 0, 1, 0],
             "transformer_depth_output": [0, 0, 0, 0, 1, 1, 0, 0]},
    "sdxl": {"transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_middle": 1,
             "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1]},
    "flux": {"depth": 2, "depth_single_blocks": 2}}
PASSES = {sampling.PLAIN: (2,), sampling.FLOOR: (2, 1), sampling.SAG: (2, 1), sampling.BUILTIN: (2, 1),
          sampling.PAG: (2, 1), sampling.RECORD: (2,)}
MIB = 2 ** 20


def shallow(name: str) -> models.Shape:
    shape = models.SHAPES[name]
    return replace(shape, network=shape.network | SHALLOW[name])


def toy(name: str) -> models.Shape:
    return shallow(name).on("cpu").small()


def quiet(text: str) -> None:
    pass


@pytest.mark.parametrize("name", models.SHAPES)
def test_the_networks_have_as_many_parameters_as_the_published_ones(name):
    network = models.empty(models.SHAPES[name], torch.device("meta")).diffusion_model
    assert sum(weight.numel() for weight in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", models.SHAPES)
def test_narrow_networks_have_the_same_modules(name):
    full, narrow = ([*dict(models.empty(shape, torch.device("meta")).diffusion_model.named_modules())]
                    for shape in (models.SHAPES[name], models.SHAPES[name].on("cpu")))
    assert narrow == full


@pytest.mark.parametrize("name", models.SHAPES)
def test_every_variant_does_what_it_says(name):
    shape = toy(name)
    costs = sampling.measure_model(shape, "cpu", steps=2, repeats=1, say=quiet)
    unavailable = {sampling.BUILTIN, sampling.PAG} if shape.transformer else set()
    assert {variant for variant, found in costs.items() if found is None} == unavailable
    assert {variant: found.calls for variant, found in costs.items() if found is not None} == {
        variant: calls for variant, calls in PASSES.items() if variant not in unavailable}
    table = report.cost_table(costs).splitlines()
    assert len(table) == 2 + len(sampling.VARIANTS)
    assert {len(line) for line in table} == {len(table[0])}
    assert sum("n/a" in line for line in table) == len(unavailable)


def test_only_guidance_changes_the_samples():
    subject = models.build(toy("sd15"))
    samples = {name: sampling.sample(subject, variant.patch(subject.model), steps=2)
               for name, variant in sampling.VARIANTS.items()}
    plain = samples[sampling.PLAIN]
    assert plain.isfinite().all()
    same = {name for name, other in samples.items() if torch.equal(other, plain)}
    assert same == {sampling.PLAIN, sampling.FLOOR, sampling.RECORD}


def test_the_report_holds_every_model_and_target(monkeypatch):
    monkeypatch.setitem(models.SHAPES, "sd15", shallow("sd15"))
    pieces = cost.measure(cost.arguments(["--quick", "--device", "cpu", "--models", "sd15", "--repeats", "1"]))
    for title in ("SD 1.5: latent 16 x 16, 64 channels, float32", "One attention call", "Targets"):
        assert f"**{title}" in pieces
    targets = [line for line in pieces.splitlines() if line.startswith("| SD 1.5")]
    assert len(targets) == 5
    assert all("met" in line or "missed" in line for line in targets)


def test_a_row_of_the_targets_says_where_the_rounds_disagree():
    assert report._limit("t", Spread(0.9, 1.0, 1.01), 1.02)[-1] == "met"
    assert report._limit("t", Spread(0.9, 1.0, 1.03), 1.02)[-1] == "met, within the noise"
    assert report._limit("t", Spread(1.0, 1.03, 1.04), 1.02)[-1] == "missed, within the noise"
    assert report._limit("t", Spread(1.03, 1.04, 1.05), 1.02)[-1] == "missed"


def test_memory_is_counted_to_the_byte():
    kept = [torch.empty(4 * MIB)]

    def run() -> None:
        first = torch.empty(2 * MIB, dtype=torch.uint8)
        second = torch.empty(3 * MIB, dtype=torch.uint8)
        del first, second
        kept.append(torch.empty(4 * MIB, dtype=torch.uint8))

    assert peak_memory(run, "cpu") == 5 * MIB
    assert peak_memory(run, "cpu") == 5 * MIB  # what the first run kept is not of the second
    assert peak_memory(lambda: kept.clear(), "cpu") == 0


def test_this_packs_recording_takes_less_memory_than_the_builtin(monkeypatch):
    # What the tests' host takes on a CPU holds all probabilities itself.
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    found = recording.measure_recording(1024, "cpu", repeats=1, say=quiet)
    assert 0 < found.pack < found.builtin
    # All probabilities of both rows at least, in float32.
    assert found.builtin >= recording.ROWS * recording.HEADS * 1024 ** 2 * 4


def test_rounds_are_interleaved_and_change_their_order():
    calls = []
    with settled():
        taken = seconds({name: lambda name=name: calls.append(name) for name in "abc"}, 8, "cpu", quiet)
    rounds = [tuple(calls[i:i + 3]) for i in range(0, len(calls), 3)]
    assert all(set(order) == set("abc") for order in rounds)
    assert len(set(rounds)) > 2
    assert {name: len(times) for name, times in taken.items()} == {"a": 8, "b": 8, "c": 8}


def test_ratios_are_of_the_same_round():
    taken = {"a": [2.0, 20.0, 200.0], "b": [1.0, 10.0, 100.0]}
    assert ratio(taken, "a", "b") == Spread(2.0, 2.0, 2.0)


def test_the_report_takes_the_place_of_the_last_one(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- cpu: begin -->\nold\n<!-- cpu: end -->\nz\n", "utf-8")
    report.write(readme, "cpu", "new")
    report.write(readme, "cpu", "newer")
    assert readme.read_text("utf-8") == "a\n<!-- cpu: begin -->\nnewer\n<!-- cpu: end -->\nz\n"
    with pytest.raises(ValueError, match="cuda: begin"):
        report.write(readme, "cuda", "new")


@pytest.mark.parametrize(("given", "message"), [
    (["--models", "sd15,sd3"], "no sd3"), (["--quick", "--write"], "--quick")])
def test_wrong_options_are_refused(given, message, capsys):
    with pytest.raises(SystemExit):
        cost.arguments(given)
    assert message in capsys.readouterr().err
