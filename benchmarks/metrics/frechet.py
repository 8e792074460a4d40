"""Frechet distance between feature distributions taken as Gaussian: FID on pooled features, sFID on spatial ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.metrics.bootstrap import Statistic


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        features = features.double()
        return cls(features.mean(0), torch.cov(features.T).view(features.shape[1], -1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (FID, arXiv 1706.08500)."""
    return _distance(a, _root(a.covariance), b)


def frechet(reference: Tensor, features: Tensor) -> Statistic:
    """FID (arXiv 1706.08500) of weighted samples; sFID (arXiv 2103.03841) where the features are spatial.

    Args:
        reference: features of the reference set [M, D].
        features: of the samples [N, D].
    """
    fixed = Moments.of(reference)
    root, features = _root(fixed.covariance), features.double()
    # Near the origin nothing is lost where the square of the mean is taken away.
    centre = features.mean(0)
    centred = features - centre

    def weighted(weights: Tensor) -> Moments:
        drawn = weights.nonzero()[:, 0]
        rows, times, count = centred[drawn], weights[drawn, None], weights.sum()
        mean = (rows * times).sum(0) / count
        covariance = ((rows * times).T @ rows - count * mean[:, None] * mean) / (count - 1)
        return Moments(mean + centre, covariance)

    return lambda weights: torch.tensor([_distance(fixed, root, weighted(row)) for row in weights.double()])


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _distance(a: Moments, root: Tensor, b: Moments) -> float:
    # C_a C_b and the symmetric root(C_a) C_b root(C_a) have the same eigenvalues.
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return distance.item()
