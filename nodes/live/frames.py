"""A step of a run as a few kilobytes for the browser: the forming image, the attention map and the mask.

On the sampling device everything is made small and put into one tensor of bytes, so that a step costs one small copy
which nobody waits for; what is slow (JPEG, base64) is for another thread. Colours are the browser's affair: maps travel
as values.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# Below this many pixels JPEG's blocks show, and lossless is as small.
_LOSSLESS = 96 * 96


@dataclass(frozen=True)
class Snapshot:
    """A step, small, as bytes on their way to the CPU.

    Args:
        data: uint8 [N]: the image, the map and the mask, one after another.
        image: (h, w) of the forming image, None where there is no picture of it.
        grid: (h, w) of the map, None where the step has none.
        mask: (h, w) of the mask, None where the step has none.
        extent: part of the image's height and width that the map covers, 1 or a little more.
        ready: what to wait for before reading `data`; None where it is complete.
    """

    data: Tensor
    image: tuple[int, int] | None
    grid: tuple[int, int] | None
    mask: tuple[int, int] | None
    extent: tuple[float, float] = (1.0, 1.0)
    ready: torch.cuda.Event | None = None


def take(rgb: Tensor | None, attn_map: Tensor | None, mask: Tensor | None, size: Sequence[int]) -> Snapshot:
    """Start copying a step to the CPU.

    Args:
        rgb: the forming image [h, w, 3] in 0..1.
        attn_map: map of that image [h, w].
        mask: what is blurred [h, w], bool or uint8 from 0 to 255.
        size: (H, W) of the sample, on which the map's tokens lie.
    """
    parts = []
    if rgb is not None:
        parts.append(rgb.float().mul(255).round().to(torch.uint8))
    if attn_map is not None:
        low, high = attn_map.aminmax()
        parts.append(((attn_map - low) * (255 / (high - low).clamp(min=1e-12))).round().to(torch.uint8))
    if mask is not None:
        parts.append(mask.to(torch.uint8) * 255 if mask.dtype == torch.bool else mask)
    data, ready = torch.cat([part.flatten() for part in parts]) if parts else torch.empty(0, dtype=torch.uint8), None
    if data.is_cuda:
        data = data.to("cpu", non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
    shapes = [None if t is None else tuple(t.shape[:2]) for t in (rgb, attn_map, mask)]
    extent = (1.0, 1.0) if attn_map is None else tuple(map(_extent, attn_map.shape, size))
    return Snapshot(data.cpu(), *shapes, extent, ready)


def shrink(picture: Tensor, side: int) -> Tensor:
    """A picture [B, C, H, W] in float32, its longer side at most `side`."""
    height, width = picture.shape[2:]
    factor = side / max(height, width)
    if factor >= 1:
        return picture.float()
    return F.interpolate(picture.float(), size=(max(1, round(height * factor)), max(1, round(width * factor))),
                         mode="area")


def thin(plane: Tensor, side: int) -> Tensor:
    """Every k-th value of a plane [h, w], so that its longer side is at most `side`: its values stay what they are."""
    every = -(-max(plane.shape) // side)
    return plane[::every, ::every]


def develop(snapshot: Snapshot) -> dict:
    """A snapshot as JSON: `image` a data URL, `map` and `mask` base64 of bytes with their sizes, `coverage` 0..1."""
    if snapshot.ready is not None:
        snapshot.ready.synchronize()
    frame, data, start = {}, snapshot.data.numpy(), 0
    if snapshot.image is not None:
        start = math.prod(snapshot.image) * 3
        frame["image"] = _data_url(Image.fromarray(data[:start].reshape(*snapshot.image, 3)))
    if snapshot.grid is not None:
        values, start = data[start:start + math.prod(snapshot.grid)], start + math.prod(snapshot.grid)
        frame |= {"map": _base64(values.tobytes()), "grid": snapshot.grid, "extent": snapshot.extent}
    if snapshot.mask is not None:
        values = data[start:]
        frame |= {"mask": _base64(values.tobytes()), "mask_size": snapshot.mask,
                  "coverage": round(float(values.mean()) / 255, 4)}
    return frame


def _extent(tokens: int, pixels: int) -> float:
    """Returns how far a map reaches beyond the sample: the last of its power-of-two patches may hang over the edge."""
    patch = 2 ** max(0, math.ceil(math.log2(pixels / tokens)))
    return tokens * patch / pixels if -(-pixels // patch) == tokens else 1.0


def _data_url(image: Image.Image) -> str:
    lossless, buffer = image.width * image.height <= _LOSSLESS, io.BytesIO()
    image.save(buffer, **({"format": "PNG", "compress_level": 1} if lossless else {"format": "JPEG", "quality": 85}))
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{_base64(buffer.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
