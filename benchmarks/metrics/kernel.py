"""Kernel distance between feature distributions: KID."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.metrics.bootstrap import Statistic

ROWS = 1024


def kid(reference: Tensor, features: Tensor) -> Statistic:
    """Squared maximum mean discrepancy with the kernel (a b / D + 1)^3 (KID, arXiv 1801.01401), unbiased.

    It is taken of all pairs at once, where published figures average it over subsets of 1,000: the same on average,
    with less noise. Pairs of a sample with its own repetition in a resample are left out, as those with itself are.

    Args:
        reference: features of the reference set [M, D].
        features: of the samples [N, D].
    """
    within = _within(reference)
    reference, features = reference.double(), features.double()
    own = _diagonal(features)

    def statistic(weights: Tensor) -> Tensor:
        weights = weights.double()
        among, across = torch.zeros(2, len(weights), dtype=torch.float64)
        for rows, part in zip(features.split(ROWS), weights.T.split(ROWS), strict=True):
            among += (part * (_kernel(rows, features) @ weights.T)).sum(0)
            across += part.T @ _kernel(rows, reference).sum(1)
        squares, count = weights.square(), weights.sum(1)
        among = (among - squares @ own) / (count.square() - squares.sum(1))
        return within + among - 2 * across / (count * len(reference))

    return statistic


@lru_cache(maxsize=1)  # by identity: one reference is held against many sets
def _within(reference: Tensor) -> Tensor:
    """Mean kernel of all pairs of different samples."""
    features = reference.double()
    total = torch.stack([_kernel(rows, features).sum() for rows in features.split(ROWS)]).sum()
    return (total - _diagonal(features).sum()) / (len(features) * (len(features) - 1))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _diagonal(features: Tensor) -> Tensor:
    return (features.square().mean(1) + 1) ** 3

