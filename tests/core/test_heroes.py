"""Scenes of adventurers: the mask is exact, the halves never mix, and a batch is a function of its seed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from tests.core.painted_tiles import paint
from training.data import heroes
from training.heroes import BARE, CLASSES, LAYERS, WARDROBE, Composer, over
from training.tiles import load


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    return load(folder, paint(folder))


@pytest.fixture(scope="module", params=[False, True], ids=["trained", "held out"])
def composer(request, tiles):
    return Composer(tiles, held_out=request.param)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixel_over(upper, lower):
    """One pixel over another, both (r, g, b, alpha) with plain colour: Porter and Duff's rule in numbers."""
    alpha = upper[3] + lower[3] * (1 - upper[3])
    if alpha == 0:
        return (0, 0, 0, 0)
    mixed = [(u * upper[3] + v * lower[3] * (1 - upper[3])) / alpha for u, v in zip(upper[:3], lower[:3], strict=True)]
    return (*mixed, alpha)


def plain(pixel):
    """Colour that is not multiplied by alpha."""
    *colour, alpha = pixel.tolist()
    return (*(value / alpha if alpha else 0.0 for value in colour), alpha)


def test_a_scene_is_its_layers_drawn_over_each_other_pixel_by_pixel(tiles, composer):
    choice = composer.choose(16, seeded(0))
    scenes = composer.compose(choice)
    for scene in range(16):
        for y, x in ((0, 0), (3, 17), (15, 15), (20, 9), (31, 31)):
            def at(tile, turned, y=y, x=x):
                return plain(tiles.images[tile][:, y, 31 - x if turned else x])

            floor_turned, hero_turned = choice.flip[:, scene].tolist()
            hero = (0, 0, 0, 0)
            for tile in choice.worn[scene].tolist():
                hero = hero if tile == BARE else pixel_over(at(tile, hero_turned), hero)
            seen = pixel_over(hero, at(choice.floor[scene], floor_turned))
            assert scenes.mask[scene, 0, y, x].item() == pytest.approx(hero[3], abs=1e-5)
            assert (scenes.image[scene, :, y, x] / 2 + 0.5).tolist() == pytest.approx(seen[:3], abs=1e-5)


def test_the_mask_is_the_union_of_the_alphas_of_what_is_worn(tiles, composer):
    choice = composer.choose(64, seeded(1))
    scenes = composer.compose(choice)
    for scene in range(64):
        worn = [tile for tile in choice.worn[scene].tolist() if tile != BARE]
        union = 1 - math.prod(1 - tiles.images[tile, 3].double() for tile in worn)
        union = union.flip(-1) if choice.flip[1, scene] else union
        assert_close(scenes.mask[scene, 0].double(), union, rtol=0, atol=1e-6)


def test_outside_the_mask_lies_the_floor_alone(tiles, composer):
    choice = composer.choose(32, seeded(2))
    scenes = composer.compose(choice)
    floor = tiles.images[choice.floor, :3]
    floor = torch.where(choice.flip[0, :, None, None, None], floor.flip(-1), floor)
    outside = (scenes.mask == 0).expand_as(floor)
    assert outside.any() and (scenes.image / 2 + 0.5)[outside].allclose(floor[outside], atol=1e-6)


def test_over_keeps_what_is_opaque_and_shows_what_lies_below_what_is_clear():
    opaque, clear = torch.tensor([0.2, 0.4, 0.6, 1.0]), torch.zeros(4)
    below = torch.tensor([0.1, 0.1, 0.1, 0.5])
    opaque, clear, below = (pixel[:, None, None] for pixel in (opaque, clear, below))
    assert over(opaque, below).equal(opaque) and over(clear, below).equal(below)


def test_trained_and_held_out_files_never_meet(tiles):
    seen = {}
    for held_out in (False, True):
        choice = Composer(tiles, held_out).choose(3000, seeded(3))
        used = set(choice.floor.tolist()) | set(choice.worn.flatten().tolist()) - {BARE}
        assert {tiles.entries[tile].held_out for tile in used} == {held_out}
        seen[held_out] = used
    assert len(seen[False] | seen[True]) == len(tiles.entries)


def test_every_class_wears_what_its_wardrobe_says_about_as_often_as_it_says(tiles, composer):
    count = 2000
    for number, name in enumerate(CLASSES):
        worn = composer.choose(count, seeded(number), torch.full((count,), number)).worn
        for column, layer in enumerate(LAYERS):
            share, roles = WARDROBE[name].get(layer, (0, ""))
            there = worn[:, column] != BARE
            # Four standard deviations of a binomial; exact where a layer is always or never worn.
            assert abs(there.float().mean().item() - share) <= 4 * math.sqrt(share * (1 - share) / count)
            assert all(set(tiles.entries[tile].roles) & set(roles.split()) for tile in worn[there, column].tolist())


def test_dragonkin_have_wings_and_muzzle_of_their_own_colour(tiles, composer):
    label = torch.full((500,), CLASSES.index("dragonkin"))
    worn = composer.choose(500, seeded(4), label).worn

    def colours(layer):
        column = worn[:, LAYERS.index(layer)]
        return [None if tile == BARE else tiles.entries[tile].path.rpartition("/")[2][0] for tile in column.tolist()]

    bodies, wings, muzzles = colours("base"), colours("wings"), colours("muzzle")
    assert bodies == muzzles and len(set(bodies)) > 1
    assert all(wing in (None, body) for wing, body in zip(wings, bodies, strict=True)) and any(wings)


def test_a_batch_is_a_function_of_its_seed(composer):
    one, same, other = (composer.draw(16, seeded(seed)) for seed in (5, 5, 6))
    for name in ("image", "mask", "label"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_drawing_goes_on_where_the_generator_stands(composer):
    generator = seeded(0)
    assert not torch.equal(composer.draw(4, generator).image, composer.draw(4, generator).image)


def test_shapes_ranges_and_dtypes(composer):
    scenes = composer.draw(64, seeded(7))
    assert scenes.image.shape == (64, 3, 32, 32) and scenes.mask.shape == (64, 1, 32, 32)
    assert scenes.image.dtype == scenes.mask.dtype == torch.float32
    assert scenes.image.min() >= -1 and scenes.image.max() <= 1 + 1e-6
    assert scenes.mask.min() >= 0 and scenes.mask.max() <= 1 + 1e-6


def test_every_class_is_drawn_about_as_often(composer):
    counts = torch.bincount(composer.choose(4000, seeded(8)).label, minlength=len(CLASSES))
    assert len(counts) == len(CLASSES) == 8
    assert ((counts - 500).abs() < 84).all()


def test_a_given_label_changes_nothing_of_the_scenes_that_had_it_anyway(composer):
    given = torch.arange(64) % len(CLASSES)
    drawn, told = composer.draw(64, seeded(9)), composer.draw(64, seeded(9), given)
    assert told.label.equal(given)
    same = drawn.label == given
    assert same.any() and told.image[same].equal(drawn.image[same])
    assert composer.draw(64, seeded(9), drawn.label).image.equal(drawn.image)


def test_data_measures_on_both_halves_and_trains_on_one(tiles):
    data = heroes(tiles)
    assert data.classes == CLASSES and list(data.kinds) == ["files trained on", "files held out"]
    assert data.draw(4, seeded(1)).image.equal(Composer(tiles).draw(4, seeded(1)).image)
    assert data.unseen(4, seeded(1)).image.equal(Composer(tiles, held_out=True).draw(4, seeded(1)).image)
