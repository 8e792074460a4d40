"""How and where the model is run: by wrappers, samplers within samplers, threads, several devices; and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from torch import Tensor
from torch.testing import assert_close

from tests.host.features import FAMILIES, ORDERS, Row, Run, combine, follow, halves
from tests.host.graph import call, guide, maps, only, sample
from tests.host.observe import hooks_on, network_calls


@pytest.fixture(params=FAMILIES)
def tiny(request):
    return FAMILIES[request.param]()


def wrapped(wrapper: Callable) -> Callable:
    """A node that wraps every call of the network."""
    def node(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(wrapper)
        return model

    return node


def batched(change: Callable[[Tensor], Tensor], c: dict) -> dict:
    """A network's inputs, those that have a batch changed."""
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in c.items()}


# -- wrappers of the network -----------------------------------------------------------------------------------------


def mirrored(apply_model, args):
    """On the sample and its mirror image in one batch; the mean of both."""
    x = args["input"]
    c = batched(lambda t: torch.cat([t, t]), args["c"])
    out = apply_model(torch.cat([x, x.flip(-1)]), args["timestep"].repeat(2), **c)
    return (out[:len(x)] + out[len(x):].flip(-1)) / 2


@pytest.mark.parametrize(("name", "wrapper"), [("tiles", halves), ("batches twice as large", mirrored)])
def test_wrappers_that_show_the_network_something_else(name, wrapper):
    row, other = Row(f"wrappers of the network: {name}", "model_function_wrapper"), wrapped(wrapper)
    for family, build in FAMILIES.items():
        tiny = build()
        plain = sample(tiny, other(tiny.model))
        assert not torch.allclose(plain, sample(tiny), rtol=0, atol=1e-3 * plain.abs().max().item())
        for first in ORDERS:
            run = follow(tiny, *combine(first, tiny.model, other))
            assert torch.equal(run.out, plain) and run.notes and not run.steps
            row.add(family, run)
    row.check("the result is the same, bit for bit")


def noisy_prompts(apply_model, args):
    """Noise on the prompts, as CADS adds it, but for the pass that guidance makes."""
    c = args["c"]
    if not c["transformer_options"].get("sag_pass"):
        noise = torch.randn(c["c_crossattn"].shape[1:], generator=torch.Generator().manual_seed(8))
        c = c | {"c_crossattn": c["c_crossattn"] + noise}
    return apply_model(args["input"], args["timestep"], **c)


def test_wrappers_that_change_the_main_pass_alone():
    row, other = Row("wrappers of the network: noise on the prompts (CADS)", "model_function_wrapper"), wrapped(
        noisy_prompts)
    for family, build in FAMILIES.items():
        tiny = build()
        for first in ORDERS:
            run = follow(tiny, *combine(first, tiny.model, other))
            assert run.is_guided and run.branches == {"uncond"}
            row.add(family, run)
        # With a blur that reaches no pixel's neighbour the extra pass differs by the noise it was spared alone.
        noisy, clean = (sample(tiny, model, steps=1, cfg=1.0, positive=tiny.negative)
                        for model in (other(tiny.model), tiny.model))
        out = sample(tiny, guide(other(tiny.model), blur_sigma=0.05)[0], steps=1)
        expected = 0.5 * (noisy - clean)
        assert_close(out - sample(tiny, other(tiny.model), steps=1), expected, rtol=0,
                     atol=1e-3 * expected.abs().max().item())
    row.check("the extra pass is known by `sag_pass`")


# -- samplers that do more than sample -------------------------------------------------------------------------------


