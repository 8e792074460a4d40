"""The segmenter: a small network, its training pairs, and the file it became."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.core.painted_tiles import paint
from training.data import heroes
from training.segmenter import WEIGHTS, Segmenter, batch, imperfect, load_segmenter, mean_iou, parse_args
from training.tiles import load


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    return heroes(load(folder, paint(folder)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_small():
    assert sum(parameter.numel() for parameter in Segmenter().parameters()) <= 150_000


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (16, 24)])
def test_masks_are_zero_or_one_in_the_size_of_the_images(size):
    masks = Segmenter().masks(torch.randn(3, 3, *size, generator=seeded()))
    assert masks.shape == (3, 1, *size) and set(masks.unique().tolist()) <= {0.0, 1.0}


def test_images_do_not_depend_on_their_neighbours_in_the_batch():
    network = Segmenter().eval()
    images = torch.randn(4, 3, 32, 32, generator=seeded())
    with torch.no_grad():
        assert network(images)[2].allclose(network(images[2:3])[0], atol=1e-5)


def test_it_learns_where_bright_squares_are():
    torch.manual_seed(0)
    network, generator = Segmenter(), seeded(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(61):
        objects = torch.zeros(8, 1, 32, 32)
        for one, (x, y) in zip(objects, torch.randint(0, 20, (8, 2), generator=generator).tolist(), strict=True):
            one[:, y:y + 11, x:x + 11] = 1
        images = objects * 1.0 - 0.5 + 0.2 * torch.randn(8, 3, 32, 32, generator=generator)
        if step == 60:
            assert ((network.masks(images) != objects).float().mean()) < 0.01
        torch.nn.functional.binary_cross_entropy_with_logits(network(images), objects).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_batch_is_a_function_of_seed_and_step_and_its_masks_are_exact(data):
    args = parse_args(["--batch", "16", "--device", "cpu"])
    first, again, next_one = (batch(step, args, data.draw) for step in (3, 3, 4))
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], next_one[0])
    scenes = data.draw(16, seeded(7_000_003 + 3))
    assert first[1].equal((scenes.mask > 0.5).float())


def test_a_quarter_of_the_images_stay_as_they_are_and_the_others_change_a_little(data):
    images = data.draw(200, seeded()).image
    changed = (imperfect(images, seeded(1)) - images).abs().flatten(1)
    untouched = changed.max(dim=1).values < 1e-6
    assert 0.15 < untouched.float().mean() < 0.35
    assert changed[~untouched].mean() < 0.4


def test_iou_is_one_for_a_network_that_knows_and_low_for_one_that_sees_objects_everywhere(data):
    class Knows(Segmenter):
        def __init__(self, right):
            super().__init__()
            self.right, self.start = right, 0

        def masks(self, images):
            self.start += len(images)
            everywhere = torch.ones(len(images), 1, 32, 32)
            return self.truth[self.start - len(images):self.start] if self.right else everywhere

    Knows.truth = (data.draw(150, seeded(5)).mask > 0.5).float()
    assert mean_iou(Knows(True), data.draw, count=150, seed=5) == 1
    area = Knows.truth.mean().item()
    assert mean_iou(Knows(False), data.draw, count=150, seed=5) == pytest.approx(area, abs=1e-3)


def test_the_file_is_small_describes_itself_and_meets_scenes_of_files_held_out():
    assert WEIGHTS.stat().st_size <= 400_000
    with safe_open(WEIGHTS, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
        made = json.loads(file.metadata()["training"])
    assert made["iou"]["files held out"] >= 0.9 and made["iou"]["files held out, imperfect"] >= 0.85
    assert made["steps"] == parse_args([]).steps


def test_the_file_is_the_network():
    network = load_segmenter()
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert network.masks(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere.safetensors is no segmenter .*make train-segmenter"):
        load_segmenter(tmp_path / "nowhere.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors is no segmenter"):
        load_segmenter(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="text.safetensors is no segmenter"):
        load_segmenter(tmp_path / "text.safetensors")
