"""Every family of models the host has: what is recorded is what its attention does, and guidance is what it should be.

Nothing here knows how the pack finds anything. Attention is seen in the host's own hook, or in its place where a module
keeps the options of the run to itself. Where the image is among the tokens is seen by changing lines of the latent
while attention is silent, so that no token hears of another.
"""

from __future__ import annotations

import fnmatch
import importlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import comfy.samplers
import comfy.supported_models as supported
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.testing import assert_close

from sag_core.attention import column_mass
from sag_core.degrade import degrade
from sag_core.masks import attention_mask
from tests.host import graph
from tests.host.document import Table
from tests.host.families import EXCLUDED, FAMILIES, UNGUIDED, Family
from tests.host.graph import guide, maps, only, record, sample
from tests.host.models import Tiny
from tests.host.observe import hooks_on, new_tensors

pytestmark = pytest.mark.filterwarnings("ignore")  # of the host's, about its own

OVERRIDE = "optimized_attention_override"
BLUR, THRESHOLD, SCALE, STEPS = 1.5, 1.0, 0.5, 2
TABLE = Table("docs/models.md", (
    "model", "class", "layers in the test", "a token is", "signal in `x`", "`auto` in the test", "result"))
EXCLUDED_TABLE = Table("docs/models.md", ("not guided", "why"))


