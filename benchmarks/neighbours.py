"""The scenes that are most like a sample, among those that a model may have seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Nearest:
    """For each of N rows, the most similar one of a long list.

    Args:
        index: its place in the list, [N].
        distance: root of the mean squared difference, [N].
    """

    index: Tensor
    distance: Tensor


def nearest(rows: Tensor, chunks: Iterable[Tensor]) -> Nearest:
    """Search a list that need not fit into memory.

    Args:
        rows: [N, ...], of any number type; compared as vectors of D numbers.
        chunks: the list, in parts [M, ...].

    Raises:
        ValueError: the list is empty.
    """
    rows = rows.flatten(1).float()
    index = torch.full((len(rows),), -1)
    distance = torch.full((len(rows),), torch.inf)
    start = 0
    for chunk in chunks:
        found = torch.cdist(rows, chunk.flatten(1).float()).min(dim=1)
        closer = found.values < distance
        index, distance = torch.where(closer, found.indices + start, index), found.values.minimum(distance)
        start += len(chunk)
    if not start:
        raise ValueError("there is nothing to search for neighbours in")
    return Nearest(index, distance / rows.shape[1] ** 0.5)
