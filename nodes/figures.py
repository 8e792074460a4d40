"""Figures of a recording and its images: masks side by side as in the paper's figure 3, a film strip, an animation."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ..sag_core.masks import place
from ..sag_core.render import heatmap, overlay, resize
from ..sag_core.strategies import STRATEGIES
from ..sag_core.trace import Recording
from .pictures import token_maps
from .sheets import labelled, legible, tile, to_image, to_pictures

STYLES = ("side by side", "film strip", "animation")
SIDE = 192  # pixels that an image is enlarged to at least, or nobody sees anything
MOST = 8  # images that are shown
ALL_STEPS = "all steps"


def side_by_side(recording: Recording, step: int, threshold: float, image: Tensor, objects: Tensor | None) -> Tensor:
    """Object, frequency and attention masks of every image (SAG, fig. 3), as one picture.

    The frequency mask covers as many tokens as the attention mask: those where the image differs most from its blur.

    Args:
        recording: the run that made the images.
        step: whose attention; -1 for the mean over all, as in the paper.
        threshold: psi.
        image: [B, H, W, 3].
        objects: [B, H', W'] or [1, H', W'], None for no such column.

    Raises:
        ValueError: no such step, no attention above the threshold, or other numbers of images.
    """
    maps = token_maps(recording, step, len(image))
    attended = above(maps, threshold)
    detail = STRATEGIES["high-frequency"](attended, image[..., :3].movedim(-1, 1), 0)
    size = image.shape[1:3]
    columns = {"image": image}
    if objects is not None:
        columns["object"] = dimmed(image, resize(matching(objects, len(image))[:, None].float(), size))
    columns["frequency"] = dimmed(image, place(detail, size))
    columns["self-attention"] = dimmed(image, place(attended, size))
    columns["attention"] = heatmap(place(maps, size))
    rows = zip(*(pictures(values[:MOST]) for values in columns.values()), strict=True)
    of = f" ({MOST} of {len(image)} images)" if len(image) > MOST else ""
    return to_image([labelled(list(rows), list(columns), title=f"{_named(step)}, threshold {threshold:g}{of}")])


def film_strip(recording: Recording, image: Tensor, frames: int) -> Tensor:
    """The attention at steps spread evenly over the run, and over all of it, as one picture with a row an image."""
    chosen = spread(len(recording.steps), frames)
    size = image.shape[1:3]
    columns = {"image": image[:MOST]}
    columns |= {f"step {step}\nsigma {recording.steps[step].sigma:.3g}": heatmap(place(
        token_maps(recording, step, len(image))[:MOST], size)) for step in chosen}
    columns[ALL_STEPS] = heatmap(place(token_maps(recording, -1, len(image))[:MOST], size))
    rows = zip(*(pictures(values) for values in columns.values()), strict=True)
    return to_image([labelled(list(rows), list(columns))])


def animation(recording: Recording, threshold: float, image: Tensor, frames: int) -> Tensor:
    """The attention over the images as it goes from step to step: [frames, H', W', 3]."""
    image = image[..., :3]
    shown, size = image[:MOST], image.shape[1:3]
    film = []
    for step in spread(len(recording.steps), frames):
        maps = token_maps(recording, step, len(image))[:MOST]
        over = overlay(shown, place(maps, size), place((maps > threshold).float(), size))
        # Numbers of one width keep the frames of one size.
        name = f"step {step:>3} of {len(recording.steps)}, sigma {recording.steps[step].sigma:8.3f}"
        sheet = tile(pictures(over), columns=min(4, len(shown)), gap=8)
        film.append(labelled([[sheet]], [""], title=name))
    wide = max(frame.width for frame in film)
    return to_image([_widened(frame, wide) for frame in film])


def spread(steps: int, frames: int) -> list[int]:
    """At most so many steps, spread evenly from the first to the last."""
    count = min(steps, max(frames, 1))
    return [round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)]


def above(maps: Tensor, threshold: float) -> Tensor:
    """Tokens that are attended to, 0 or 1.

    Raises:
        ValueError: there are none.
    """
    if not (maps > threshold).any():
        raise ValueError(f"threshold is {threshold:g}; no attention is above it, the highest is {maps.max():.2f}")
    return (maps > threshold).float()


def matching(mask: Tensor, images: int) -> Tensor:
    """A user's mask, [B, H, W] or [H, W], one for each image.

    Raises:
        ValueError: there are neither one nor as many as images.
    """
    mask = mask[None] if mask.ndim == 2 else mask
    if len(mask) not in (1, images):
        raise ValueError(f"mask holds {len(mask)} masks for {images} images; connect one, or one for each")
    return mask.cpu().expand(images, -1, -1)


def dimmed(image: Tensor, mask: Tensor) -> Tensor:
    """The image where the mask [B, 1, H, W] is 1, and nearly black elsewhere."""
    return torch.lerp(0.15 * image[..., :3], image[..., :3], mask[:, 0, :, :, None].to(image))


def pictures(images: Tensor) -> list[Image.Image]:
    """IMAGE as pictures that are large enough to see."""
    return [legible(picture, SIDE) for picture in to_pictures(images)]


def _named(step: int) -> str:
    return "attention over all steps" if step == -1 else f"attention at step {step}"


def _widened(picture: Image.Image, width: int) -> Image.Image:
    frame = Image.new("RGB", (width, picture.height), picture.getpixel((0, 0)))
    frame.paste(picture, (0, 0))
    return frame