# -- watching the host ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """One call of attention: where it was made, and q and k [rows, heads, tokens, D] as the model uses them."""

    path: str
    q: Tensor
    k: Tensor
    mask: Tensor | None
    scale: float
    grid: tuple[int, ...]

    def rows(self, rows: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        """q, k and mask [rows or 1, heads or 1, queries or 1, keys] of some rows."""
        mask = self.mask
        if mask is not None:
            mask = mask[:, None] if mask.ndim == 3 else mask[(None,) * (4 - mask.ndim)]
            mask = mask[rows] if mask.shape[0] == self.q.shape[0] else mask
        return self.q[rows], self.k[rows], mask


@dataclass
class NetworkCall:
    """One call of the network: what it was given and gave, as the host's model does it, and the attention in it."""

    x: Tensor
    args: tuple
    options: dict
    kwargs: dict
    attention: list[Attention] = field(default_factory=list)
    denoised: Tensor | None = None

    @property
    def is_extra(self) -> bool:
        return bool(self.options.get("sag_pass"))

    def rows(self, index: int) -> slice | None:
        """Where the images of a branch are."""
        conds = self.options["cond_or_uncond"]
        if index not in conds:
            return None
        images = len(self.x) // len(conds)
        return slice(conds.index(index) * images, (conds.index(index) + 1) * images)


class Watch:
    """Sees a model's network and its attention, while it is entered."""

    def __init__(self, family: Family, tiny: Tiny):
        self.family, self.tiny = family, tiny
        self.calls: list[NetworkCall] = []
        self.silent = False
        self._running: list[str] = []
        self._grids: dict[str, tuple[int, ...]] = {}

    @property
    def model(self):
        """A clone that is watched from within."""
        model = self.tiny.model.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", self._apply_model)
        if not self.family.mute:
            options = model.model_options["transformer_options"]
            model.model_options["transformer_options"] = options | {OVERRIDE: self._attend}
        return model

    def __enter__(self) -> Watch:
        network = self.tiny.model.model.diffusion_model
        self._handles = []
        for path, module in network.named_modules():
            if not any(True for _ in module.children()):
                continue  # a layer that calls no other does not call attention
            self._handles.append(module.register_forward_pre_hook(self._enter_module(path)))
            self._handles.append(module.register_forward_hook(self._leave_module, always_call=True))
        if self.family.mute:
            self._module = importlib.import_module(self.family.mute)
            self._original = self._module.optimized_attention
            self._mine = self._module.optimized_attention = lambda *args, **kwargs: self._attend(
                self._original, *args, **kwargs)
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()
        for call in self.calls:  # without a way back to this, so that models go when tests let go of them
            call.options = {key: value for key, value in call.options.items() if key not in ("wrappers", OVERRIDE)}
        if self.family.mute:
            assert self._module.optimized_attention is self._mine, "the pack left something in the host's module"
            self._module.optimized_attention = self._original

    def repeat(self, call: NetworkCall, x: Tensor) -> list[Attention]:
        """The attention of a call of the network with another x, while tokens do not hear of each other."""
        forget(self.tiny)
        options = {key: value for key, value in call.options.items() if key != "wrappers"}
        options |= {} if self.family.mute else {OVERRIDE: self._attend}
        self.calls.append(NetworkCall(x, call.args, options, call.kwargs))
        self.silent = True
        try:
            self.tiny.model.model.apply_model(x.clone(), *call.args, options, **call.kwargs)
        finally:
            self.silent = False
            forget(self.tiny)
        return self.calls.pop().attention

    def _enter_module(self, path: str):
        def enter(module, args) -> None:
            self._running.append(path)
            if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
                self._grids[path] = tuple(args[0].shape[2:])

        return enter

    def _leave_module(self, module, args, output) -> None:
        self._running.pop()

    def _apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None,
                     **kwargs):
        args = t, c_concat, c_crossattn, control
        call = NetworkCall(x.clone(), args, dict(transformer_options), dict(kwargs))
        self.calls.append(call)
        call.denoised = executor(x, *args, transformer_options, **kwargs)
        return call.denoised

    def _attend(self, func, q, k, v, heads, mask=None, *args, **kwargs):
        path = self._running[-1]
        parents = [path.rsplit(".", i)[0] for i in range(path.count(".") + 1)]
        grid = next((self._grids[parent] for parent in parents if parent in self._grids), ())
        scale = kwargs.get("scale") or (q.shape[-1] if kwargs.get("skip_reshape") else q.shape[-1] // heads) ** -0.5
        split = (t if kwargs.get("skip_reshape") else t.unflatten(-1, (-1, q.shape[-1] // heads)).transpose(1, 2)
                 for t in (q, k))
        self.calls[-1].attention.append(Attention(path, *(t.clone() for t in split), mask, scale, grid))
        out = func(q, k, v, heads, mask, *args, **kwargs)
        return torch.zeros_like(out) if self.silent else out


def forget(tiny: Tiny) -> None:
    """Empty what one of the host's models keeps between runs."""
    network = tiny.model.model.diffusion_model
    if hasattr(network, "clear_kv_cache"):
        network.clear_kv_cache()


def run(tiny: Tiny, model=None, **inputs):
    """A run from the start: the samples."""
    forget(tiny)
    try:
        return sample(tiny, model, steps=STEPS, **inputs)
    finally:
        forget(tiny)
        LATEST[:] = [model]


LATEST = []
"""The clone that ran last. The host takes one that went away for a leak and collects garbage, which takes a while."""


def parts(samples) -> list[Tensor]:
    """The image or video, and the sound if there is any."""
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]


def same(a, b) -> bool:
    return all(map(torch.equal, parts(a), parts(b)))


# -- where the image is --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A self-attention layer: which of a network call's attention calls it is, and where the image's tokens are.

    Args:
        call: number of the attention call, of those in the network call.
        block: path of its block.
        queries, keys: place of every token of the image, [h, w] or [t, h, w]; -1 for a query that is not in the call.
    """

    call: int
    block: str
    queries: Tensor
    keys: Tensor

    def expected(self, call: NetworkCall, index: int) -> Tensor:
        """The map, in float64 and with every probability at once."""
        attention = call.attention[self.call]
        q, k, mask = attention.rows(call.rows(index))
        q, k = q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        logits = q @ k.mT * attention.scale
        if mask is not None:
            logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
        mass = logits.softmax(dim=-1)[:, :, self.queries[self.queries >= 0]].mean(dim=1).sum(dim=1)
        attn_map = mass[:, self.keys.flatten()].unflatten(-1, self.keys.shape)
        return attn_map / attn_map.flatten(1).mean(dim=1).view(-1, *[1] * self.keys.ndim)


def image_of(x: Tensor, family: Family, size: Sequence[int]) -> Tensor:
    """The image or video in a sample, a view; sound comes after it."""
    if not family.sound:
        return x
    return x.flatten(1)[:, :family.channels * math.prod(size)].unflatten(1, (family.channels, *size))


def sound_of(x: Tensor, family: Family, size: Sequence[int]) -> list[Tensor]:
    """What comes after the video in a sample."""
    return [x.flatten(1)[:, family.channels * math.prod(size):]] if family.sound else []


def find_layers(watch: Watch, call: NetworkCall, family: Family, size: Sequence[int]) -> list[Layer]:
    """The layers of a network call, the first self-attention over the image in each of the family's blocks."""
    lines = [(dim, at) for dim, side in enumerate(size) for at in _probes(side)]
    still = watch.repeat(call, call.x)
    moved = [([], []) for _ in still]
    for start in range(0, len(lines), len(call.x)):
        x = call.x.clone()
        part = lines[start:start + len(x)]
        for row, (dim, at) in enumerate(part):
            image_of(x, family, size)[row].select(dim + 1, at).add_(1.0)
        for (queries, keys), before, after in zip(moved, still, watch.repeat(call, x), strict=True):
            assert before.path == after.path
            if len(before.q) == len(x):
                queries += (before.q - after.q).abs().amax(dim=(1, 3))[:len(part)]
                keys += (before.k - after.k).abs().amax(dim=(1, 3))[:len(part)]
    layers = {}
    for number, attention in enumerate(still):
        block = _block(attention.path, family.blocks)
        if block is None or block in layers:
            continue
        places = _convolved if family.convolved else _places
        queries, keys = (places(lines, changes, attention.grid) for changes in moved[number])
        if queries is not None and keys is not None and keys.min() >= 0 and (queries.min() >= 0 or family.apart):
            layers[block] = Layer(number, block, queries, keys)
    return list(layers.values())


def _probes(side: int) -> list[int]:
    """Lines of a side that meet every token: all of them, or fewer where the pixels are many."""
    step = 1 if side <= 16 else 2 if side <= 48 else 8
    return sorted({*range(step - 1, side, step), side - 1})


def _block(path: str, patterns: Sequence[str]) -> str | None:
    """The part of a module's path that matches one of the patterns, name by name."""
    names = path.split(".")
    for pattern in patterns:
        wanted = pattern.split(".")
        if len(names) >= len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted)):
            return ".".join(names[:len(wanted)])
    return None


