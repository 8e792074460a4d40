"""Nodes that patch a model, beside guidance, on a U-Net and on a transformer, in either order.

What the runs show is the table of docs/compatibility.md, with the rows of the other test_compatibility_*.py.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.host.features import FAMILIES, ORDERS, Row, check_names, combine, follow, node
from tests.host.graph import guide, sample
from tests.host.reference import reference

CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
TILES = node("HyperTile", tile_size=32, swap_size=1, max_depth=0, scale_depth=False)
MERGE = node("TomePatchModel", ratio=0.5)
SKIP = {"scale": 1.0, "start_percent": 0.0, "end_percent": 1.0}
SHRINK = {"block_number": 1, "start_percent": 0.0, "end_percent": 0.2, "downscale_after_skip": True,
          "downscale_method": "bicubic", "upscale_method": "bicubic"}

GUIDANCES = {
    "APG": node("APG", eta=0.5, norm_threshold=5.0, momentum=-0.3),
    "CFG-Zero*": node("CFGZeroStar"),
    "CFGNorm": node("CFGNorm", strength=0.9),
    "Epsilon Scaling": node("Epsilon Scaling", scaling_factor=1.2),
    "FreSca": node("FreSca", scale_low=1.2, scale_high=1.5, freq_cutoff=2),
    "Mahiro": node("Mahiro"),
    "RescaleCFG": node("RescaleCFG", multiplier=0.7),
    "TCFG": node("TCFG"),
    "Temporal Score Rescaling": node("TemporalScoreRescaling", tsr_k=0.5, tsr_sigma=1.0),
}



def acts(tiny, other) -> bool:
    """Whether a node does anything to a model; some are made for other networks, and fail or do nothing here."""
    try:
        plain, changed = sample(tiny), sample(tiny, other(tiny.model))
        return not torch.allclose(changed, plain, rtol=0, atol=1e-4 * plain.abs().max().item())
    except (AttributeError, KeyError, TypeError):
        return False


def in_both_orders(row, family, tiny, other, compare) -> str:
    """Guidance beside another node, in either order; on a U-Net as the reference does it. What the order does."""
    torch.manual_seed(0)
    plain, outs = sample(tiny, other(tiny.model)), []
    for first in ORDERS:
        guided, trace = combine(first, tiny.model, other)
        torch.manual_seed(0)
        run = follow(tiny, guided, trace)
        assert run.is_guided and len(run.steps) == 2 and run.branches == {"uncond"}
        assert [len(calls) for calls in run.extras] == [1, 1]
        assert not torch.equal(run.out, plain)
        row.add(family, run)
        outs.append(run.out)
        if family == "U-Net" and compare:
            with reference(tiny.model if first == "sag" else other(tiny.model)) as (expected, _):
                torch.manual_seed(0)
                wanted = sample(tiny, other(expected) if first == "sag" else expected)
            assert_close(run.out, wanted, rtol=0, atol=1e-3 * wanted.abs().max().item())
    if torch.allclose(*outs, rtol=0, atol=1e-4 * plain.abs().max().item()):
        return "the same in either order"
    return "the later node acts on what the earlier one gives"


@pytest.mark.parametrize("name", GUIDANCES)
def test_other_guidances(name):
    other = GUIDANCES[name]
    row, orders = Row(name, other.node_id), set()
    for family, build in FAMILIES.items():
        tiny = build()
        assert acts(tiny, other)
        # Guidance adds to the result of the other node what it adds alone.
        base, plain, alone, both = (sample(tiny, model, steps=1) for model in (
            tiny.model, other(tiny.model), guide(tiny.model)[0], guide(other(tiny.model))[0]))
        assert_close(both - plain, alone - base, rtol=0, atol=1e-3 * (alone - base).abs().max().item())
        # TCFG changes the negative, which the reference takes for the model's own.
        orders.add(in_both_orders(row, family, tiny, other, compare=name != "TCFG"))
    (order,) = orders
    row.check(order)


# What changes the network's own work, on the families it is made for.
NETWORK = {
    "FreeU": (node("FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2), ["U-Net"]),
    "FreeU V2": (node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2), ["U-Net"]),
    "HyperTile": (TILES, ["U-Net"]),
    "Kohya Deep Shrink, factor 1.5": (node("PatchModelAddDownscale", downscale_factor=1.5, **SHRINK), ["U-Net"]),
    "Kohya Deep Shrink, factor 2": (node("PatchModelAddDownscale", downscale_factor=2.0, **SHRINK), ["U-Net"]),
    "PAG": (node("PerturbedAttentionGuidance", scale=1.0), ["U-Net"]),
    "Skip Layer Guidance (SD3)": (node("SkipLayerGuidanceSD3", layers="0", **SKIP), ["DiT"]),
    "Skip Layer Guidance (DiT)": (
        node("SkipLayerGuidanceDiT", double_layers="", single_layers="0", rescaling_scale=0.0, **SKIP), ["DiT"]),
    "Token Merging (ToMe)": (MERGE, ["U-Net"]),
}


@pytest.mark.parametrize("name", NETWORK)
def test_nodes_that_change_the_network(name):
    other, families = NETWORK[name]
    row = Row(name, other.node_id)
    assert [family for family, build in FAMILIES.items() if acts(build(), other)] == families
    (order,) = {in_both_orders(row, family, FAMILIES[family](), other, compare=True) for family in families}
    row.check(order)


def test_nag():
    """It compares the prompts in attention, and has none to compare where guidance runs one of them alone.

    In a U-Net it changes the positive, which guidance leaves as it is. In a transformer it changes both; what it does
    to the negative is then taken for what the blur does.
    """
    other = node("NAGuidance", nag_scale=3.0, nag_alpha=0.5, nag_tau=1.5)
    row, adds = Row("NAG", other.node_id), {}
    for family, build in FAMILIES.items():
        tiny = build()
        assert acts(tiny, other)
        order = in_both_orders(row, family, tiny, other, compare=True)
        plain = sample(tiny, other(tiny.model), steps=1)
        # A blur that reaches no pixel's neighbour leaves what differs between the passes besides.
        unblurred = sample(tiny, guide(other(tiny.model), blur_sigma=0.05)[0], steps=1)
        adds[family] = (unblurred - plain).abs().max().item() > 1e-3 * plain.abs().max().item()
    assert adds == {"U-Net": False, "DiT": True}
    row.check(f"{order}; on transformers it is left out of the extra pass")


@pytest.mark.parametrize(("name", "other"), [("HyperTile, a layer it tiles", TILES),
                                             ("Token Merging (ToMe), a layer it merges", MERGE)])
def test_layers_whose_tokens_another_node_rearranges(name, other):
    row, tiny = Row(name, other.node_id), FAMILIES["U-Net"]()
    torch.manual_seed(0)
    plain = sample(tiny, other(tiny.model))
    for first in ORDERS:
        guided, trace = combine(first, tiny.model, other, layer="input.1")
        torch.manual_seed(0)
        run = follow(tiny, guided, trace)
        assert torch.equal(run.out, plain) and not run.steps and run.notes
        row.add("U-Net", run)
    row.check("the result is the same, bit for bit")


def test_skip_layer_guidance_of_the_negative():
    """The negative is run with layers left out, so that it would be compared with another network's prediction."""
    other = node("SkipLayerGuidanceDiTSimple", double_layers="0", single_layers="", start_percent=0.0, end_percent=1.0)
    row, tiny = Row("Skip Layer Guidance (DiT), simple", other.node_id), FAMILIES["DiT"]()
    assert acts(tiny, other) and not acts(FAMILIES["U-Net"](), other)
    base, plain = sample(tiny, steps=1, cfg=1.0), sample(tiny, other(tiny.model), steps=1)
    ours = sample(tiny, guide(tiny.model)[0], steps=1, cfg=1.0) - base
    for first in ORDERS:
        run = follow(tiny, *combine(first, tiny.model, other))
        assert run.is_guided and len(run.steps) == 2 and run.branches == {"cond"}
        row.add("DiT", run)
        out = sample(tiny, combine(first, tiny.model, other)[0], steps=1)
        assert_close(out - plain, ours, rtol=0, atol=1e-3 * ours.abs().max().item())
    row.check("guides the positive, as the negative is run without some layers")


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_steps_that_a_cache_skips(name):
    other, row = node(name, **CACHE), Row(name, name)
    for family, build in FAMILIES.items():
        tiny = build()
        for first in ORDERS:
            run = follow(tiny, *combine(first, tiny.model, other), steps=6)
            # What the cache runs is guided, with one pass more, and the rest is not.
            assert 0 < len(run.steps) < 6 and all(step.guided for step in run.steps)
            row.add(family, run, evaluations=6)
    row.check("what it skips is not guided")


@pytest.mark.parametrize("first", ORDERS)
def test_builtin_sag_on_the_same_layer(first):
    other, tiny = node("SelfAttentionGuidance", scale=0.3, blur_sigma=2.0), FAMILIES["U-Net"]()
    row = Row(f"built-in SAG, {'before' if first == 'other' else 'after'} this node", other.node_id)
    assert not acts(FAMILIES["DiT"](), other)
    run = follow(tiny, *combine(first, tiny.model, other))
    assert run.is_guided and run.branches == {"uncond"}
    row.add("U-Net", run)
    base, theirs, ours = (sample(tiny, m, steps=1) for m in (tiny.model, other(tiny.model), guide(tiny.model)[0]))
    out = sample(tiny, combine(first, tiny.model, other)[0], steps=1)
    size = out.abs().max().item()
    assert all((out - one).abs().max() > 0.01 * size for one in (base, theirs, ours))
    assert torch.allclose(out - base, (theirs - base) + (ours - base), rtol=0, atol=1e-4 * size)
    row.check("both act, as each does alone")


def test_every_feature_is_documented():
    check_names()
