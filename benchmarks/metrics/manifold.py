"""Precision and recall by nearest neighbours (arXiv 1904.06991).

The manifold of a set is the union of balls about its samples, each as wide as the distance to its k-th neighbour in
the set. Precision is the share of samples in the reference's manifold, recall that of the reference in theirs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.metrics.bootstrap import Statistic

ROWS = 512
MANY = 256


def radii(features: Tensor, neighbours: int = 3) -> Tensor:
    """Distance of every sample [N, D] to its k-th nearest other sample, [N].

    Raises:
        ValueError: the set has no k others.
    """
    if not 1 <= neighbours < len(features):
        raise ValueError(f"neighbours is {neighbours}; it must be from 1 to {len(features) - 1}, the other samples")
    # The nearest of all is the sample itself.
    return torch.cat([_distances(rows, features).kthvalue(neighbours + 1, dim=1).values
                      for rows in features.split(ROWS)])


# By identity: one reference is held against many sets, and all its pairs take longer than everything else.
_radii_of_reference = lru_cache(maxsize=1)(radii)


def precision(reference: Tensor, features: Tensor, neighbours: int = 3) -> Statistic:
    """Share of weighted samples [N, D] that lie in the manifold of the reference [M, D]."""
    reach = _radii_of_reference(reference, neighbours)
    inside = torch.cat([(_distances(rows, reference) <= reach).any(1) for rows in features.split(ROWS)]).double()
    return lambda weights: weights.double() @ inside / weights.sum(1)


def recall(reference: Tensor, features: Tensor, neighbours: int = 3) -> Statistic:
    """Share of the reference [M, D] in the manifold of weighted samples [N, D].

    In a resample the balls of the samples drawn keep their size: about one that was drawn often there would be none.
    So it matters whether a sample was drawn, not how often (bootstrap.DRAWN_OR_NOT).
    """
    reach = radii(features, neighbours)

    def statistic(weights: Tensor) -> Tensor:
        drawn = (weights > 0).float().T
        covered = sum(((_distances(rows, features) <= reach).float() @ drawn > 0).sum(0)
                      for rows in reference.split(ROWS))
        return covered.double() / len(reference)

    return statistic


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By subtraction: a matrix product puts a sample a little away from itself. With many features only that is quick.
    mode = "use_mm_for_euclid_dist" if a.shape[1] > MANY else "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.double(), b.double(), compute_mode=mode)
