"""Keeping guided predictions in the range of images. Projection and rescale are off in the paper, and at 0."""

from __future__ import annotations

import torch
from torch import Tensor

# A prediction with less than this part of the wanted deviation is flat: no factor gives it any.
FLAT = 1e-4


def project(direction: Tensor, base: Tensor, amount: float) -> Tensor:
    """Take from a guidance what only makes the prediction more of what it is.

    The part of the direction parallel to the prediction raises contrast and saturation; the rest changes the image
    (adaptive projected guidance, arXiv 2410.02416, sec. 4; there for classifier-free guidance).

    Args:
        direction: what guidance adds, [B, ...].
        base: prediction that it is added to, the same shape.
        amount: 0 leaves the direction, 1 takes all of the parallel part.
    """
    if amount == 0:
        return direction
    dims = tuple(range(1, base.ndim))
    wide = torch.promote_types(base.dtype, torch.float32)
    d, b = direction.to(wide), base.to(wide)
    # By its largest value, so that no square is lost or overflows. A prediction of 0 has nothing parallel to it.
    b = b / b.abs().amax(dims, keepdim=True).clamp(min=torch.finfo(wide).tiny)
    share = (d * b).sum(dims, keepdim=True) / (b * b).sum(dims, keepdim=True).clamp(min=torch.finfo(wide).tiny)
    return (d - amount * share * b).to(direction.dtype)


def clamp_guided(base: Tensor, guided: Tensor, own: Tensor, cfg: Tensor, limits: tuple[float, float]) -> Tensor:
    """Clamp guidance as the authors' pixel-space samplers do, whose prediction is clamped after guidance alone.

    The guided branch is clamped with its guidance instead of before it. Where `base` is that branch's clamped
    prediction, this is the authors' result. What classifier-free guidance has left outside of the range, this one takes
    no further out; what guidances after it have added is added again unclamped, as the authors do with a classifier's.

    Args:
        base: prediction that was guided, [B, ...].
        guided: the same with guidance.
        own: the guided branch's prediction before it was clamped.
        cfg: result of classifier-free guidance by clamped predictions, before other guidances.
        limits: lowest and highest value of an image.
    """
    clean, image = own.clamp(*limits), (own + (guided - base)).clamp(*limits)
    moved = torch.where(cfg == clean, image, cfg + (image - clean))
    low, high = limits
    return torch.minimum(torch.maximum(moved, cfg.clamp(max=low)), cfg.clamp(min=high)) + (base - cfg)


def rescale(guided: Tensor, reference: Tensor, amount: float) -> Tensor:
    """Give a guided prediction the spread of an unguided one (arXiv 2305.08891, eq. 14-16; there for CFG).

    Args:
        guided: guided prediction [B, ...].
        reference: prediction whose standard deviation it takes, each sample by itself.
        amount: 0 leaves the prediction, 1 matches the deviation.

    A flat prediction is left as it is, and so is one of a single value, which has no deviation.
    """
    if amount == 0 or guided[0].numel() < 2:
        return guided
    dims = tuple(range(1, guided.ndim))
    wide = torch.promote_types(guided.dtype, torch.float32)
    own, wanted = (t.to(wide).std(dim=dims, keepdim=True) for t in (guided, reference))
    flat = own <= FLAT * wanted
    factor = torch.where(flat, 1.0, wanted / torch.where(flat, 1.0, own))
    return torch.lerp(guided.to(wide), guided.to(wide) * factor, amount).to(guided.dtype)
