"""What a training draws its scenes from, as a value, so that one recipe serves every set of scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training import scenes
from training.heroes import CLASSES, Composer
from training.tiles import Tiles, load

Draw = Callable[..., "scenes.Scenes"]
"""`draw(count, generator, label=None)` returns scenes with `image`, `mask` and `label`, a function of the generator."""


@dataclass(frozen=True)
class Data:
    """Scenes to train on and to measure on.

    Args:
        name: of the model that learns them, and so of its files.
        classes: names of the labels.
        draw: draws scenes to train on.
        held_out: draws scenes of files that no training sees; None where every scene is new.
    """

    name: str
    classes: tuple[str, ...]
    draw: Draw
    held_out: Draw | None = None

    @property
    def unseen(self) -> Draw:
        """Draws scenes that no training has seen."""
        return self.held_out or self.draw

    @property
    def kinds(self) -> dict[str, Draw]:
        """Kinds of scenes to measure on, by what they are called in reports."""
        if self.held_out is None:
            return {"new scenes": self.draw}
        return {"files trained on": self.draw, "files held out": self.held_out}


SHAPES = Data("shapes32", scenes.SHAPES, scenes.draw)


def heroes(tiles: Tiles) -> Data:
    """Returns the scenes of adventurers that are drawn from tiles."""
    return Data("heroes32", CLASSES, Composer(tiles).draw, Composer(tiles, held_out=True).draw)


def data_of(tiles: Path | None) -> Data:
    """Returns the adventurers drawn from the tiles of a folder or archive, or shapes where none is given."""
    return SHAPES if tiles is None else heroes(load(tiles))
