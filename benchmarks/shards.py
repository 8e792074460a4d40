"""Work shared by the processes that torchrun starts, on one machine or several; alone, all of it is one process's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist


def processes() -> tuple[int, int]:
    """(rank, world): which process this is, and of how many; from the process group, else torchrun's environment.

    Raises:
        ValueError: the environment names a rank that its world does not have.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < world:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE is {world}; start with torchrun")
    return rank, world


def shard(indices: Iterable[int], rank: int | None = None, world: int | None = None) -> list[int]:
    """The part of `indices` that is this process's: those that leave `rank` when divided by `world`.

    Which part an index belongs to depends on nothing but the index, so processes that see a different state of a store
    never leave an index to each other: shard first, then ask what is missing.
    """
    own_rank, own_world = processes()
    rank, world = own_rank if rank is None else rank, own_world if world is None else world
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world}; it must be from 0 to {world - 1}")
    return [index for index in indices if index % world == rank]


@contextmanager
def group() -> Iterator[tuple[int, int]]:
    """A process group (gloo, on the CPU) where torchrun started several processes; (rank, world) either way."""
    rank, world = processes()
    opened = world > 1 and not dist.is_initialized()
    if opened:
        # Who has little left to draw waits for who has much.
        dist.init_process_group("gloo", timeout=timedelta(days=365))
    try:
        yield rank, world
    finally:
        if opened:
            dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here; nothing where there is one process, or no group."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
