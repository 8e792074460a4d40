"""Fixtures of the core suite: dtypes with their tolerances, and random numbers that every run repeats."""

from __future__ import annotations

import pytest
import torch

# Relative and absolute error of a few roundings of values near 1.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(params=TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def tolerance(dtype) -> dict[str, float]:
    """Keywords of `torch.testing.assert_close` for a result in `dtype`."""
    return {"rtol": TOLERANCES[dtype], "atol": TOLERANCES[dtype]}


@pytest.fixture
def normal():
    """`normal(*shape)`: standard normal numbers, float64 unless told."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape, dtype=torch.float64: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