def custom(tiny, model, meanwhile: Callable = lambda *_: None, steps: int = 3, seed: int = 1) -> Tensor:
    """SamplerCustom with Euler's sampler, which does something of its own before every step and after the last."""
    def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            meanwhile(i, model.inner_model, x, sigma.expand(len(x)), extra_args["model_options"])
            denoised = model(x, sigma.expand(len(x)), **extra_args)
            x = denoised + (x - denoised) * following / sigma
        meanwhile(steps, model.inner_model, x, sigma.expand(len(x)), extra_args["model_options"])
        return x

    (sigmas,) = call("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0)
    return call("SamplerCustom", model=model, add_noise=True, noise_seed=seed, cfg=3.0, positive=tiny.positive,
                negative=tiny.negative, sampler=comfy.samplers.KSAMPLER(euler), sigmas=sigmas,
                latent_image={"samples": tiny.latent})[0]["samples"]


def maps_of(trace, samples: Tensor) -> Tensor:
    return torch.stack([step.attn_map for step in trace.find(samples).steps])


def test_sampling_within_sampling():
    """The host needs `pre_run` after the inner run, which has let go of the model."""
    row = Row("sampling within sampling", "SamplerCustom")
    for family, build in FAMILIES.items():
        tiny = build()
        guided, trace = guide(tiny.model)
        alone, inner = custom(tiny, guided), sample(tiny, guided, seed=7)
        expected = [maps_of(trace, out) for out in (alone, inner)]
        for at in (0, 1):
            outs = []

            def meanwhile(i, guider, *_, at=at, outs=outs, tiny=tiny, guided=guided):
                if i == at:
                    outs.append(sample(tiny, guided, seed=7))
                    guider.model_patcher.pre_run()

            run = follow(tiny, guided, trace, custom, runs=2, meanwhile=meanwhile)
            assert torch.equal(run.out, alone) and torch.equal(outs[0], inner)
            for out, own in zip((run.out, *outs), expected, strict=True):
                assert torch.equal(maps_of(trace, out), own)
            assert run.is_guided and len(run.steps) == 3
            row.add(family, run)
    row.check("each run is what it is alone")


def predictions(i, guider, x, sigma, options):
    comfy.samplers.calc_cond_batch(
        guider.inner_model, [guider.conds["positive"], guider.conds["negative"]], x, sigma, options)


def guided_prediction(i, guider, x, sigma, options):
    comfy.samplers.sampling_function(
        guider.inner_model, x, sigma, guider.conds["negative"], guider.conds["positive"], 3.0, options)


def test_samplers_that_ask_the_model_themselves():
    """What they get past the guider, before and between its evaluations, does not meet those."""
    row = Row("samplers that ask the model past the guider", "SamplerCustom")
    for family, build in FAMILIES.items():
        tiny = build()
        guided, trace = guide(tiny.model)
        alone = custom(tiny, guided)
        for meanwhile in (predictions, guided_prediction):
            run = follow(tiny, guided, trace, custom, meanwhile=meanwhile)
            assert torch.equal(run.out, alone)
            assert run.is_guided and len(run.steps) == 3
            row.add(family, run)
    row.check("the steps of the guider are guided")


# -- runs that stop, and runs beside each other ----------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, 5))
def test_interrupted_runs_leave_nothing(tiny, at):
    """The host looks at its flag in every layer; here it is set as a call of the network begins."""
    seen = []

    def interrupting(apply_model, args):
        seen.append(args)
        if len(seen) == at:
            comfy.model_management.interrupt_current_processing()
        return apply_model(args["input"], args["timestep"], **args["c"])

    guided, trace = guide(wrapped(interrupting)(tiny.model))
    with pytest.raises(InterruptProcessingException):
        sample(tiny, guided)
    assert len(seen) == at
    assert hooks_on(tiny.model) == 0 and not trace.recordings
    fresh, fresh_trace = guide(tiny.model)
    assert torch.equal(sample(tiny, guided), sample(tiny, fresh))
    assert torch.equal(maps(trace), maps(fresh_trace))


def test_interruption():
    row = Row("interrupting, and sampling again", "KSampler")
    for family, build in FAMILIES.items():
        tiny = build()
        guided, trace = guide(tiny.model)
        expected = sample(tiny, guided)
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(InterruptProcessingException):
            sample(tiny, guided)
        run = follow(tiny, guided, trace)
        assert torch.equal(run.out, expected)
        row.add(family, run)
    row.check("the next run is as if nothing had been")


def test_runs_after_each_other():
    row = Row("several samplers on one model", "KSampler")
    for family, build in FAMILIES.items():
        tiny = build()
        other = build().sized(12, 10)
        guided, trace = guide(tiny.model)
        first, second = sample(tiny, guided), sample(other, guided, cfg=1.0)
        for one, expected, inputs in ((tiny, first, {}), (other, second, {"cfg": 1.0}), (tiny, first, {})):
            run = follow(tiny, guided, trace, lambda _, model, one=one, inputs=inputs: sample(one, model, **inputs))
            assert torch.equal(run.out, expected) and torch.equal(expected, sample(one, guide(tiny.model)[0], **inputs))
            row.add(family, run)
    row.check("each run is what it is alone")


LAYERS = {"U-Net": ("middle.0", "input.3"), "DiT": ("block.0", "block.1")}


def test_guidance_twice():
    row = Row("two of these nodes, with other settings", "SAGGuidance")
    for family, build in FAMILIES.items():
        tiny = build()
        settings = [{"layer": layer, "scale": scale} for layer, scale in zip(LAYERS[family], (0.5, 0.2), strict=True)]
        base, *alone = (sample(tiny, model, steps=1) for model in (
            tiny.model, *(guide(tiny.model, **own)[0] for own in settings)))
        for first, second in (settings, settings[::-1]):
            once, inner_trace = guide(tiny.model, **first)
            twice, trace = guide(once, **second)
            with network_calls(tiny.model) as calls:
                out = sample(tiny, twice, steps=1)
            assert [c.is_extra for c in calls] == [False, True, True]
            expected = sum(one - base for one in alone)
            assert_close(out - base, expected, rtol=0, atol=1e-3 * expected.abs().max().item())
            for own in (inner_trace, trace):
                assert only(own).steps[0].guided and not only(own).notes
                row.add(family, Run.of(own, out))
        assert [only(own).steps[0].layer for own in (inner_trace, trace)] == [own["layer"] for own in settings[::-1]]
    row.check("they add up")


def test_two_threads_on_one_model():
    """Step by step, in turn: between the steps of one run lie those of the other.

    The second starts when the first is under way, because the host draws noise from a generator that all threads share.
    """
    row = Row("two threads on one model", "SamplerCustom")
    for family, build in FAMILIES.items():
        tiny, together, under_way = build(), threading.Barrier(2, timeout=60), threading.Event()
        patched = [guide(tiny.model, scale=scale, layer=layer) for scale, layer in zip((0.5, 1.5), LAYERS[family],
                                                                                       strict=True)]
        expected = [custom(tiny, model, seed=i) for i, (model, _) in enumerate(patched)]
        expected_maps = [maps(trace) for _, trace in patched]

        def work(i, patched=patched, tiny=tiny, together=together, under_way=under_way):
            def step(*_):
                under_way.set()
                together.wait()

            with torch.inference_mode():
                assert i == 0 or under_way.wait(60)
                return custom(tiny, patched[i][0], step, seed=i)

        with ThreadPoolExecutor(2) as pool:
            outs = list(pool.map(work, range(2)))
        assert hooks_on(tiny.model) == 0
        for out, alone, (_, trace), own in zip(outs, expected, patched, expected_maps, strict=True):
            assert torch.equal(out, alone) and torch.equal(maps(trace), own)
            assert Run.of(trace, out).is_guided and len(only(trace).steps) == 3
            row.add(family, Run.of(trace, out))
    row.check("each run is what it is alone")


@contextmanager
def two_devices(tiny, model) -> Iterator[Callable[[], set]]:
    """A model whose conds the host spreads over two devices, each with a thread and a copy of the weights.

    Both are the CPU under two names; gives the names of the threads that have run a copy.
    """
    copy = FAMILIES["U-Net" if hasattr(tiny.model.model.diffusion_model, "middle_block") else "DiT"]().model
    copy.load_device = torch.device("cpu", 0)
    copy.is_multigpu_base_clone = True
    model = model.clone()
    model.set_additional_models("multigpu", [copy])
    networks, threads = [each.model.diffusion_model for each in (tiny.model, copy)], set()
    hooks = [network.register_forward_pre_hook(
        lambda module, args, i=i: threads.add((i, threading.current_thread().name))) for i, network in
        enumerate(networks)]
    try:
        yield model, threads
    finally:
        for hook in hooks:
            hook.remove()
        assert hooks_on(copy) == 0


def test_several_devices():
    pytest.importorskip("comfy.multigpu", reason="this ComfyUI uses one device")
    row = Row("several devices (simulated on the CPU)", "MultiGPU_WorkUnits")
    for family, build in FAMILIES.items():
        tiny = build()
        guided, trace = guide(tiny.model)
        expected = sample(tiny, guided)
        expected_maps = maps(trace)
        with two_devices(tiny, guided) as (spread, threads):
            out = sample(tiny, spread)
        run = Run.of(trace, out)
        assert len({name for _, name in threads}) == len({device for device, _ in threads}) == 2
        assert threading.main_thread().name not in {name for _, name in threads}
        assert_close(out, expected, rtol=0, atol=1e-3 * expected.abs().max().item())
        assert_close(maps(trace), expected_maps, rtol=1e-3, atol=1e-3)
        assert run.is_guided and len(run.steps) == 2 and hooks_on(tiny.model) == 0
        row.add(family, run)
    row.check("every branch on its own")