def _places(lines: list[tuple[int, int]], changes: list[Tensor], _: tuple[int, ...]) -> Tensor | None:
    """Places of the image's tokens, -1 where there is none: each is the one that moves with all lines that cross it."""
    strongest = max((float(change.max()) for change in changes), default=0.0)
    if strongest == 0:
        return None
    sides: dict[int, list[set[int]]] = {}
    for (dim, _), change in zip(lines, changes, strict=True):
        tokens = set((change > 1e-4 * strongest).nonzero().flatten().tolist())
        if tokens not in sides.setdefault(dim, []):
            sides[dim].append(tokens)
    # The host fills the last patch up with what is in the first, which moves both.
    sides = {dim: [a for a in found if not any(b and b < a for b in found)] for dim, found in sides.items()}
    grid = tuple(map(len, sides.values()))
    places = torch.full(grid, -1)
    for cell in torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid)).tolist():
        tokens = set.intersection(*(sides[dim][at] for dim, at in enumerate(cell)))
        if len(tokens) == 1:
            places[tuple(cell)] = tokens.pop()
    return places


def _convolved(lines: list[tuple[int, int]], changes: list[Tensor], grid: tuple[int, ...]) -> Tensor | None:
    """The same where convolutions come first: a grid the features have, on which tokens move most with lines nearby."""
    strongest = max((float(change.max()) for change in changes), default=0.0)
    if strongest == 0:
        return None
    places = torch.arange(math.prod(grid)).view(grid)
    for dim, side in enumerate(grid):
        at = torch.tensor([float(where) for of, where in lines if of == dim])
        change = torch.stack([c for (of, _), c in zip(lines, changes, strict=True) if of == dim])[:, places.flatten()]
        weights = change ** 4
        centres = (at @ weights / weights.sum(dim=0)).view(grid)
        along = centres.mean(dim=[d for d in range(len(grid)) if d != dim])
        assert side == 1 or torch.corrcoef(torch.stack([along, torch.arange(float(side))]))[0, 1] > 0.8
    return places


