"""From samples to metrics with intervals, and from claims to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import metrics
from benchmarks.metrics import Bootstrap, Estimate, measure
from benchmarks.metrics.bootstrap import combine
from benchmarks.networks import FeatureNet, Features, features_of_store
from benchmarks.paper.draw import Artist
from benchmarks.paper.tables import Claim, Table
from benchmarks.paper.ways import Way

LEVEL = 0.9
HIGHER_IS_BETTER = metrics.HIGHER_IS_BETTER | {"accuracy": True}


@dataclass(frozen=True)
class Score:
    """What was measured of a way.

    Args:
        estimates: metrics by name; "accuracy" is the share of samples that the feature network names as the label the
            way was to draw, where it was to draw one.
        passes: calls of the network for a sample.
    """

    estimates: Mapping[str, Estimate]
    passes: int


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Args:
        claim: the claim.
        change: how much better the better row is, as a share of the worse one's value, paired by seeds.
        text: "yes", "no", "undecided", or "yes, but less".
    """

    claim: Claim
    change: Estimate
    text: str


def score_ways(artist: Artist, ways: Sequence[Way], batches: Sequence[int], reference: Features, net: FeatureNet,
               resamples: int, say) -> dict[str, Score]:
    """Every way's score, by the way's name."""
    bootstrap = Bootstrap(artist.batch * len(batches), resamples)
    found = {}
    for way in ways:
        store = artist.store(way)
        features = features_of_store(store, batches, net)
        estimates = dict(measure(reference, features, bootstrap))
        if way.labels == "all" or way.classifier:
            estimates["accuracy"] = accuracy(features, store.stack("labels", batches), bootstrap)
        found[way.name] = Score(estimates, int(store.get(batches[0])["calls"]))
        say(f"scored {len(found)} of {len(ways)}")
    return found


def accuracy(features: Features, labels: Tensor, bootstrap: Bootstrap) -> Estimate:
    """Share of samples that the feature network names as they were asked for."""
    right = (features.probabilities.argmax(dim=1) == labels).double()
    return bootstrap.estimate(lambda weights: weights.double() @ right / weights.sum(1), low=0, high=1)


def judge(table: Table, scores: Mapping[str, Score]) -> list[Verdict]:
    """The table's claims against its scores; those of metrics that a row lacks are left out."""
    verdicts = []
    for claim in table.claims:
        better, worse = (scores[table.rows[name].name].estimates.get(claim.measure)
                         for name in (claim.better, claim.worse))
        if better is not None and worse is not None:
            change = improvement(better, worse, HIGHER_IS_BETTER[claim.measure])
            verdicts.append(Verdict(claim, change, decide(change, claim.least)))
    return verdicts


def improvement(better: Estimate, worse: Estimate, higher: bool) -> Estimate:
    """By what share of the worse value the better one improves on it; negative where it does not."""
    sign = 1 if higher else -1
    return combine(lambda a, b: sign * (a - b) / b.clamp(min=torch.finfo(b.dtype).tiny), better, worse)


def decide(change: Estimate, least: float) -> str:
    """Whether a change is in the claim's direction: where its interval holds 0, these samples do not say."""
    low, high = change.interval(LEVEL)
    if high < 0:
        return "no"
    if low <= 0:
        return "undecided"
    return "yes" if change.value >= least else f"yes, but by less than {least:.0%}"
