"""Features of the host that users combine with guidance, and what a run with one of them shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.testing import assert_close

import nodes
from tests.host import models
from tests.host.document import Table
from tests.host.graph import call, guide, only, sample
from tests.host.models import Tiny
from tests.host.observe import Call, hooks_on, network_calls
from tests.host.reference import reference

FAMILIES: dict[str, Callable[[], Tiny]] = {
    "U-Net": lambda: models.sd15().sized(8, 12), "DiT": lambda: models.flux().sized(8, 12)}
ORDERS = ("other", "sag")  # which node comes first
NONE = "-"

FEATURES = (
    "samplers", "CFG++ samplers", "schedulers", "samplers that ask the model past the guider",
    "Sampler Custom", "Basic Guider", "CFG Guider", "CFG Guider at CFG 1", "Dual CFG Guider", "Dual CFG Guider, nested",
    "Dual CFG Guider without a negative", "Dual Model CFG Guider", "Dual Model CFG Guider at CFG 1", "Perp-Neg Guider",
    "Perp-Neg Guider without a negative", "Perp-Neg",
    "APG", "CFG-Zero*", "CFGNorm", "Epsilon Scaling", "FreSca", "Mahiro", "RescaleCFG", "TCFG",
    "Temporal Score Rescaling",
    "NAG", "PAG", "Skip Layer Guidance (SD3)", "Skip Layer Guidance (DiT)", "Skip Layer Guidance (DiT), simple",
    "built-in SAG, before this node", "built-in SAG, after this node", "two of these nodes, with other settings",
    "FreeU", "FreeU V2", "Kohya Deep Shrink, factor 1.5", "Kohya Deep Shrink, factor 2", "HyperTile",
    "HyperTile, a layer it tiles", "Token Merging (ToMe)", "Token Merging (ToMe), a layer it merges",
    "EasyCache", "LazyCache", "torch.compile",
    "context windows", "context windows that move", "context windows that loop", "context windows with FreeNoise",
    "context windows longer than the sample", "context windows with prompts of their own", "Wan Context Windows",
    "sliding windows over a batch (AnimateDiff)",
    "LoRA", "LoRA hooks with keyframes", "ControlNet", "Control-LoRA", "T2I-Adapter", "GLIGEN",
    "regional prompts: area", "regional prompts: area in percent", "regional prompts: mask",
    "regional prompts: mask with bounds", "regional prompts: strength", "regional prompts: a longer prompt",
    "prompts for a part of the sampling",
    "inpainting", "inpainting models", "Differential Diffusion", "instruction models (InstructPix2Pix)",
    "reference images (Kontext)", "unCLIP", "batches, each image with noise of its own",
    "wrappers of the network: tiles", "wrappers of the network: batches twice as large",
    "wrappers of the network: noise on the prompts (CADS)",
    "several samplers on one model", "sampling within sampling", "interrupting, and sampling again",
    "two threads on one model", "several devices (simulated on the CPU)",
)

_TABLE = Table("docs/compatibility.md", ("feature", "node", *FAMILIES, "what happens"))

def skip_without(node_id: str) -> None:
    """Skip the test where an older host lacks a node."""
    if node_id not in nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"this ComfyUI has no {node_id}")


@dataclass(frozen=True)
class Node:
    """A node that patches a model, with its settings.

    A setting that an older host's node does not have is left out where it is off, and skips the test where it is on.
    """

    node_id: str
    settings: dict

    def __call__(self, model):
        skip_without(self.node_id)
        known = set().union(*nodes.NODE_CLASS_MAPPINGS[self.node_id].INPUT_TYPES().values())
        if missing := [name for name, value in self.settings.items() if value and name not in known]:
            pytest.skip(f"this ComfyUI's {self.node_id} has no {', '.join(missing)}")
        settings = {name: value for name, value in self.settings.items() if name in known}
        return call(self.node_id, model=model, **settings)[0]


def node(node_id: str, **settings) -> Node:
    """A node that patches a model: MODEL -> MODEL."""
    return Node(node_id, settings)


def combine(first: str, model, other: Callable, **settings):
    """Guidance and another node on a model, in either order: (MODEL, trace)."""
    if first == "other":
        return guide(other(model), **settings)
    guided, trace = guide(model, **settings)
    return other(guided), trace


@dataclass(frozen=True)
class Run:
    """A run with guidance, as seen from outside and in its trace."""

    out: Tensor
    steps: list
    notes: list[str]
    calls: list[Call]

    @classmethod
    def of(cls, trace, out: Tensor, calls: Sequence[Call] = ()) -> Run:
        """The latest run of a trace."""
        return cls(out, only(trace).steps, only(trace).notes, list(calls))

    @property
    def extras(self) -> list[list[Call]]:
        """The calls of the network in each of the pack's own passes."""
        return [list(calls) for extra, calls in groupby(self.calls, lambda call: call.is_extra) if extra]

    @property
    def is_guided(self) -> bool:
        """Whether every step it recorded was guided, and nothing stood in the way."""
        return bool(self.steps) and all(step.guided for step in self.steps) and not self.notes

    @property
    def branches(self) -> set[str]:
        return {step.branch for step in self.steps}


