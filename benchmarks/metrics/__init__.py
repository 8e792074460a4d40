"""How good a set of samples is, by the features of a network: values, and intervals by resampling.

    bootstrap = Bootstrap(len(samples))
    estimates = measure(reference, samples, bootstrap)
    estimates["FID"].value, estimates["FID"].interval(0.9)

Each metric is a function of features and of how often each sample was drawn (bootstrap.py). The reference is taken as
fixed: an interval says how the metric varies with the samples, not with the reference.
"""

from __future__ import annotations

from benchmarks.metrics.bootstrap import DRAWN_OR_NOT, Bootstrap, Estimate
from benchmarks.metrics.frechet import frechet
from benchmarks.metrics.inception_score import inception_score
from benchmarks.metrics.kernel import kid
from benchmarks.metrics.manifold import precision, recall
from benchmarks.networks import Features

# Whether more of a metric is better.
HIGHER_IS_BETTER = {"FID": False, "sFID": False, "KID": False, "IS": True, "precision": True, "recall": True}


def measure(reference: Features, samples: Features, bootstrap: Bootstrap, neighbours: int = 3,
            names: tuple[str, ...] = tuple(HIGHER_IS_BETTER)) -> dict[str, Estimate]:
    """Metrics of a set of samples, by name.

    Args:
        reference: features of the reference set.
        samples: features of the samples, by the same network.
        bootstrap: of as many samples.
        neighbours: k of precision and recall.
        names: which metrics.

    Raises:
        ValueError: the features are of different networks, the bootstrap of another number, or a name is unknown.
    """
    if unknown := set(names) - set(HIGHER_IS_BETTER):
        raise ValueError(f"the metric {', '.join(sorted(unknown))} is unknown; there are {', '.join(HIGHER_IS_BETTER)}")
    if bootstrap.samples != len(samples):
        raise ValueError(f"the bootstrap is of {bootstrap.samples} samples, and there are {len(samples)}")
    for name, tensor in samples.tensors().items():
        if tensor.shape[1:] != (other := reference.tensors()[name]).shape[1:]:
            raise ValueError(f"{name} features are {tensor.shape[1]} of the samples and {other.shape[1]} of the "
                             "reference; take both by the same network, of images of one size")
    pooled, others = reference.pooled, samples.pooled
    metrics = {
        "FID": lambda: bootstrap.estimate(frechet(pooled, others), low=0),
        "sFID": lambda: bootstrap.estimate(frechet(reference.spatial, samples.spatial), low=0),
        "KID": lambda: bootstrap.estimate(kid(pooled, others)),
        "IS": lambda: bootstrap.estimate(inception_score(samples.probabilities), low=1),
        "precision": lambda: bootstrap.estimate(precision(pooled, others, neighbours), low=0, high=1),
        "recall": lambda: bootstrap.estimate(recall(pooled, others, neighbours), low=0, high=1, spread=DRAWN_OR_NOT),
    }
    return {name: metrics[name]() for name in names}
