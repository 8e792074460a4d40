"""Figures for help pages: images in columns under headings, bars, and boxes joined by arrows."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from tools.sheet import BACKGROUND, GAP, TEXT, Images

HEADING_HEIGHT = 30
FONT_SIZE = 15
PADDING = 60
BAR, AXIS, BOX, MARKED = (240, 110, 33), (90, 90, 96), (58, 58, 64), (63, 120, 158)


def enlarge(image: Image.Image, factor: int) -> Image.Image:
    """The image with every pixel a square of `factor` pixels."""
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def columns(cells: Sequence[tuple[str, Images]], across: int) -> Image.Image:
    """Columns of images, each under its heading, `across` of them beside each other. All images have one width."""
    bands = [cells[start:start + across] for start in range(0, len(cells), across)]
    width = cells[0][1][0].width
    strips = [_strip(band, width) for band in bands]
    return stack([_on_background(strip, across * (width + GAP) + GAP) for strip in strips])


def stack(images: Images) -> Image.Image:
    """Images below each other, as wide as the widest."""
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), BACKGROUND)
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet


def bars(values: Sequence[float], size: tuple[int, int], highest: float) -> Image.Image:
    """A bar for each value, from 0 to `highest`, on a line; nothing stands where the value is 0."""
    picture = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    width, height = size
    floor = height - 2
    for index, value in enumerate(values):
        left, right = (round(edge * width / len(values)) for edge in (index, index + 1))
        top = floor - round(value / highest * (floor - 1))
        if top < floor:
            draw.rectangle((left, top, right - 2, floor - 1), fill=BAR)
    draw.line((0, floor, width, floor), fill=AXIS, width=2)
    return picture


def chain(names: Sequence[str], marked: str, width: int) -> Image.Image:
    """Boxes with names, joined by arrows from left to right; one of them stands out."""
    height, space = 40, 26
    picture = Image.new("RGB", (width, height + 2 * GAP), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    middle = picture.height // 2
    room = width - 2 * GAP - space * (len(names) - 1)
    lengths = [draw.textlength(name, font=_font()) + PADDING for name in names]
    left = float(GAP)
    for name, length in zip(names, lengths, strict=True):
        right = left + room * length / sum(lengths)
        draw.rounded_rectangle((left, GAP, right, GAP + height), 6, fill=MARKED if name == marked else BOX)
        draw.text(((left + right) / 2, middle), name, fill=TEXT, font=_font(), anchor="mm")
        if name != names[-1]:
            draw.line((right, middle, right + space - 6, middle), fill=TEXT, width=2)
            tip = right + space - 2
            draw.polygon([(tip, middle), (tip - 8, middle - 5), (tip - 8, middle + 5)], fill=TEXT)
        left = right + space
    return picture


def _strip(cells: Sequence[tuple[str, Images]], width: int) -> Image.Image:
    heights = [sum(image.height + GAP for image in images) for _, images in cells]
    strip = Image.new("RGB", (len(cells) * (width + GAP) + GAP, HEADING_HEIGHT + max(heights)), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for index, (heading, images) in enumerate(cells):
        left, top = GAP + index * (width + GAP), HEADING_HEIGHT
        draw.text((left + width / 2, HEADING_HEIGHT / 2), heading, fill=TEXT, font=_font(), anchor="mm")
        for image in images:
            strip.paste(image, (left, top))
            top += image.height + GAP
    return strip


def _on_background(image: Image.Image, width: int) -> Image.Image:
    sheet = Image.new("RGB", (width, image.height), BACKGROUND)
    sheet.paste(image, (0, 0))
    return sheet


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=FONT_SIZE)
