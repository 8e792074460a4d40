"""A recording as the host's IMAGE [B, H, W, 3] and MASK [B, H, W]."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..sag_core.masks import place
from ..sag_core.render import contact_sheet, heatmap, overlay, resize
from ..sag_core.trace import Recording

STYLES = ("heatmap", "mask", "overlay", "sheet")
# A picture without an image to follow is enlarged to at least this many pixels, or nobody sees anything.
LEGIBLE = 512


def picture(recording: Recording, step: int, style: str, image: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws a recording: an IMAGE in a style of `STYLES` and the MASK of what is attended to.

    Args:
        recording: a sampling run.
        step: a step, counted from 0, or -1 for the mean over all of them.
        image: the decoded images [B, H, W, 3], whose size both take; a video's frames count as images.

    Raises:
        ValueError: there is no such step, or images and maps are not equally many.
    """
    attn_map = recording.attn_map(step)
    values = _frames(place(attn_map, recording.size))
    mask = _frames(recording.mask(step))
    if image is not None:
        if attn_map.ndim == 4 and 1 < len(image) != len(values):
            values, mask = (_in_time(t, len(attn_map), len(image)) for t in (values, mask))
        if len(image) not in (1, len(values)):
            raise ValueError(f"image holds {len(image)} images; this run has {len(values)}")
        values, mask = (resize(t, image.shape[1:3]) for t in (values, mask))
    if style == "sheet":
        steps = [heatmap(_legible(_frames(place(s.attn_map, recording.size)), 128)) for s in recording.steps]
        sheet = rearrange(torch.stack(steps), "steps b h w c -> (b steps) h w c")
        return contact_sheet(sheet, columns=len(steps)), mask[:, 0]
    if image is None:
        values, shown = _legible(values, LEGIBLE), _legible(mask, LEGIBLE)
        image = torch.zeros(1, *values.shape[2:], 3)
    else:
        shown = mask
    if style == "overlay":
        return overlay(image[..., :3].expand(len(values), -1, -1, -1), values, shown), mask[:, 0]
    if style == "mask":
        return rearrange(shown, "b 1 h w -> b h w 1").expand(-1, -1, -1, 3), mask[:, 0]
    return heatmap(values), mask[:, 0]


def blank(samples: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
    """A black IMAGE and an empty MASK, of the sizes that `picture` gives to a run that made these samples."""
    images = len(samples) * samples.shape[2:-2].numel() if image is None or len(image) == 1 else len(image)
    mask = torch.zeros(images, *(samples.shape[-2:] if image is None else image.shape[1:3]))
    shown = _legible(mask[:, None], LEGIBLE)[:, 0] if image is None else mask
    return shown[..., None].repeat(1, 1, 1, 3), mask


def token_maps(recording: Recording, step: int, images: int | None = None) -> Tensor:
    """The map of a step on the layer's own grid, one for each image: [images, h, w], float32.

    Args:
        recording: a sampling run.
        step: a step, counted from 0, or -1 for the mean over all of them.
        images: how many there are; None for as many as the run made. A video's frames count as images.

    Raises:
        ValueError: there is no such step, or images and maps are not equally many.
    """
    attn_map = recording.attn_map(step).float()
    values = _frames(attn_map[:, None])
    if images is not None and attn_map.ndim == 4 and images != len(values):
        values = _in_time(values, len(attn_map), images)
    if images is not None and images != len(values):
        raise ValueError(f"there are {images} images; this run has {len(values)}. Decode its own LATENT")
    return values[:, 0]


def _frames(values: Tensor) -> Tensor:
    """[B, 1, H, W], with the frames of a video one after another."""
    return rearrange(values, "b c t h w -> (b t) c h w") if values.ndim == 5 else values


def _in_time(values: Tensor, batch: int, images: int) -> Tensor:
    """The frames of `batch` videos, repeated as often as a video decoder makes images of a frame.

    Causal decoders make one image of the first frame and so many of every other; the rest divide the time evenly.
    """
    frames, length = len(values) // batch, images // batch
    image = torch.arange(length)
    causal = frames > 1 and length > 1 and (length - 1) % (frames - 1) == 0
    frame = -(-image * (frames - 1) // (length - 1)) if causal else image * frames // max(length, 1)
    return rearrange(rearrange(values, "(b t) c h w -> b t c h w", b=batch)[:, frame], "b t c h w -> (b t) c h w")


def _legible(values: Tensor, pixels: int) -> Tensor:
    """Enlarge by a whole number until the longer side has `pixels`."""
    factor = max(1, -(-pixels // max(values.shape[2:])))
    return values.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
