"""Ways to sample one model, each as a patched MODEL, and what they cost side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from benchmarks.host import call
from benchmarks.measure import Spread, network_calls, peak_memory, ratio, seconds, settled
from benchmarks.models import Shape, Subject, build


@dataclass(frozen=True)
class Variant:
    """A way to sample.

    Args:
        title: for people.
        patch: a MODEL -> the same, patched.
        unet_only: the node patches U-Nets alone.
    """

    title: str
    patch: Callable[[object], object]
    unet_only: bool = False


@dataclass(frozen=True)
class Cost:
    """What one way to sample a model costs.

    Args:
        calls: rows of the batch in each call of the network in one step.
        step: milliseconds a step, the run's own share included.
        over: how much longer a run takes than each of the others.
        peak: bytes at the peak of a run, without the weights.
    """

    calls: tuple[int, ...]
    step: Spread
    over: dict[str, Spread]
    peak: int


Costs = dict[str, "Cost | None"]
"""By variant; None where it does nothing for this kind of model."""


@settled()
def measure_model(shape: Shape, device: str, steps: int, repeats: int, say: Callable[[str], None]) -> Costs:
    """Sample a model in every way."""
    subject = build(shape)
    variants = {name: variant for name, variant in VARIANTS.items() if not (variant.unet_only and shape.transformer)}
    runs = {name: partial(sample, subject, variant.patch(subject.model), steps) for name, variant in variants.items()}
    sample(subject, subject.model, steps=1)  # what libraries allocate once is not of the first variant
    calls, peaks = {}, {}
    for name, run in runs.items():
        with network_calls(subject.model.model.diffusion_model) as rows:
            peaks[name] = peak_memory(run, device)  # warms it up as well
        calls[name] = tuple(rows[:len(rows) // steps])
        say(f"{variants[name].title}: {len(rows)} calls of the network in {steps} steps; memory measured")
    taken = seconds(runs, repeats, device, say)
    costs: Costs = dict.fromkeys(VARIANTS)
    for name, values in taken.items():
        over = {base: ratio(taken, name, base) for base in taken}
        costs[name] = Cost(calls[name], Spread.of([1e3 * value / steps for value in values]), over, peaks[name])
    return costs


def sample(subject: Subject, model, steps: int) -> Tensor:
    """KSampler, Euler, at CFG 5: the samples."""
    (result,) = call("KSampler", model=model, seed=1, steps=steps, cfg=5.0, sampler_name="euler", scheduler="simple",
                     positive=subject.positive, negative=subject.negative, latent_image={"samples": subject.latent})
    return result["samples"]


def _plain(model):
    return model.clone()


def _floor(model):
    """The least that guidance with a second pass can cost: run it on one branch and throw the result away."""
    import comfy.samplers

    def post_cfg(args: dict) -> Tensor:
        comfy.samplers.calc_cond_batch(
            args["model"], [None, args["uncond"]], args["input"], args["sigma"], args["model_options"])
        return args["denoised"]

    model = model.clone()
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


def _sag(model):
    return call("SAGGuidance", model=model, scale=0.5, blur_sigma=2.0, threshold=1.0)[0]


def _record(model):
    return call("SAGRecordAttention", model=model)[0]


def _builtin(model):
    return call("SelfAttentionGuidance", model=model, scale=0.5, blur_sigma=2.0)[0]


def _pag(model):
    return call("PerturbedAttentionGuidance", model=model, scale=3.0)[0]


PLAIN, FLOOR, SAG, BUILTIN, PAG, RECORD = "plain", "floor", "sag", "builtin", "pag", "record"
VARIANTS = {
    PLAIN: Variant("CFG", _plain),
    FLOOR: Variant("CFG + second pass, thrown away (the floor)", _floor),
    SAG: Variant("CFG + SAG, this pack", _sag),
    BUILTIN: Variant("CFG + SAG, ComfyUI's own", _builtin, unet_only=True),
    PAG: Variant("CFG + PAG, ComfyUI's own", _pag, unet_only=True),
    RECORD: Variant("CFG + recording, this pack", _record)}