# -- cases ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def built(name: str) -> Tiny:
    """The model of a family; tests come family by family."""
    return FAMILIES[name].build()


@lru_cache(maxsize=1)
def layers_of(name: str, size: tuple[int, ...]) -> dict[int, list[Layer]]:
    """The layers as each branch sees them, by its index, found in a run of the host without the pack."""
    family = FAMILIES[name]
    tiny = family.at(built(name), size, max(family.batches))
    with Watch(family, tiny) as watch:
        run(tiny, watch.model)
        calls = [next(call for call in watch.calls if call.rows(index) is not None) for index in (0, 1)]
        found = [find_layers(watch, call, family, size) for call in calls[:1 if calls[0] is calls[1] else 2]]
        return {0: found[0], 1: found[-1]}


@dataclass(frozen=True)
class Case:
    """A family at a size, in a batch, with or without a negative; the runs of the last case are kept."""

    name: str
    side: str
    batch: int
    cfg: float

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    @property
    def size(self) -> tuple[int, ...]:
        return getattr(self.family, self.side)

    @property
    def index(self) -> int:
        """Place of the guided branch among the conds: the negative is evaluated at CFG 3 and not at 1."""
        return 1 if self.cfg != 1 else 0

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers by their names."""
        return dict(zip(self.family.names, layers_of(self.name, self.size)[self.index], strict=True))

    @property
    def tiny(self) -> Tiny:
        return _tiny(self)

    @property
    def plain(self) -> tuple[object, int]:
        """A run without the pack: the samples, and how often the network ran."""
        return _plain(self)

    @property
    def guided(self) -> tuple[object, object, list[NetworkCall]]:
        """A guided run, as of `watched`."""
        return _guided(self)

    def watched(self, node, **inputs) -> tuple[object, object, list[NetworkCall]]:
        """A run with one of the pack's nodes: the samples, the trace, and every call of the network."""
        assert self.plain  # what a run of the host leaves, it has left now
        with Watch(self.family, self.tiny) as watch:
            patched, trace = node(watch.model, **inputs)
            before, options = state(self.tiny), dict(patched.model_options["transformer_options"])
            samples = run(self.tiny, patched, cfg=self.cfg)
            assert state(self.tiny) == before and patched.model_options["transformer_options"] == options
        assert hooks_on(self.tiny.model) == 0
        return samples, trace, watch.calls

    def branch(self, calls: Sequence[NetworkCall]) -> list[NetworkCall]:
        """Those of the main passes that hold the guided branch."""
        return [call for call in calls if not call.is_extra and call.rows(self.index) is not None]

    def signals(self) -> Iterator[tuple[NetworkCall, float]]:
        """Steps of the guided run, by their extra pass, and how much of a change of x0 arrived in its sample."""
        samples, trace, calls = self.guided
        for main, extra in zip(self.branch(calls), (call for call in calls if call.is_extra), strict=True):
            rows = main.rows(self.index)
            x, denoised, degraded_x = (image_of(t, self.family, self.size).double() for t in (
                main.x[rows], main.denoised[rows], extra.x))
            attn_map = self.layers[self.family.default].expected(main, self.index)
            change = degrade(denoised, attention_mask(attn_map, THRESHOLD, self.size), BLUR) - denoised
            assert change.abs().max() > 1e-3 * denoised.abs().max()
            signal = float((degraded_x - x).flatten() @ change.flatten() / change.square().sum())
            rounding = 1e-6 * float(x.abs().max())
            assert_close(degraded_x - x, signal * change, rtol=0, atol=rounding + 1e-5 * float(change.abs().max()))
            yield extra, signal


@lru_cache(maxsize=1)
def _tiny(case: Case) -> Tiny:
    return case.family.at(built(case.name), case.size, case.batch)


