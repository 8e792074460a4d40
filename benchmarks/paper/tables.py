"""Which ways of sampling each table compares, what the paper found, and what is claimed of it.

BASE was chosen by `TUNING`, whose seeds no other table uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.paper.ways import Way

# The authors' kernel is 31 taps at 128 pixels and more; blur_sigma 3 of 128 pixels is 0.75 of 32.
BASE = {"scale": 2.0, "blur_sigma": 1.0, "threshold": 1.0, "layer": "output.0"}
# Without labels the classifier alone knows of the class, and takes a larger scale.
CLASSIFIER_SCALE = {"none": 10.0, "all": 2.0}
# A multiple of the classes, which batches take in turn.
SEEDS, TUNING_SEEDS = range(16), range(1000, 1004)


@dataclass(frozen=True)
class Claim:
    """What the paper says of two rows.

    Args:
        text: in words.
        better, worse: names of rows.
        measure: metric that decides, a key of `score.HIGHER_IS_BETTER`.
        least: share by which the better must improve on the worse; 0 for any improvement.
        paper: the paper's own figures.
    """

    text: str
    better: str
    worse: str
    measure: str = "FID"
    least: float = 0.0
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper.

    Args:
        title: what is compared.
        source: where the paper has it.
        rows: ways of sampling by what they are called.
        claims: what the paper's figures say.
        base: the row others are compared with.
        axis: what the rows' names are values of, for a curve; else rows are drawn as they are.
        note: what a reader should know.
    """

    title: str
    source: str
    rows: Mapping[str, Way]
    claims: Sequence[Claim] = ()
    base: str = "none"
    axis: str = ""
    note: str = ""


def sag(labels: str = "none", mask: Mapping | None = None, schedule: Mapping | None = None, classifier: float = 0.0,
        respacing: str = "ddim25", **inputs) -> Way:
    """A guided way: BASE, but for these inputs."""
    return Way(labels, BASE | inputs, mask or {}, schedule or {}, classifier, respacing)


NONE, NONE_LABELLED = Way(), Way(labels="all")
STRATEGIES = ("self-attention", "high-frequency", "random", "square", "global", "inverse")
LAYERS = ("input.3", "input.5", "middle.0", "output.0", "output.1", "output.2", "output.3")


def _curve(name: str, values: Sequence[float], **fixed) -> dict[str, Way]:
    """BASE with one setting at each of several values."""
    return {f"{value:g}": sag(**{name: value}, **fixed) for value in values}


def _strategies(**inputs) -> dict[str, Way]:
    # The paper's own strategy is the plain way, so that its samples are drawn once.
    return {name: sag(mask={} if name == "self-attention" else {"strategy": name}, **inputs) for name in STRATEGIES}


def _order(paper: str = "") -> list[Claim]:
    """The paper's order of masking strategies."""
    others = [name for name in STRATEGIES if name != "self-attention"]
    best = [Claim(f"self-attention is better than {name}", "self-attention", name, paper=paper) for name in others]
    return best + [Claim(f"global is worse than {name}", name, "global")
                   for name in ("high-frequency", "random", "square")]


def _part(start: float, end: float) -> dict:
    return {"interval": "percent", "start": start, "end": end, "scale_curve": "constant"}


