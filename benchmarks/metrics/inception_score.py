"""Inception Score: samples that a classifier is sure of, of all its classes."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.metrics.bootstrap import Statistic


def inception_score(probabilities: Tensor) -> Statistic:
    """exp(mean_x KL(p(y|x) || p(y))) (arXiv 1606.03498), of the set as a whole.

    Published figures average it over ten parts of the set, which measures smaller sets and lies a little lower.

    Args:
        probabilities: p(y|x), [N, K], rows of sum 1.
    """
    probabilities = probabilities.double()
    sureness = torch.xlogy(probabilities, probabilities).sum(1)

    def statistic(weights: Tensor) -> Tensor:
        shares = weights.double() / weights.sum(1, keepdim=True)
        marginal = shares @ probabilities
        return (shares @ sureness - torch.xlogy(marginal, marginal).sum(1)).exp()

    return statistic