@lru_cache(maxsize=1)
def _plain(case: Case) -> tuple[object, int]:
    calls = []
    model = case.tiny.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", lambda executor, *args, **kwargs: (
        calls.append(1) or executor(*args, **kwargs)))
    return run(case.tiny, model, cfg=case.cfg), len(calls)


@lru_cache(maxsize=1)
def _guided(case: Case) -> tuple[object, object, list[NetworkCall]]:
    return case.watched(guide, scale=SCALE, blur_sigma=BLUR, threshold=THRESHOLD)


ATTENTION = [(module, name) for path, module in list(sys.modules.items()) if path.startswith("comfy.ldm")
             for name in vars(module) if name.startswith("optimized_attention")]


def state(tiny: Tiny) -> list:
    """What the pack could leave in the host: attributes of modules, and attention put in the place of its own."""
    return [*map(tuple, map(vars, tiny.model.model.modules())), *(getattr(module, name) for module, name in ATTENTION)]


CASES = [Case(name, side, batch, cfg) for name, family in FAMILIES.items() for side in ("square", "odd")
         for batch in family.batches for cfg in (3.0, 1.0)]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c.name}-{c.side}-batch {c.batch}-cfg {c.cfg:g}")
def case(request) -> Case:
    return request.param


# -- the matrix ----------------------------------------------------------------------------------------------------


def test_recording_leaves_the_output_and_is_the_attention_of_the_layer(case):
    samples, trace, calls = case.watched(record)
    assert same(samples, case.plain[0]) and len(calls) == case.plain[1]
    recording = only(trace)
    assert recording.notes == [] and trace.find(parts(samples)[0]) is recording
    assert [step.layer for step in recording.steps] == [case.family.default] * STEPS
    assert [step.branch for step in recording.steps] == ["uncond" if case.index else "cond"] * STEPS
    layer = case.layers[case.family.default]
    expected = torch.stack([layer.expected(call, case.index) for call in case.branch(calls)])
    assert expected.flatten(2).std(dim=2).min() > 0.05  # an even map would agree with anything
    assert maps(trace).shape == expected.shape
    assert_close(maps(trace).double(), expected, rtol=1e-4, atol=1e-6)


def test_column_mass_is_the_number_of_queries(case):
    """Of all keys, text and padding included."""
    for call in case.branch(case.guided[2]):
        attention = call.attention[case.layers[case.family.default].call]
        q, k, mask = attention.rows(call.rows(case.index))
        mass = column_mass(q, k, attention.scale, mask).sum(dim=1)
        assert_close(mass, torch.full_like(mass, q.shape[2]), rtol=0, atol=1e-3)


def test_scale_0_is_bit_identical_without_an_extra_pass(case):
    samples, trace, calls = case.watched(guide, scale=0.0)
    assert same(samples, case.plain[0]) and len(calls) == case.plain[1]
    assert [step.guided for step in only(trace).steps] == [False] * STEPS


def test_guidance_is_one_extra_pass_a_step(case):
    samples, trace, calls = case.guided
    image, *sound = parts(samples)
    expected, *_ = parts(case.plain[0])
    assert image.shape == expected.shape and image.isfinite().all() and not torch.equal(image, expected)
    assert all(part.isfinite().all() for part in sound)
    assert [step.guided for step in only(trace).steps] == [True] * STEPS and only(trace).notes == []
    assert sum(call.is_extra for call in calls) == STEPS and len(calls) == STEPS + case.plain[1]
    assert [call.options["cond_or_uncond"] for call in calls if call.is_extra] == [[case.index]] * STEPS
    for main, extra in zip(case.branch(calls), (call for call in calls if call.is_extra), strict=True):
        for before, after in zip(*(sound_of(x, case.family, case.size) for x in (main.x, extra.x)), strict=True):
            assert torch.equal(before[main.rows(case.index)], after)