SCALE = f"{BASE['scale']:g}"
TABLES = {
    "scale": Table(
        "Unconditional samples, by scale", "unconditional ADM, and the scale ablation",
        {"0": NONE, **_curve("scale", (1.0, 2.0, 4.0, 6.0))}, base="0", axis="scale", claims=[
            Claim("SAG improves unconditional samples, by at least the paper's 23 %", SCALE, "0", least=0.23,
                  paper="FID 26.21 -> 20.08 (ImageNet 256, s 0.8)"),
            Claim("too strong a scale is worse than a moderate one", SCALE, "6",
                  paper="best near 0.1 on ImageNet 128")]),
    "conditional": Table(
        "Class-conditional samples, by scale", "conditional ADM",
        {"0": NONE_LABELLED, **_curve("scale", (0.5, 1.0, 2.0), labels="all")}, base="0", axis="scale", claims=[
            Claim("SAG improves class-conditional samples", SCALE, "0",
                  paper="FID 10.94 -> 9.41 (ImageNet 256, s 0.2)")]),
    "classifier": Table(
        "Classifier guidance, conditional model", "compatibility with classifier guidance",
        {"none": NONE_LABELLED, "SAG": sag("all"), "CG": Way("all", classifier=CLASSIFIER_SCALE["all"]),
         "CG + SAG": sag("all", classifier=CLASSIFIER_SCALE["all"])}, claims=[
            Claim("SAG is better than none", "SAG", "none", paper="FID 5.91 -> 5.11"),
            Claim("CG is better than none", "CG", "none", paper="FID 5.91 -> 2.97"),
            Claim("both are better than CG alone", "CG + SAG", "CG", paper="FID 2.97 -> 2.58"),
            Claim("both are better than SAG alone", "CG + SAG", "SAG", paper="FID 5.11 -> 2.58"),
            Claim("CG makes more samples of the class asked for", "CG", "none", "accuracy"),
            Claim("both make more of them than SAG alone", "CG + SAG", "SAG", "accuracy"),
            Claim("both make more of them than CG alone", "CG + SAG", "CG", "accuracy")]),
    "classifier-unconditional": Table(
        "Classifier guidance, unconditional model", "beyond the paper, which has a conditional one",
        {"none": NONE, "SAG": sag(), "CG": Way(classifier=CLASSIFIER_SCALE["none"]),
         "CG + SAG": sag(classifier=CLASSIFIER_SCALE["none"])}, claims=[
            Claim("both are better than CG alone", "CG + SAG", "CG"),
            Claim("both are better than SAG alone", "CG + SAG", "SAG"),
            Claim("CG makes more samples of the class asked for", "CG", "none", "accuracy"),
            Claim("both make more of them than CG alone", "CG + SAG", "CG", "accuracy")]),
    "strategies": Table(
        "Masking strategies", "the masking ablation", {"none": NONE, **_strategies()},
        claims=_order("self-attention best, global worst"),
        note="DINO is not drawn: it needs a vision model's weights, which this repository does not bring."),
    "strategies-strong": Table(
        "Masking strategies, at twice the scale", "the masking ablation",
        {"none": NONE, **_strategies(scale=2 * BASE["scale"])}, claims=_order()),
    "strategies-16": Table(
        "Masking strategies, by a 16 x 16 layer of the decoder (output.2)", "the masking ablation",
        {"none": NONE, **_strategies(layer="output.2")}, claims=_order()),
    "threshold": Table(
        "Threshold", "the threshold ablation",
        {"0 (global)": sag(mask={"strategy": "global"}), **_curve("threshold", (0.5, 1.0, 1.3))},
        base="1", axis="threshold", claims=[
            Claim(f"1 is better than {other}", "1", other, paper="best at 1") for other in ("0.5", "1.3")]),
    "layer": Table(
        "Layer", "the layer ablation", {"none": NONE, **{layer: sag(layer=layer) for layer in LAYERS}}, claims=[
            Claim("the decoder's last layer at 16 x 16 is better than its first", "output.3", "output.2",
                  paper="the last layer of a resolution is best"),
            Claim("the decoder's last layer at 8 x 8 is better than its first", "output.1", "output.0",
                  paper="the last layer of a resolution is best")]),
    "blur": Table(
        "Blur sigma", "the blur ablation", {"none": NONE, **_curve("blur_sigma", (0.5, 1.0, 2.0, 4.0))},
        axis="blur sigma", claims=[
            Claim(f"1 is better than {other}", "1", other, paper="best at 3 of 128 pixels, as 0.75 of 32")
            for other in ("0.5", "2", "4")]),
    "interval": Table(
        "Part of the sampling that is guided", "the authors' guide_start",
        {"none": NONE, "all": sag(), "first fifth": sag(schedule=_part(0, 0.18)), "first half": sag(
            schedule=_part(0, 0.49)), "second half": sag(schedule=_part(0.5, 1))}, claims=[
            Claim("guiding all of it is better than none", "all", "none")]),
    "ancestral": Table(
        "Ancestral sampling, 25 steps", "its sampler, of 250 steps",
        {"0": Way(respacing="25"), **_curve("scale", (1.0, 2.0), respacing="25")}, base="0", axis="scale", claims=[
            Claim("SAG improves ancestral samples, by at least the paper's 23 %", "2", "0", least=0.23,
                  paper="FID 26.21 -> 20.08 (ImageNet 256, s 0.8)")]),
}

TUNING = Table(
    "Tuning, on seeds of its own", "", {
        "none": NONE,
        **{f"{layer}, scale {scale:g}": sag(layer=layer, scale=scale)
           for layer in ("input.3", "input.5", "output.0") for scale in (2.0, 4.0, 6.0)},
        **{f"classifier {scale:g}": Way(classifier=scale) for scale in (2.0, 5.0, 10.0)},
        "labels": NONE_LABELLED,
        **{f"labels, scale {scale:g}": sag("all", scale=scale) for scale in (0.5, 1.0, 2.0)},
        **{f"labels, classifier {scale:g}": Way("all", classifier=scale) for scale in (0.5, 1.0, 2.0)}},
    note="With labels or a classifier the samples are of four of the eight classes: compare such rows with each other "
         "alone.")
