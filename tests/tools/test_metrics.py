"""Metrics of sample sets: by hand, against other libraries, and by what an interval promises."""

from __future__ import annotations

import numpy
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from benchmarks.metrics import HIGHER_IS_BETTER, Bootstrap, measure
from benchmarks.metrics.bootstrap import DRAWN_OR_NOT, Statistic, combine
from benchmarks.metrics.frechet import frechet
from benchmarks.metrics.inception_score import inception_score
from benchmarks.metrics.kernel import kid
from benchmarks.metrics.manifold import precision, radii, recall
from benchmarks.networks import Features

AGREES = 1e-3


def drawn(seed: int, count: int, size: int = 64) -> Tensor:
    """Correlated features, with a mean of their own."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(size) + 0.2 * torch.randn(size, size, generator=generator)
    return torch.randn(count, size, generator=generator) @ mix + 0.3 * torch.randn(size, generator=generator)


def probabilities(seed: int, count: int, classes: int = 10) -> Tensor:
    return (2 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))).softmax(1)


def line(*places: float) -> Tensor:
    return torch.tensor(places)[:, None]


def value(statistic: Statistic, count: int) -> float:
    return statistic(torch.ones(1, count)).item()


def all_of(seed: int, count: int, size: int = 8) -> Features:
    return Features(drawn(seed, count, size), drawn(seed + 100, count, size), probabilities(seed, count))


class AsIs(nn.Module):
    """Features that are there already, as torchmetrics wants to be given them."""

    num_features = 64

    def forward(self, features: Tensor) -> Tensor:
        return features


# By hand.

@pytest.mark.parametrize(("reference", "features", "expected"), [
    ((-1, 1), (-1, 1), 0),
    ((-1, 1), (2, 4), 9),  # 3 apart
    ((-1, 1), (-2, 2), 2),  # variances 2 and 8: 2 + 8 - 2 * 4
    ((-1, 1), (1, 5), 9 + 2),
])
def test_frechet_distance_on_a_line(reference, features, expected):
    assert value(frechet(line(*reference), line(*features)), 2) == pytest.approx(expected, abs=1e-9)


def test_frechet_distance_grows_with_the_square_of_a_shift():
    features = drawn(1, 300)
    shift = torch.zeros(64)
    shift[:2] = torch.tensor([3.0, 4.0])
    assert value(frechet(features, features), 300) == pytest.approx(0, abs=1e-4)
    assert value(frechet(features, features + shift), 300) == pytest.approx(25, abs=1e-4)


def test_kernel_distance_on_a_line():
    # Kernel (ab + 1)^3. Within {0, 1}: 1. Within {1, 2}: 27. Across: 1, 1, 8, 27, their mean 9.25.
    assert value(kid(line(0, 1), line(1, 2)), 2) == pytest.approx(1 + 27 - 2 * 9.25)


@pytest.mark.parametrize(("rows", "expected"), [
    (torch.eye(4), 4),  # sure, of every class
    (torch.eye(4)[[0, 0, 0]], 1),  # sure, of one
    (torch.full((5, 4), 0.25), 1),  # unsure
    (torch.eye(4)[[0, 0, 1, 1]], 2),
])
def test_inception_score_by_hand(rows, expected):
    assert value(inception_score(rows), len(rows)) == pytest.approx(expected)


def test_radii_by_hand():
    assert radii(line(0, 1, 3, 7), 1).tolist() == [1, 1, 2, 4]
    assert radii(line(0, 1, 3, 7), 2).tolist() == [3, 2, 3, 6]
    with pytest.raises(ValueError, match="neighbours is 4; it must be from 1 to 3"):
        radii(line(0, 1, 3, 7), 4)


@pytest.mark.parametrize(("reference", "features", "precise", "recalled"), [
    ((0, 1, 2, 3), (0, 1, 2, 3), 1, 1),
    ((0, 1, 2, 3), (0.4, 0.5, 0.6), 1, 0),  # good, and all alike
    ((0.4, 0.5, 0.6), (0, 1, 2, 3), 0, 1),  # everything, little of it good
    ((0, 1, 2, 3), (10, 11, 12), 0, 0),
    ((0, 1, 2, 3), (0, 1, 9, 20), 0.5, 1),  # 9 is far off, and its own neighbour so far that it covers 1, 2 and 3
])
def test_precision_and_recall_on_a_line(reference, features, precise, recalled):
    reference, features = line(*reference), line(*features)
    assert value(precision(reference, features, 1), len(features)) == pytest.approx(precise)
    assert value(recall(reference, features, 1), len(features)) == pytest.approx(recalled)


# Against other libraries.

@pytest.mark.parametrize("count", [200, 700])
def test_frechet_distance_agrees_with_scipy_and_torchmetrics(count):
    reference, features = drawn(1, 500), drawn(2, count)
    a, b = numpy.cov(reference.double().T), numpy.cov(features.double().T)
    apart = (reference.double().mean(0) - features.double().mean(0)).square().sum().item()
    expected = apart + numpy.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    found = value(frechet(reference, features), count)
    assert found == pytest.approx(expected, abs=AGREES)
    other = FrechetInceptionDistance(AsIs()).set_dtype(torch.float64)
    other.update(reference.double(), real=True)
    other.update(features.double(), real=False)
    assert found == pytest.approx(other.compute().item(), abs=AGREES)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_kernel_distance_agrees_with_numpy_and_torchmetrics():
    reference, features = drawn(1, 300) / 4, drawn(2, 300) / 4
    found = value(kid(reference, features), 300)
    x, y = reference.double().numpy(), features.double().numpy()
    within, among, across = ((a @ b.T / 64 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    off = ~numpy.eye(300, dtype=bool)
    assert found == pytest.approx(within[off].mean() + among[off].mean() - 2 * across.mean(), abs=1e-9)
    other = KernelInceptionDistance(AsIs(), subsets=1, subset_size=300)
    other.update(reference, real=True)
    other.update(features, real=False)
    assert found == pytest.approx(other.compute()[0].item(), abs=AGREES)


def test_kernel_distance_is_the_same_in_blocks(monkeypatch):
    reference, features, weights = drawn(1, 50), drawn(2, 40), Bootstrap(40, 3).weights
    whole = kid(reference, features)(weights)
    monkeypatch.setattr("benchmarks.metrics.kernel.ROWS", 7)
    assert torch.allclose(kid(reference, features)(weights), whole, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save", "ignore:std")  # of one part
def test_inception_score_agrees_with_scipy_and_torchmetrics():
    rows = probabilities(3, 500)
    found = value(inception_score(rows), 500)
    divergence = scipy.stats.entropy(rows.double().numpy(), rows.double().mean(0).numpy()[None], axis=1)
    assert found == pytest.approx(numpy.exp(divergence.mean()), abs=AGREES)
    other = InceptionScore(AsIs(), splits=1)
    other.update(rows.log())
    assert found == pytest.approx(other.compute()[0].item(), abs=AGREES)


@pytest.mark.parametrize("many", [0, 256])
@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_agree_with_scipys_tree(neighbours, many, monkeypatch):
    monkeypatch.setattr("benchmarks.metrics.manifold.ROWS", 37)
    monkeypatch.setattr("benchmarks.metrics.manifold.MANY", many)
    reference, features = drawn(1, 150, 6), drawn(2, 110, 6)

    def share(inner: Tensor, outer: Tensor) -> float:
        inner, outer = inner.double().numpy(), outer.double().numpy()
        reach = scipy.spatial.cKDTree(outer).query(outer, neighbours + 1)[0][:, -1]
        return (scipy.spatial.distance.cdist(inner, outer) <= reach).any(1).mean()

    precise, recalled = share(features, reference), share(reference, features)
    assert 0.05 < precise < 0.95 and 0.05 < recalled < 0.95
    assert value(precision(reference, features, neighbours), 110) == pytest.approx(precise, abs=AGREES)
    assert value(recall(reference, features, neighbours), 110) == pytest.approx(recalled, abs=AGREES)


# Weights are repetitions.

WEIGHTS = torch.tensor([[2.0, 0, 1, 3, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 4, 4, 0, 0, 0, 0]])


@pytest.mark.parametrize("make", [
    lambda features: frechet(drawn(1, 30, 4), features),
    lambda features: inception_score(features.softmax(1)),
    lambda features: precision(drawn(1, 30, 4), features),
], ids=["frechet", "inception score", "precision"])
def test_a_weight_is_a_repetition(make):
    features = drawn(2, 8, 4)
    repeated = [features.repeat_interleave(row.long(), 0) for row in WEIGHTS]
    expected = [value(make(rows), len(rows)) for rows in repeated]
    assert make(features)(WEIGHTS).tolist() == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 1


def test_kernel_distance_leaves_out_pairs_of_a_sample_with_itself():
    reference, features = drawn(1, 30, 4), drawn(2, 8, 4)
    places = [row.nonzero()[:, 0].repeat_interleave(row[row > 0].long()) for row in WEIGHTS]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / 4 + 1) ** 3

    expected = []
    for at in places:
        rows, apart = features[at], at[:, None] != at
        off = ~torch.eye(30, dtype=torch.bool)
        expected.append((kernel(reference, reference)[off].mean() + kernel(rows, rows)[apart].mean()
                         - 2 * kernel(rows, reference).mean()).item())
    assert kid(reference, features)(WEIGHTS).tolist() == pytest.approx(expected)


def test_recall_of_a_resample_is_by_the_balls_of_what_was_drawn():
    reference, features = line(0, 1, 2, 3), line(0, 0.5, 2.5, 3)
    weights = torch.tensor([[1.0, 1, 1, 1], [4, 0, 0, 0], [0, 2, 2, 0]])
    # Every ball reaches 0.5: 0 and 0.5 cover 0 and 1, 2.5 and 3 cover 2 and 3.
    assert recall(reference, features, 1)(weights).tolist() == [1.0, 0.25, 1.0]


# Intervals.

def test_the_first_row_of_weights_is_the_set_and_the_others_are_drawn_from_it():
    weights = Bootstrap(50, 20, seed=1).weights
    assert weights.shape == (21, 50) and weights[0].eq(1).all() and weights.sum(1).eq(50).all()
    assert not weights[1:].eq(1).all(1).any() and weights.unique(dim=0).shape[0] == 21
    assert weights.equal(Bootstrap(50, 20, seed=1).weights)
    assert not weights.equal(Bootstrap(50, 20, seed=2).weights)


@pytest.mark.parametrize("wrong", [{"samples": 1}, {"samples": 9, "resamples": 1}])
def test_a_bootstrap_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"is 1; nothing varies"):
        Bootstrap(**wrong)


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimate = Bootstrap(400, 2000).estimate(lambda weights: weights.double() @ values / 400)
    error = values.std().item() / 20
    low, high = estimate.interval(0.9)
    assert estimate.value == pytest.approx(values.mean().item())
    assert (high - low) / 2 == pytest.approx(1.645 * error, rel=0.08)
    assert (high + low) / 2 == pytest.approx(estimate.value, abs=0.2 * error)
    with pytest.raises(ValueError, match="level is 1; it must lie between 0 and 1"):
        estimate.interval(1)


def test_an_interval_stays_within_what_the_metric_can_be():
    features = drawn(1, 60, 4)
    whole = Bootstrap(60, 50).estimate(frechet(features, features), low=0)
    assert whole.value == pytest.approx(0, abs=1e-6) and whole.interval()[0] == 0 < whole.interval()[1]


METRICS = {
    "FID": (lambda reference, rows: frechet(reference, rows), 1.0),
    "KID": (lambda reference, rows: kid(reference, rows), 1.0),
    "IS": (lambda reference, rows: inception_score(rows.softmax(1)), 1.0),
    "precision": (lambda reference, rows: precision(reference, rows), 1.0),
    "recall": (lambda reference, rows: recall(reference, rows), DRAWN_OR_NOT),
}


@pytest.mark.parametrize("name", METRICS)
def test_other_sets_of_the_size_lie_in_the_interval_as_often_as_it_says(name):
    make, spread = METRICS[name]
    reference, rows = drawn(1, 250, 8), drawn(2, 60 * 100, 8)
    estimates = [Bootstrap(100, 60, seed).estimate(make(reference, part), spread=spread)
                 for seed, part in enumerate(rows.split(100))]
    values = torch.tensor([estimate.value for estimate in estimates])
    spreads = torch.tensor([estimate.resamples.std() for estimate in estimates])
    assert spreads.mean().item() == pytest.approx(values.std().item(), rel=0.25)
    held = [low <= values.mean() <= high for low, high in (estimate.interval(0.9) for estimate in estimates)]
    assert 0.78 <= sum(held) / len(held) <= 0.99


def test_settings_that_share_their_seeds_are_compared_more_surely_than_each_is_known():
    reference, plain = all_of(1, 300), all_of(2, 200)
    better = Features(plain.pooled * 0.9, plain.spatial * 0.9, plain.probabilities)
    bootstrap = Bootstrap(200)
    a, b = (measure(reference, samples, bootstrap)["FID"] for samples in (plain, better))
    difference = a - b
    assert difference.value == pytest.approx(a.value - b.value)
    assert difference.resamples.std() < 0.5 * a.resamples.std()
    gain = combine(lambda a, b: 1 - b / a, a, b)
    assert gain.value == pytest.approx(1 - b.value / a.value) and gain.interval()[0] < gain.value < gain.interval()[1]
    with pytest.raises(ValueError, match="resampled differently"):
        a - measure(reference, plain, Bootstrap(200, seed=1))["FID"]


# All of them.

def test_measure_gives_every_metric_with_its_interval():
    reference, samples = all_of(1, 120), all_of(2, 90)
    found = measure(reference, samples, Bootstrap(90, 40))
    assert list(found) == list(HIGHER_IS_BETTER)
    assert found["sFID"].value == pytest.approx(value(frechet(reference.spatial, samples.spatial), 90))
    assert found["FID"].value != found["sFID"].value
    for estimate in found.values():
        low, high = estimate.interval()
        assert low < estimate.value < high
    (alone,) = measure(reference, samples, Bootstrap(90, 40), names=("IS",)).values()
    assert alone.value == found["IS"].value and alone.resamples.equal(found["IS"].resamples)


def test_measure_refuses_what_cannot_be_compared():
    reference, samples = all_of(1, 120), all_of(2, 90)
    with pytest.raises(ValueError, match="the metric LPIPS is unknown; there are FID"):
        measure(reference, samples, Bootstrap(90), names=("FID", "LPIPS"))
    with pytest.raises(ValueError, match="of 80 samples, and there are 90"):
        measure(reference, samples, Bootstrap(80))
    with pytest.raises(ValueError, match="pooled features are 5 of the samples and 8 of the reference"):
        measure(reference, all_of(2, 90, 5), Bootstrap(90))
