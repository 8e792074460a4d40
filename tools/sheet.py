"""Contact sheets of small images."""

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFont

GAP = 8
LABEL_HEIGHT = 48
BACKGROUND = (24, 24, 27)
TEXT = (235, 235, 235)

Images = Sequence[Image.Image]


def grid(images: Images, columns: int) -> Image.Image:
    """Images of one size in rows of `columns`, with gaps between them."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), BACKGROUND)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def labelled_rows(rows: Sequence[tuple[str, Images]]) -> Image.Image:
    """One row of images per label, the label above its row: what stands below each other belongs together."""
    strips = [(label, grid(images, len(images))) for label, images in rows]
    font = ImageFont.load_default(size=LABEL_HEIGHT * 0.55)
    width = max(strip.width for _, strip in strips)
    sheet = Image.new("RGB", (width, sum(LABEL_HEIGHT + strip.height for _, strip in strips)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for label, strip in strips:
        draw.text((GAP, top + LABEL_HEIGHT / 2), label, fill=TEXT, font=font, anchor="lm")
        sheet.paste(strip, (0, top + LABEL_HEIGHT))
        top += LABEL_HEIGHT + strip.height
    return sheet


def differences(before: Images, after: Images) -> tuple[list[Image.Image], float]:
    """How far each pair is apart, and the gain that makes the largest difference of all white.

    The gain is common to all pairs, so that they can be compared; it is 1 where nothing differs.
    """
    apart = [ImageChops.difference(left, right) for left, right in zip(before, after, strict=True)]
    largest = max(high for image in apart for _, high in image.getextrema())
    gain = 255.0 / largest if largest else 1.0
    return [image.point(lambda value: round(value * gain)) for image in apart], gain
