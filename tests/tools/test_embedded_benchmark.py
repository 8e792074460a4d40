"""The benchmark of the embedded model: its sets of scenes, nearest neighbours, and the sheets."""

from __future__ import annotations

import sys

import pytest
import torch
from PIL import Image

from benchmarks import embedded, evaluate, features
from benchmarks.embedded import distance_table, neighbour_sheet
from benchmarks.features import SceneFeatures, SceneNet, fresh_scenes
from benchmarks.neighbours import Nearest, nearest
from benchmarks.samples import SeedNoise, classes_of, sample
from benchmarks.unpicked import pictures, rows
from tests.core.painted_tiles import paint
from tools.sheet import GAP
from training.data import heroes
from training.loop import export
from training.tiles import load


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    return heroes(load(folder, paint(folder)))


# -- neighbours ------------------------------------------------------------------------------------------------------

def test_neighbours_by_hand():
    parts = [torch.tensor([[9, 9], [3, 4]]), torch.tensor([[1, 1], [10, 12]])]
    found = nearest(torch.tensor([[0, 0], [10, 10]]), parts)
    assert found.index.tolist() == [2, 0]
    # The root of the mean squared difference: 1 in both numbers.
    assert found.distance.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("parts", [1, 7, 50])
def test_a_list_in_parts_has_the_neighbours_of_the_whole(parts):
    generator = torch.Generator().manual_seed(0)
    rows, listed = (torch.randint(256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8) for count in (9, 50))
    found = nearest(rows, listed.chunk(parts))
    squares = (rows[:, None].double() - listed[None].double()).square().flatten(2).mean(2)
    assert found.index.equal(squares.argmin(1))
    assert found.distance.double().allclose(squares.min(1).values.sqrt(), rtol=1e-4)


def test_a_scene_that_is_in_the_list_is_its_own_neighbour(data):
    scenes = data.draw(40, torch.Generator().manual_seed(1)).image
    found = nearest(scenes[5:9], scenes.split(8))
    assert found.index.tolist() == [5, 6, 7, 8] and found.distance.max() < 1e-3


def test_an_empty_list_has_no_neighbours():
    with pytest.raises(ValueError, match="nothing to search"):
        nearest(torch.zeros(1, 2), [])


# -- sheets ----------------------------------------------------------------------------------------------------------

def test_pixels_become_squares_and_nothing_in_between():
    image = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8).expand(1, 3, 2, 2)
    (picture,) = pictures(image, 3)
    assert picture.size == (6, 6) and {colour for _, colour in picture.getcolors()} == {(0, 0, 0), (255, 255, 255)}
    assert picture.getpixel((2, 2)) == (255, 255, 255) and picture.getpixel((3, 2)) == (0, 0, 0)


def test_every_class_has_the_same_number_of_seeds_and_none_is_left_out():
    assert [list(row) for row in rows(96, 8)] == torch.arange(96).view(8, 12).tolist()
    for count in (0, 7, 95):
        with pytest.raises(ValueError, match=f"--count is {count}; it must be a multiple of the model's 8 classes"):
            rows(count, 8)


def test_a_triple_shows_the_sample_and_then_its_neighbours():
    parts = [torch.full((4, 3, 32, 32), value, dtype=torch.uint8) for value in (10, 120, 230)]
    sheet = neighbour_sheet(parts[0], parts[1:])
    inside = 2 * GAP + 5
    assert [sheet.getpixel((inside + place * (64 + GAP), inside))[0] for place in range(3)] == [10, 120, 230]


def test_distances_are_told_by_median_and_nearest_twentieth():
    line = Nearest(torch.arange(101), torch.arange(101).float())
    assert distance_table({"samples": (line, line)}).splitlines()[2].replace(" ", "") == "|samples|50|5|50|5|"


# -- what is drawn ---------------------------------------------------------------------------------------------------

def test_classes_are_read_from_the_file_of_the_model(tmp_path):
    export(tmp_path / "a.safetensors", {"a": torch.ones(1)}, {}, ("mage", "knight"))
    assert classes_of(tmp_path / "a.safetensors") == ["mage", "knight"]
    features.save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="b.safetensors does not name its classes"):
        classes_of(tmp_path / "b.safetensors")


def test_a_sampler_whose_noise_depends_on_the_batch_is_refused():
    with pytest.raises(ValueError, match="sampler is 'euler_ancestral'; expected one of ddim, euler, dpmpp_2m"):
        sample(None, range(2), -1, "euler_ancestral", 4)
    assert SeedNoise(range(3, 5)).seed == 3


def test_scenes_of_one_kind_are_not_taken_for_those_of_another(data, tmp_path):
    trained = fresh_scenes(tmp_path / "a", 30, data=data, kind="files trained on")
    held = fresh_scenes(tmp_path / "b", 30, data=data, kind="files held out")
    assert not trained.images([0]).equal(held.images([0]))
    assert fresh_scenes(tmp_path / "c", 30, data=data).images([0]).equal(held.images([0]))
    with pytest.raises(ValueError, match="holds samples of other settings: kind is"):
        fresh_scenes(tmp_path / "a", 30, data=data, kind="files held out")
    assert fresh_scenes(tmp_path / "d", 30).description == {"scenes": 30, "seed": 3_000_000}


def test_features_are_in_units_of_their_spread_over_the_scenes_that_are_trained_on(data, tmp_path):
    torch.manual_seed(0)
    seen = SceneFeatures(SceneNet(len(data.classes)).eval().requires_grad_(False), data.draw)
    pooled = seen(fresh_scenes(tmp_path / "a", 500, data=data, kind="files trained on").images([0])).pooled
    assert pooled.mean(dim=0).abs().max() < 0.3 and pooled.std(dim=0).sub(1).abs().max() < 0.3


# -- the commands ----------------------------------------------------------------------------------------------------

@pytest.fixture
def command(monkeypatch, data, tmp_path, capsys):
    torch.manual_seed(0)
    net = SceneNet(len(data.classes)).eval().requires_grad_(False)
    monkeypatch.setattr(embedded, "scene_net", lambda say, data: net)
    monkeypatch.setattr(evaluate, "scene_net", lambda say, data: net)
    monkeypatch.setattr(embedded, "load", lambda place: place)
    monkeypatch.setattr(embedded, "heroes", lambda place: data)
    monkeypatch.setattr(evaluate, "data_of", lambda place: data)
    monkeypatch.setattr(evaluate, "OUTPUT", tmp_path / "output")

    def run(module, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
        return capsys.readouterr().out
    return run


def test_without_a_model_the_scenes_are_compared_with_each_other(command, tmp_path):
    text = command(embedded, "--tiles", "tiles", "--model", str(tmp_path / "none"), "--out", str(tmp_path), "--count",
                   "150", "--reference", "200", "--library", "300", "--compared", "40")
    for title in ("files trained on", "files held out"):
        assert len([line for line in text.splitlines() if line.startswith(f"| {title}")]) == 2
    with Image.open(tmp_path / "neighbours.png") as sheet:
        triple = 3 * (64 + GAP) + GAP
        assert sheet.width == 4 * (triple + GAP) + GAP


def test_the_metrics_of_stores_are_taken_against_adventurers_where_tiles_are_given(command, data, tmp_path):
    fresh_scenes(tmp_path / "own", 150, 5, data)
    assert "own" in command(evaluate, "scenes:150", str(tmp_path / "own"), "--tiles", "tiles", "--resamples", "10")
    assert (tmp_path / "output" / "heroes32-fresh-scenes-150").is_dir()


def test_without_tiles_it_says_where_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["embedded", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="not part of this repository. Give --tiles"):
        embedded.main()
