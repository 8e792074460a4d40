"""Tiles of Dungeon Crawl Stone Soup, the pictures that the embedded model is drawn from.

The tiles are public domain (CC0) but not part of this repository. Anybody gets them from the game's source release
0.28.0 (folder `source/rltiles`) or from Debian's source package `crawl`. `tiles.tsv` lists the files that are used:
their checksum, whether they are trained on or held out, and their roles in a scene.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MANIFEST = Path(__file__).with_name("tiles.tsv")
SIZE = 32
SOURCE = ("the source release 0.28.0 of Dungeon Crawl Stone Soup, folder source/rltiles "
          "(also in Debian's source package crawl)")


@dataclass(frozen=True)
class Entry:
    """A row of the manifest: a tile's path below `rltiles`, its checksum, its roles, and whether it is held out."""

    path: str
    sha256: str
    roles: tuple[str, ...]
    held_out: bool


class Tiles:
    """Tiles as tensors, with the roles they can play.

    Args:
        images: premultiplied colour and alpha of each tile, [N, 4, 32, 32] in 0..1.
        entries: their rows of the manifest, in the same order.
    """

    def __init__(self, images: Tensor, entries: list[Entry]):
        self.images = images
        self.entries = entries

    def having(self, roles: tuple[str, ...], held_out: bool) -> Tensor:
        """Indices of the tiles with any of these roles, in the manifest's order, [M].

        A role without held-out tiles (one with very few files) gives those that are trained on.
        """
        def of(wanted: bool) -> list[int]:
            return [i for i, entry in enumerate(self.entries)
                    if entry.held_out == wanted and set(roles) & set(entry.roles)]

        return torch.tensor(of(held_out) or of(False))


def manifest() -> list[Entry]:
    """Returns the rows of `tiles.tsv`."""
    rows = [line.split("\t") for line in MANIFEST.read_text("ascii").splitlines() if not line.startswith("#")]
    return [Entry(path, sha256, tuple(roles.split(",")), split == "held") for sha256, split, roles, path in rows]


def load(source: Path) -> Tiles:
    """Read the tiles of the manifest from a folder or a tar archive.

    Args:
        source: `rltiles`, a folder above it, or a tar archive that holds it.

    Raises:
        SystemExit: the source cannot be read, or tiles are missing from it or differ from the manifest's checksums.
    """
    entries = manifest()
    wanted = {entry.path for entry in entries}
    found = dict(_archive(source, wanted) if source.is_file() else _folder(source, wanted))
    missing = [entry.path for entry in entries if entry.path not in found]
    altered = [entry.path for entry in entries
               if entry.path in found and hashlib.sha256(found[entry.path]).hexdigest() != entry.sha256]
    for fault, paths in (("are missing", missing), ("have another content than the manifest's", altered)):
        if paths:
            raise SystemExit(f"{len(paths)} of {len(entries)} tiles {fault} in {source}, {paths[0]} first. "
                             f"Give --tiles the folder or archive of {SOURCE}.")
    return Tiles(torch.stack([_tile(found[entry.path]) for entry in entries]), entries)


def _folder(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    if not source.is_dir():
        raise SystemExit(f"There are no tiles at {source}. Give --tiles the folder or archive of {SOURCE}.")
    roots = [source, *(path for path in sorted(source.rglob("rltiles")) if path.is_dir())]
    root = max(roots, key=lambda path: sum((path / name).is_file() for name in wanted))
    for name in wanted:
        if (root / name).is_file():
            yield name, (root / name).read_bytes()


def _archive(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = member.name.rpartition("rltiles/")[2].removeprefix("./")
                if member.isfile() and name in wanted:
                    yield name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SystemExit(f"{source} cannot be read as a tar archive ({error}). "
                         f"Give --tiles the folder or archive of {SOURCE}.") from error


def _tile(png: bytes) -> Tensor:
    """Decode a tile to premultiplied colour and alpha, [4, 32, 32]: the lower 32 rows, centred."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(picture, ((SIZE - picture.width) // 2, SIZE - picture.height))
    tile = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255
    return torch.cat([tile[:3] * tile[3:], tile[3:]])
