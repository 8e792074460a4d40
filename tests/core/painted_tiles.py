"""Small sets of tiles with a manifest of their own, since the real ones are not part of the repository."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from pathlib import Path

from PIL import Image

from training.heroes import WARDROBE
from training.tiles import Entry, manifest

TRAINED, HELD = 3, 2
"""Tiles of each role in each half; of a dragonkin's they are colours."""
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (200, 30, 200))


def roles() -> list[str]:
    """Every role that a scene needs."""
    return sorted({"floor"} | {role for clothes in WARDROBE.values() for _, names in clothes.values()
                               for role in names.split()})


def paint(folder: Path) -> list[Entry]:
    """Write a tile for every row of a small manifest below `folder/rltiles`; the rows, as `manifest` reads them."""
    rows = []
    for role in roles():
        for number in range(TRAINED + HELD):
            for part in ("f", "m") if role == "base_dragon" else ("",):
                rows.append((role, number, part))
    lines = ["# A manifest of painted tiles."]
    for role, number, part in rows:
        name = f"{role}/{number}{part}.png"
        colour = COLOURS[number] if role in ("base_dragon", "wing", "muzzle") else None
        png = _png(_picture(f"{role}{number}", role == "floor", colour))
        path = folder / "rltiles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        lines.append("\t".join([hashlib.sha256(png).hexdigest(), "held" if number >= TRAINED else "train", role, name]))
    (folder / "tiles.tsv").write_text("\n".join(lines) + "\n", "ascii")
    return manifest(folder / "tiles.tsv")


def pack(folder: Path, archive: Path, prefix: str = "crawl-0.28.0/source/") -> Path:
    """Put `folder/rltiles` into an archive, compressed as its name says."""
    kind = archive.suffix.removeprefix(".")
    with tarfile.open(archive, "w" if kind == "tar" else f"w:{kind}") as file:
        file.add(folder / "rltiles", f"{prefix}rltiles")
    return archive


def _picture(seed: str, opaque: bool, colour: tuple[int, int, int] | None) -> Image.Image:
    """Random pixels, a third of them transparent and the others with any alpha; all of one colour where it is given."""
    source = random.Random(seed)
    pixels = []
    for _ in range(32 * 32):
        alpha = 255 if opaque else source.choice((0, source.randrange(256), 255))
        pixels.append((*(colour or (source.randrange(256) for _ in range(3))), alpha))
    picture = Image.new("RGBA", (32, 32))
    picture.putdata(pixels)
    return picture


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
