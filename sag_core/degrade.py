"""Hide what the model attends to: blur, blend, re-noise."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor


class Process(Enum):
    """Process that makes a noisy sample of the clean sample x0 and noise n at noise level sigma."""

    VARIANCE_EXPLODING = "x = x0 + sigma n"
    FLOW_MATCHING = "x = (1 - sigma) x0 + sigma n"
    VARIANCE_PRESERVING = "x = (x0 + sigma n) / sqrt(1 + sigma^2)"

    def signal(self, sigma: Tensor) -> Tensor:
        """Factor of x0 in x, a(sigma)."""
        if self is Process.FLOW_MATCHING:
            return 1 - sigma
        if self is Process.VARIANCE_PRESERVING:
            return (1 + sigma ** 2) ** -0.5
        return torch.ones_like(sigma)


def degrade(denoised: Tensor, mask: Tensor, blur_sigma: float, blur_kernel: int = 0) -> Tensor:
    """Blur the clean prediction where the mask is 1: M * blur(x0) + (1 - M) * x0 (SAG, eq. 10).

    Args:
        denoised: clean prediction x0 [B, C, H, W] or [B, C, T, H, W].
        mask: broadcastable to it, 0..1.
        blur_sigma, blur_kernel: of `gaussian_blur`.

    Example:
        >>> mask = torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]])
        >>> degrade(4 * mask, mask, blur_sigma=0.85, blur_kernel=3).round(decimals=1).flatten().tolist()
        [0.0, 0.0, 2.0, 0.0, 0.0]
    """
    return torch.lerp(denoised, gaussian_blur(denoised, blur_sigma, blur_kernel), mask.to(denoised))


def renoise(x: Tensor, denoised: Tensor, degraded: Tensor, sigma: Tensor,
            process: Process = Process.VARIANCE_EXPLODING) -> Tensor:
    """Noise the degraded prediction with the model's own noise at this step (SAG, eq. 11).

    The noise of x given x0 is kept, so only the signal changes: x + a(sigma) * (x0_deg - x0).

    Args:
        x: noisy sample.
        denoised, degraded: its clean prediction, before and after `degrade`.
        sigma: noise level, [B] or scalar.
        process: how x was made of x0 and noise.
    """
    signal = process.signal(sigma).to(x).reshape(-1, *[1] * (x.ndim - 1))
    return x + signal * (degraded - denoised)


def gaussian_blur(x: Tensor, blur_sigma: float, blur_kernel: int = 0) -> Tensor:
    """Gaussian blur over the last two dimensions, with reflect padding that no kernel is too wide for.

    Args:
        x: [..., H, W].
        blur_sigma: standard deviation in pixels of x; 0 is the identity.
        blur_kernel: taps, odd; 0 takes a radius of ceil(4 blur_sigma), so that the kernel grows with sigma.

    Raises:
        ValueError: `blur_sigma` is negative or not finite, or `blur_kernel` is even or negative.

    Example:
        >>> line = torch.tensor([[0.0, 0.0, 4.0, 0.0, 0.0]])
        >>> gaussian_blur(line, blur_sigma=0.85, blur_kernel=3).round(decimals=1).tolist()
        [[0.0, 1.0, 2.0, 1.0, 0.0]]
    """
    if not (math.isfinite(blur_sigma) and blur_sigma >= 0):
        raise ValueError(f"blur_sigma is {blur_sigma}; it must be a finite number, 0 or more")
    if blur_kernel and (blur_kernel < 0 or blur_kernel % 2 == 0):
        raise ValueError(f"blur_kernel is {blur_kernel}; it must be odd, or 0 to follow blur_sigma")
    if blur_sigma == 0:
        return x
    radius = blur_kernel // 2 if blur_kernel else math.ceil(4 * blur_sigma)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    sides = {side: _blur_matrix(side, blur_sigma, radius).to(wide, non_blocking=True) for side in x.shape[-2:]}
    rows, columns = (sides[side] for side in x.shape[-2:])
    return (rows @ wide @ columns.T).to(x.dtype)


def _blur_matrix(side: int, blur_sigma: float, radius: int) -> Tensor:
    """The blur of a line of `side` pixels as a matrix [side, side], reflections folded in, float64."""
    offset = torch.arange(-radius, radius + 1)
    taps = torch.exp(-0.5 * (offset.double() / blur_sigma) ** 2)
    taps /= taps.sum()
    # Reflection about the outer pixels' centres repeats with period 2 (side - 1).
    period = max(1, 2 * (side - 1))
    source = (torch.arange(side)[:, None] + offset) % period
    source = torch.minimum(source, period - source).clamp(max=side - 1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, source, taps.expand(side, -1))
