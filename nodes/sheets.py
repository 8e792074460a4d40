"""Images under headings, beside each other and below each other, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND, INK, GAP = (24, 24, 27), (235, 235, 235), 8


def to_pictures(images: Tensor) -> list[Image.Image]:
    """IMAGE [B, H, W, 3] in 0..1, or more channels, whose colours alone are shown."""
    pixels = images[..., :3].clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(one) for one in pixels]


def to_image(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as IMAGE [B, H, W, 3]."""
    return torch.stack([torch.from_numpy(np.array(picture.convert("RGB"))) for picture in pictures]).float() / 255


def legible(picture: Image.Image, side: int) -> Image.Image:
    """Enlarged by a whole number, so that pixels stay squares, until its longer side has so many pixels."""
    factor = max(1, -(-side // max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """With a longer side of at most so many pixels: made smaller, or enlarged by a whole number."""
    longer = max(picture.size)
    if longer <= side:
        return legible(picture, longer * (side // longer))
    return picture.resize([max(1, round(edge * side / longer)) for edge in picture.size], Image.Resampling.LANCZOS)


def tile(pictures: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Pictures of one size in rows of so many."""
    columns, (width, height) = min(columns, len(pictures)), pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), BACKGROUND)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    return sheet


def labelled(cells: Sequence[Sequence[Image.Image]], columns: Sequence[str], rows: Sequence[str] = (),
             captions: Sequence[Sequence[str]] = (), title: str = "") -> Image.Image:
    """Rows of pictures of one size under the names of their columns, beside the names of their rows.

    Args:
        cells: rows of pictures.
        columns: a name for each column.
        rows: a name for each row; none for no names.
        captions: a text below each picture; none for no texts.
        title: of it all.
    """
    width, height = cells[0][0].size
    size = max(14, min(26, width // 11))
    line = round(size * 1.7)
    widest = max([_length(text, size) for text in [*columns, *(c for row in captions for c in row)]], default=0)
    wide, high = max(width, round(widest) + GAP), height + (line if captions else 0)
    left = round(max((_length(name, size) for name in rows), default=0)) + 2 * GAP if rows else GAP
    heading = line * max(name.count("\n") + 1 for name in columns) if any(columns) else 0
    top = (round(line * 1.3) if title else 0) + heading
    full = max(left + len(columns) * (wide + GAP), round(_length(title, size * 1.2)) + 2 * GAP)
    sheet = Image.new("RGB", (full, top + len(cells) * (high + GAP)), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=size)
    if title:
        draw.text((GAP, line * 0.75), title, INK, ImageFont.load_default(size=size * 1.2), anchor="lm")
    for column, name in enumerate(columns):
        draw.text((left + column * (wide + GAP) + wide / 2, top - heading / 2), name, INK, font, anchor="mm",
                  align="center")
    for row, pictures in enumerate(cells):
        y = top + row * (high + GAP)
        if rows:
            draw.text((left - GAP, y + height / 2), rows[row], INK, font, anchor="rm")
        for column, picture in enumerate(pictures):
            x = left + column * (wide + GAP) + (wide - width) // 2
            sheet.paste(picture, (x, y))
            if captions:
                draw.text((x + width / 2, y + height + line / 2), captions[row][column], INK, font, anchor="mm")
    return sheet


def _length(text: str, size: float) -> float:
    font = ImageFont.load_default(size=size)
    return max(font.getlength(line) for line in text.split("\n"))
