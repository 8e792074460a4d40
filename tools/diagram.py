"""A workflow as a small picture: its groups, its nodes, and the links between them, where the frontend draws them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from tools.figure import BOX, MARKED
from tools.sheet import BACKGROUND, TEXT

WIDTH, MARGIN, HEADING = 1200, 24, 56
FONT_SIZE, SMALLEST = 26, 11
NODE_TITLE = 30  # the bar above a node, in the frontend's units
SMOOTH = 2  # lines are drawn larger and made small, which smooths them
LINKS = {"MODEL": "#b39ddb", "CLIP": "#ffd500", "VAE": "#ff6e6e", "CONDITIONING": "#ffa931", "LATENT": "#ff9cf9",
         "IMAGE": "#64b5f6", "MASK": "#81c784"}
OTHER_LINK = "#9a9a9a"
NOTES = ("Note", "MarkdownNote")

Box = tuple[float, float, float, float]


def diagram(workflow: Mapping[str, Any], title: str) -> Image.Image:
    """The graph of a workflow in the frontend's form, under a title.

    Nodes of this pack stand out; notes are left out.
    """
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] not in NOTES}
    boxes = {key: _box(node) for key, node in nodes.items()}
    groups = [(_corners(group["bounding"]), group) for group in workflow["groups"]]
    bounds = _union([*boxes.values(), *(box for box, _ in groups)])
    scale = SMOOTH * (WIDTH - 2 * MARGIN) / (bounds[2] - bounds[0])
    size = (SMOOTH * WIDTH, round((bounds[3] - bounds[1]) * scale) + SMOOTH * (2 * MARGIN + HEADING))
    picture = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(picture)

    def placed(box: Sequence[float]) -> Box:
        left, top = SMOOTH * MARGIN - bounds[0] * scale, SMOOTH * (MARGIN + HEADING) - bounds[1] * scale
        return (left + box[0] * scale, top + box[1] * scale, left + box[2] * scale, top + box[3] * scale)

    draw.text((SMOOTH * MARGIN, SMOOTH * HEADING * 0.6), title, fill=TEXT, font=_font(FONT_SIZE), anchor="lm")
    for box, group in groups:
        draw.rounded_rectangle(placed(box), 8, fill=_tint(group["color"]))
    for _, *ends, kind in workflow["links"]:
        _draw_link(draw, placed, boxes, ends, LINKS.get(kind, OTHER_LINK))
    for key, node in nodes.items():
        _draw_node(draw, placed(boxes[key]), node)
    return picture.resize((size[0] // SMOOTH, size[1] // SMOOTH), Image.Resampling.LANCZOS)


def _draw_node(draw: ImageDraw.ImageDraw, box: Box, node: Mapping[str, Any]) -> None:
    draw.rounded_rectangle(box, 10, fill=MARKED if node["type"].startswith("SAG") else BOX)
    font = _font(SMALLEST)
    words = node.get("title") or node["type"]
    while words and draw.textlength(words, font=font) > box[2] - box[0] - 12:
        words = words[:-1]
    draw.text((box[0] + 8, box[1] + 4), words, fill=TEXT, font=font)


def _draw_link(draw: ImageDraw.ImageDraw, placed, boxes: Mapping[int, Box], ends: Sequence[int], color: str) -> None:
    """A curve from an output at a node's right edge to an input at another's left one, as the frontend draws it."""
    origin, slot, target, index = ends
    start, end = boxes[origin], boxes[target]
    x0, y0, x1, y1 = placed((start[2], start[1] + _below(slot), end[0], end[1] + _below(index)))
    reach = max(abs(x1 - x0) / 2, 40)
    points = [_bezier(t / 24, (x0, y0), (x0 + reach, y0), (x1 - reach, y1), (x1, y1)) for t in range(25)]
    for one, other in pairwise(points):
        draw.line((*one, *other), fill=color, width=3)


def _below(slot: int) -> int:
    """How far below a node's upper edge its slots are."""
    return NODE_TITLE + 14 + 20 * slot


def _bezier(t: float, *points: tuple[float, float]) -> tuple[float, float]:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return tuple(sum(weight * point[axis] for weight, point in zip(weights, points, strict=True)) for axis in (0, 1))


def _box(node: Mapping[str, Any]) -> Box:
    (x, y), (width, height) = node["pos"], node["size"]
    return (x, y - NODE_TITLE, x + width, y + height)


def _corners(bounding: Sequence[float]) -> Box:
    x, y, width, height = bounding
    return (x, y, x + width, y + height)


def _union(boxes: Sequence[Box]) -> Box:
    left, top, right, bottom = zip(*boxes, strict=True)
    return (min(left), min(top), max(right), max(bottom))


def _tint(color: str) -> tuple[int, ...]:
    """A group's colour, nearly as dark as the background."""
    return tuple(round(0.78 * dark + 0.22 * bright)
                 for dark, bright in zip(BACKGROUND, ImageColor.getrgb(color), strict=True))


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size * SMOOTH)
