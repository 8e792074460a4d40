"""Scenes of the embedded model: an adventurer in pixel art over a floor, with its exact mask.

An adventurer is a body with clothes, weapons and hair drawn over it, each a tile chosen at random among those of a
role, so that there are more of them than anybody could remember. Everything random comes from one generator: a batch is
a function of its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.tiles import Tiles

# The order in which layers are drawn, the lowest first, as the game does.
LAYERS = ("wings", "cloak", "base", "legs", "boots", "body", "gloves", "hand", "other hand", "hair", "beard", "head",
          "muzzle")

# What each class wears: layer -> (share of the adventurers that have it, roles of its tiles).
WARDROBE = {
    "mage": {
        "base": (1, "base_people"), "cloak": (.4, "cloak"), "boots": (.2, "boots"), "body": (1, "body_robe"),
        "gloves": (.3, "gloves"), "hand": (.95, "hand_staff"), "other hand": (.4, "book"), "hair": (.5, "hair"),
        "beard": (.35, "beard_mage"), "head": (.8, "hat_mage")},
    "knight": {
        "base": (1, "base_people"), "cloak": (.5, "cloak"), "legs": (.8, "legs_armour"), "boots": (.8, "boots"),
        "body": (1, "body_plate"), "gloves": (.7, "gloves"), "hand": (.95, "hand_blade hand_heavy"),
        "other hand": (.85, "shield"), "hair": (.2, "hair"), "beard": (.2, "beard"), "head": (.9, "helm")},
    "archer": {
        "base": (1, "base_people"), "cloak": (.6, "cloak scarf"), "legs": (.9, "legs_cloth"), "boots": (.8, "boots"),
        "body": (1, "body_leather"), "gloves": (.5, "gloves"), "hand": (1, "hand_bow"), "hair": (.6, "hair"),
        "head": (.8, "hat_ranger")},
    "villager": {
        "base": (1, "base_people"), "cloak": (.15, "scarf"), "legs": (.9, "legs_cloth"), "boots": (.6, "boots"),
        "body": (1, "body_cloth"), "hand": (.7, "hand_tool"), "other hand": (.2, "book"), "hair": (.9, "hair"),
        "beard": (.25, "beard"), "head": (.4, "hat_villager")},
    "dwarf": {
        "base": (1, "base_dwarf"), "legs": (.8, "legs_cloth legs_armour"), "boots": (.8, "boots"),
        "body": (1, "body_plate body_leather"), "gloves": (.5, "gloves"), "hand": (1, "hand_heavy"),
        "other hand": (.5, "shield"), "hair": (.4, "hair"), "beard": (1, "beard"), "head": (.7, "helm")},
    "dragonkin": {
        "wings": (.9, "wing"), "base": (1, "base_dragon"), "body": (.6, "body_robe body_cloth"),
        "hand": (.8, "hand_pole hand_blade hand_staff"), "other hand": (.3, "shield"), "muzzle": (1, "muzzle")},
    "naga": {
        "cloak": (.3, "cloak"), "base": (1, "base_serpent"), "body": (.8, "body_plate body_cloth body_leather"),
        "gloves": (.2, "gloves"), "hand": (.9, "hand_pole"), "other hand": (.4, "shield"), "hair": (.6, "hair"),
        "head": (.3, "helm")},
    "beastfolk": {
        "base": (1, "base_beast"), "legs": (.7, "legs_cloth"), "body": (.6, "body_leather body_cloth"),
        "hand": (.8, "hand_heavy hand_blade"), "other hand": (.3, "shield")},
}
CLASSES = tuple(WARDROBE)

# Wings and muzzle have the colour of the body: their tiles stand in the same order, and one number chooses all three.
_LIKE_BASE = ("wings", "muzzle")


# In the place of a tile where a layer is not worn.
BARE = -1


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: image [B, 3, 32, 32] in [-1, 1], mask [B, 1, 32, 32] in 0..1, label [B] into CLASSES."""

    image: Tensor
    mask: Tensor
    label: Tensor


@dataclass(frozen=True)
class Choice:
    """The tiles of a batch of scenes, as indices into the manifest.

    Args:
        label: class of each scene [B], into CLASSES.
        floor: tile of each floor [B].
        worn: tile of each layer [B, len(LAYERS)], `BARE` where it is not worn.
        flip: whether floor and adventurer are mirrored [2, B].
    """

    label: Tensor
    floor: Tensor
    worn: Tensor
    flip: Tensor


class Composer:
    """Draws scenes from tiles.

    Args:
        tiles: all tiles of the manifest.
        held_out: draw from the tiles that are held out instead of those that are trained on.

    Raises:
        ValueError: a role has no such tile.
    """

    def __init__(self, tiles: Tiles, held_out: bool = False):
        # The last one, which `BARE` names, is transparent.
        self.images = torch.cat([tiles.images, torch.zeros_like(tiles.images[:1])])
        self.floors = tiles.having(("floor",), held_out)
        self.wardrobe = [
            {layer: (share, tiles.having(roles.split(), held_out)) for layer, (share, roles) in clothes.items()}
            for clothes in WARDROBE.values()]

    def draw(self, count: int, generator: torch.Generator, label: Tensor | None = None) -> Scenes:
        """Draw scenes.

        Args:
            count: number of scenes.
            generator: the source of every random number, on the CPU.
            label: class of each scene [count]; random, each as often as the others, where None.
        """
        return self.compose(self.choose(count, generator, label))

    def choose(self, count: int, generator: torch.Generator, label: Tensor | None = None) -> Choice:
        """Choose the tiles of scenes; the arguments are those of `draw`."""
        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        drawn = torch.randint(len(CLASSES), (count,), generator=generator)
        label = drawn if label is None else label
        chance, place, flip = uniform(count, len(LAYERS)), uniform(count, len(LAYERS)), uniform(2, count) < 0.5
        for layer in _LIKE_BASE:
            place[:, LAYERS.index(layer)] = place[:, LAYERS.index("base")]
        floor = _among(self.floors, uniform(count))
        worn = torch.full((count, len(LAYERS)), BARE)
        for number, clothes in enumerate(self.wardrobe):
            rows = label == number
            for layer, (share, tiles) in clothes.items():
                column = LAYERS.index(layer)
                tile = torch.where(chance[:, column] < share, _among(tiles, place[:, column]), BARE)
                worn[rows, column] = tile[rows]
        return Choice(label, floor, worn, flip)

    def compose(self, choice: Choice) -> Scenes:
        """Draw the chosen tiles over each other."""
        floor = self.images[choice.floor]
        hero = torch.zeros_like(floor)
        for layer in choice.worn.T:
            hero = over(self.images[layer], hero)
        floor, hero = (torch.where(turned[:, None, None, None], part.flip(-1), part)
                       for turned, part in zip(choice.flip, (floor, hero), strict=True))
        return Scenes(over(hero, floor)[:, :3] * 2 - 1, hero[:, 3:], choice.label)


def over(upper: Tensor, lower: Tensor) -> Tensor:
    """Returns one picture drawn over another, both premultiplied colour and alpha [..., 4, H, W] (Porter and Duff)."""
    return upper + lower * (1 - upper[..., 3:, :, :])


def _among(tiles: Tensor, place: Tensor) -> Tensor:
    """Returns the tiles [N] at these places [N] of their list, 0 its start and 1 its end."""
    return tiles[(place * len(tiles)).long()]
