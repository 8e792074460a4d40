"""Tiles of Dungeon Crawl Stone Soup, the pictures that the embedded model is drawn from.

The tiles are public domain (CC0) but not part of this repository. Anybody gets them from the game's source release
0.28.0 (folder `source/rltiles`) or from Debian's source package `crawl`. `tiles.tsv` lists the files that are used:
their checksum, whether they are trained on or held out, and their roles in a scene.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
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
GIVE = f"Give --tiles the folder or archive of {SOURCE}."


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

    def having(self, roles: Sequence[str], held_out: bool) -> Tensor:
        """Returns the indices of the tiles with any of these roles, in the manifest's order, [M].

        Args:
            roles: some roles of the manifest.
            held_out: of the tiles that are held out, else of those that are trained on; never of both.

        Raises:
            ValueError: there is no such tile.
        """
        found = [index for index, entry in enumerate(self.entries)
                 if entry.held_out == held_out and set(roles) & set(entry.roles)]
        if not found:
            raise ValueError(f"no tile of the role {' or '.join(roles)} is {'held out' if held_out else 'trained on'}")
        return torch.tensor(found)


def manifest(path: Path = MANIFEST) -> list[Entry]:
    """Returns the rows of a manifest, that of the embedded model unless told."""
    rows = [line.split("\t") for line in path.read_text("ascii").splitlines() if not line.startswith("#")]
    return [Entry(name, sha256, tuple(roles.split(",")), split == "held") for sha256, split, roles, name in rows]


def tiles_argument(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Add the option that says where the tiles are."""
    parser.add_argument("--tiles", type=Path, metavar="PLACE", help=f"folder or archive of {SOURCE}{note}")


def load(source: Path | None, entries: Sequence[Entry] | None = None) -> Tiles:
    """Read tiles from a folder or a tar archive, of which nothing is unpacked.

    Args:
        source: `rltiles`, a folder above it, or a tar archive that holds it.
        entries: the tiles to read, those of the manifest where None.

    Raises:
        SystemExit: the source is not given or cannot be read, or tiles are missing from it or altered.
    """
    if source is None:
        raise SystemExit(f"The tiles to draw from are not part of this repository. {GIVE}")
    entries = manifest() if entries is None else list(entries)
    wanted = {entry.path for entry in entries}
    found = dict(_archive(source, wanted) if source.is_file() else _folder(source, wanted))
    missing = [entry.path for entry in entries if entry.path not in found]
    altered = [entry.path for entry in entries
               if entry.path in found and hashlib.sha256(found[entry.path]).hexdigest() != entry.sha256]
    for fault, paths in (("are missing", missing), ("have another content than the manifest's", altered)):
        if paths:
            raise SystemExit(f"{len(paths)} of {len(entries)} tiles {fault} in {source}, {paths[0]} first. {GIVE}")
    return Tiles(torch.stack([_tile(found[entry.path]) for entry in entries]), entries)


def _folder(source: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    if not source.is_dir():
        raise SystemExit(f"There is no folder or archive at {source}. {GIVE}")
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
    # A damaged archive fails in its compression's own ways.
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise SystemExit(f"{source} cannot be read as a tar archive ({error}). {GIVE}") from error


def _tile(png: bytes) -> Tensor:
    """Decode a tile to premultiplied colour and alpha, [4, 32, 32]: the lower 32 rows, centred."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(picture, ((SIZE - picture.width) // 2, SIZE - picture.height))
    tile = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255
    return torch.cat([tile[:3] * tile[3:], tile[3:]])