def signal(case: Case, sigma: Tensor) -> float:
    """Factor of x0 in x: how samples follow the x0 they are made of, in the host's own hands."""
    sigma = sigma.double()
    if case.name.startswith("CogVideoX"):
        from comfy_extras.nodes_void import VOID_DDIM  # here, as it is not in older hosts, nor are these models

        # KSampler starts from other samples than the model was trained on; the host's sampler for it makes those.
        sigmas = torch.cat([torch.full_like(sigma, 1e9), sigma])
        samples = [VOID_DDIM().sample(lambda x, *_, value=value, **__: torch.full_like(x, value), sigmas, {}, None,
                                      torch.ones(1, 1), disable_pbar=True) for value in (0.0, 1.0)]
    elif case.name == "Wan 2.1 FlowRVS":
        # A flow from a video, not from noise: noise_scaling gives the video itself. Euler's way from it is straight.
        samples = [(1 - sigma) * value for value in (0.0, 1.0)]
    else:
        sampling = case.tiny.model.get_model_object("model_sampling")
        samples = [sampling.noise_scaling(sigma, torch.ones(1, 1).double(), torch.full((1, 1), value).double())
                   for value in (0.0, 1.0)]
    return float(samples[1] - samples[0])


def test_the_extra_pass_has_the_noise_of_the_sample(case):
    """x_deg = x + a(sigma) (x0_deg - x0), where a is the host's."""
    for extra, seen in case.signals():
        sigma = extra.args[0][:1]
        assert seen == pytest.approx(signal(case, sigma), rel=1e-3, abs=1e-6 * float(extra.x.abs().max()))


# -- a family at once ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def one(request) -> Case:
    """A family at its square size."""
    return Case(request.param, "square", FAMILIES[request.param].batches[0], 3.0)


