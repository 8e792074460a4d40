"""The examples in docstrings of the library do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import sag_core

MODULES = ["sag_core", *(module.name for module in pkgutil.walk_packages(sag_core.__path__, "sag_core."))]


def denoiser(x, sigma):
    return x / (1 + sigma ** 2).sqrt()


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    torch.manual_seed(0)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor(1.0)
    given = {"torch": torch, "x": x, "sigma": sigma, "denoiser": denoiser, "denoised": denoiser(x, sigma), "scale": 0.5,
             "q": torch.randn(2, 2, 16, 8), "k": torch.randn(2, 2, 16, 8), "h": 4, "w": 4}
    assert doctest.testmod(importlib.import_module(name), extraglobs=given).failed == 0


def test_the_five_lines_are_the_papers_step():
    torch.manual_seed(0)
    x, sigma, q, k = torch.randn(2, 4, 8, 8), torch.tensor(1.0), torch.randn(2, 2, 16, 8), torch.randn(2, 2, 16, 8)
    names = {"x": x, "sigma": sigma, "denoiser": denoiser, "denoised": denoiser(x, sigma), "scale": 0.5, "q": q, "k": k,
             "h": 4, "w": 4, **vars(sag_core)}
    (example,) = (test for test in doctest.DocTestFinder().find(sag_core) if test.name == "sag_core")
    assert len(example.examples) == 5
    for line in example.examples:
        exec(line.source, names)  # noqa: S102
    expected = sag_core.self_attention_guidance(
        names["denoised"], x, names["denoised"], sag_core.to_grid(sag_core.column_mass(q, k), (4, 4)), sigma,
        lambda at: denoiser(at, sigma))
    assert torch.equal(names["guided"], expected)