def follow(tiny: Tiny, guided, trace, sampling: Callable[..., Tensor] = sample, runs: int = 1, **inputs) -> Run:
    """Sample with a guided model. What holds for every feature is checked here.

    Every guided step has one extra pass, which is marked, whose conds have ids of their own. Each note is told once.
    No hook is left on the model. `runs` is how many runs of the guided model the sampling consists of; the last of
    them is what is given back.
    """
    with network_calls(tiny.model) as calls:
        out = sampling(tiny, guided, **inputs)
    run = Run.of(trace, out, calls)
    assert out.isfinite().all()
    assert len(run.extras) == sum(step.guided for recording in trace.recordings[-runs:] for step in recording.steps)
    main, extra = ({own for c in calls if c.is_extra == kind for own in c.options["uuids"]} for kind in (False, True))
    assert not main & extra
    assert len(set(run.notes)) == len(run.notes)
    assert hooks_on(tiny.model) == 0
    return run


@dataclass(frozen=True)
class Case:
    """A model that is sampled with a feature.

    Args:
        tiny: the model.
        feature: inputs of the sampler that hold the feature.
        common: its other inputs.
        model: the model with the feature, where it is no input of the sampler.
    """

    tiny: Tiny
    feature: dict = field(default_factory=dict)
    common: dict = field(default_factory=dict)
    model: ModelPatcher | None = None


def check(case: Case) -> Run:
    """The feature acts; every step is guided, on a U-Net as the reference does it."""
    tiny, inputs, model = case.tiny, case.common | case.feature, case.model or case.tiny.model
    plain, without = sample(tiny, model, **inputs), sample(tiny, **case.common)
    run = follow(tiny, *guide(model), **inputs)
    size = plain.abs().max().item()
    assert (plain - without).abs().max() > 1e-3 * size
    assert run.is_guided and len(run.steps) == inputs.get("steps", 2)
    assert (run.out - plain).abs().max() > 1e-3 * size
    if hasattr(tiny.model.model.diffusion_model, "middle_block"):
        with reference(model) as (expected, rule):
            assert_close(run.out, sample(tiny, expected, **inputs), rtol=0, atol=1e-3 * size)
        assert [step.branch for step in run.steps] == [("cond", "uncond")[index] for index in rule.branches]
    return run


def random(*shape: int, seed: int = 4) -> Tensor:
    """Normal noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Row:
    """A row of the table, made of what runs showed."""

    def __init__(self, feature: str, node_name: str):
        assert feature in FEATURES
        self.feature, self.node_name = feature, node_name
        self.cells = dict.fromkeys(FAMILIES, NONE)
        self.said: list[str] = []

    def add(self, family: str, run: Run, evaluations: int | None = None) -> None:
        """What a run with a family's model showed; several of them must agree.

        `evaluations`: how often the sampler asked for a prediction, where it may be more often than was recorded.
        """
        guided, asked = sum(step.guided for step in run.steps), evaluations or len(run.steps)
        cell = "not guided" if not guided else "guided" if guided == asked else f"{guided} of {asked} steps"
        assert self.cells[family] in (NONE, cell), f"{family}: {self.cells[family]} in one order, {cell} in the other"
        self.cells[family] = cell
        self.said += [note for note in (note.split(": ")[0] for note in run.notes) if note not in self.said]

    @property
    def is_whole(self) -> bool:
        """Whether every family has been added."""
        return NONE not in self.cells.values()

    def check(self, remark: str = "") -> None:
        """The documentation holds this row; `remark` is what the test has seen besides."""
        said = ["says " + " and ".join(f'"{note}"' for note in self.said)] if self.said else []
        said += [remark] if remark else []
        _TABLE.check([self.feature, self.node_name, *self.cells.values(), "; ".join(said) or "every step"])


def check_names() -> None:
    """The documentation holds these features and no other."""
    _TABLE.check_names(FEATURES)


def halves(apply_model, args):
    """Runs the network on the left half, then on the right one, as tiling nodes do."""
    def part(slot):
        c = args["c"] | {"transformer_options": args["c"]["transformer_options"].copy()}
        return apply_model(args["input"][..., slot], args["timestep"], **c)

    middle = args["input"].shape[-1] // 2
    return torch.cat([part(slice(None, middle)), part(slice(middle, None))], dim=-1)