def test_layers_by_name(one):
    names, layers = one.family.names, one.layers
    alone = {}
    for name in names:
        _, trace, calls = one.watched(record, layer=name)
        expected = torch.stack([layers[name].expected(call, one.index) for call in one.branch(calls)])
        alone[name] = maps(trace)
        assert {step.layer for step in only(trace).steps} == {name} and only(trace).notes == []
        assert_close(alone[name].double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(maps(one.watched(record)[1]), alone[one.family.default])
    first, second = alone[names[0]], alone[names[1]]
    if first.shape == second.shape:
        both = [", ".join(names[:2]), *(["block.0-1"] if names[:2] == ["block.0", "block.1"] else [])]
        for spec in both:
            assert_close(maps(one.watched(record, layer=spec)[1]), (first + second) / 2)
    with pytest.raises(ValueError) as error:
        record(one.tiny.model, layer="block.99")
    listed = ", ".join(names) if one.family.auto else f"{names[0]} to {names[-1]}"
    assert str(error.value) == f"layer is 'block.99'; this model has auto, {listed}"


def test_nothing_is_kept_but_the_maps(one):
    patched, trace = guide(one.tiny.model)
    run(one.tiny, patched)
    with new_tensors() as kept:
        run(one.tiny, patched)
    by_host = {id(t) for module in one.tiny.model.model.modules() for t in tensors(vars(module))}
    assert {id(t) for t in kept} - by_host == {id(step.attn_map) for step in only(trace).steps}


def tensors(value: object) -> Iterator[Tensor]:
    """The tensors in a value and the containers in it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def test_the_trace_can_be_kept_and_shown(one, output_folder):
    samples, trace, _ = one.guided
    latent = {"samples": samples}
    graph.call("SAGSaveTrace", trace=trace, latent=latent, filename_prefix="run")
    (path,) = output_folder.glob("*.sag.safetensors")
    (loaded, *_) = graph.call("SAGLoadTrace", trace_name=f"{path.name} [output]")
    pictures = [graph.call("SAGMaskPreview", trace=kept, latent=latent, step=-1, style="heatmap")[0]
                for kept in (trace, loaded)]
    assert torch.equal(*pictures)


# -- what is not guided --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNGUIDED)
def test_a_run_that_cannot_be_guided_is_as_without_the_pack(name):
    family = UNGUIDED[name]
    tiny = family.at(family.build(), family.square)
    expected = run(tiny)
    with Watch(family, tiny) as watch:
        guided, trace = guide(watch.model)
        samples = run(tiny, guided)
    assert same(samples, expected) and all(part.isfinite().all() for part in parts(samples))
    assert not any(call.is_extra for call in watch.calls) and hooks_on(tiny.model) == 0
    assert only(trace).steps == [] and len(only(trace).notes) > 0


def test_frames_that_are_sampled_one_after_the_other_are_not_guided():
    """The host's own sampler for causal models keeps what a pass leaves for the next frames."""
    family = FAMILIES["Wan 2.1 causal (Self Forcing)"]
    tiny = family.at(family.build(), family.square)
    sampler = comfy.samplers.ksampler("ar_video", {"num_frame_per_block": 1})

    def frames(model) -> Tensor:
        (sigmas,) = graph.call("BasicScheduler", model=model, scheduler="simple", steps=STEPS, denoise=1.0)
        out, _ = graph.call("SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=1.0, positive=tiny.positive,
                      negative=tiny.negative, sampler=sampler, sigmas=sigmas, latent_image={"samples": tiny.latent})
        return out["samples"]

    guided, trace = guide(tiny.model)
    assert torch.equal(frames(guided), frames(tiny.model))
    assert only(trace).steps == [] and len(only(trace).notes) > 0


# -- docs/models.md ------------------------------------------------------------------------------------------------


def test_documented(one):
    """The row of docs/models.md is what a run shows."""
    _, trace, _ = one.guided
    (auto,) = {step.layer for step in only(trace).steps}
    TABLE.check({
        "model": one.name, "class": f"`{type(one.tiny.model.model).__name__}`", "layers in the test": described(one),
        "a token is": " x ".join(str(side // tokens) for side, tokens in zip(
            one.size, maps(trace).shape[2:], strict=True)),
        "signal in `x`": named(one), "`auto` in the test": f"`{auto}`",
        "result": ("guided" if all(step.guided for step in only(trace).steps) else "not guided")
                  + (", one image at a time" if refuses_a_batch(one) else ""),
    })


def refuses_a_batch(one: Case) -> bool:
    """Whether the host itself cannot run two images at once."""
    try:
        run(one.family.at(one.tiny, one.size, 2))
        refused = False
    except (RuntimeError, ValueError):
        refused = True
    assert refused == (one.family.batches == (1,))
    return refused


def described(one: Case) -> str:
    """Layers by the lists they are in: "`block.0-1` double_blocks, `block.2-3` single_blocks"."""
    if one.family.auto:
        return ", ".join(f"`{name}`" for name in one.layers)
    lists: dict[str, list[str]] = {}
    for name, layer in one.layers.items():
        lists.setdefault(layer.block.split(".")[0] if one.family.convolved else layer.block.rpartition(".")[0],
                         []).append(name.split(".")[1])
    return ", ".join(f"`block.{ids[0]}-{ids[-1]}` in {where}" if len(ids) > 1 else f"`block.{ids[0]}` in {where}"
                     for where, ids in lists.items())


def named(one: Case) -> str:
    """The formula of the signal that was seen."""
    seen = [(float(extra.args[0][0]), signal, 1e-6 * float(extra.x.abs().max())) for extra, signal in one.signals()]
    (name,) = (name for name, formula in FORMULAS.items() if all(
        signal == pytest.approx(formula(sigma), rel=1e-3, abs=rounding) for sigma, signal, rounding in seen))
    return name


FORMULAS = {
    "1": lambda sigma: 1.0, "1 - sigma": lambda sigma: 1 - sigma,
    "1 / sqrt(1 + sigma^2)": lambda sigma: (1 + sigma ** 2) ** -0.5}


def test_documented_are_all_models_the_host_has():
    classes = {type(family.build().model.model.model_config).__name__ for family in FAMILIES.values()}
    assert classes | set(EXCLUDED) == {config.__name__ for config in supported.models}
    assert not classes & set(EXCLUDED)
    TABLE.check_names(FAMILIES)
    for name, why in EXCLUDED.items():
        EXCLUDED_TABLE.check((f"`{name}`", why))
    EXCLUDED_TABLE.check_names(f"`{name}`" for name in EXCLUDED)
