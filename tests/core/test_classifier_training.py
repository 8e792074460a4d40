"""The recipe of the embedded classifiers, of any scenes, and the file it made of shapes."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from torch.testing import assert_close

from sag_core.adm.classifier import ADMClassifier
from sag_core.adm.classifier_checkpoint import load_classifier
from tests.core.painted_tiles import paint
from training.classifier import CONFIG, LEVELS, MODEL, ROOT, accuracy, batch, noisy
from training.data import SHAPES, data_of, heroes
from training.tiles import load
from training.train_heroes import CONFIG as HEROES


@pytest.fixture(scope="module", params=["shapes", "heroes"])
def data(request, tmp_path_factory):
    if request.param == "shapes":
        return SHAPES
    folder = tmp_path_factory.mktemp("tiles")
    return heroes(load(folder, paint(folder)))


def test_a_batch_is_a_function_of_seed_and_step(data):
    args = Namespace(seed=1, batch=8, device="cpu")
    first, again, next_one = (batch(step, args, data.draw) for step in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], next_one[0])
    assert first[1].sort().values.equal(first[1]) and first[1].max() < CONFIG.encoder.timesteps


@pytest.mark.parametrize(("t", "image_share"), [(0, 1.0), (999, 0.0)])
def test_noise_goes_from_none_to_all_over_the_process(data, t, image_share):
    x, label = noisy(data.draw, 4, torch.Generator().manual_seed(2), torch.full((4,), t))
    scenes = data.draw(4, torch.Generator().manual_seed(2))
    assert label.equal(scenes.label)
    share = (x * scenes.image).sum() / scenes.image.square().sum()
    assert_close(share.item(), image_share, rtol=0, atol=0.05)


def test_accuracy_is_the_share_named_rightly_in_every_tenth(data):
    class Knows(torch.nn.Module):
        """Names the first class of any image."""

        def forward(self, x, t):
            return torch.eye(len(data.classes))[0].expand(len(x), -1)

    for draw in data.kinds.values():
        shares = accuracy(Knows(), draw, count=256)
        assert len(shares) == LEVELS and sum(shares) / LEVELS == pytest.approx(1 / len(data.classes), abs=0.04)


def test_without_tiles_the_scenes_are_shapes():
    assert data_of(None) is SHAPES and list(SHAPES.kinds) == ["new scenes"] and SHAPES.unseen is SHAPES.draw


@pytest.mark.parametrize("model", [MODEL, HEROES], ids=["shapes", "heroes"])
def test_one_classifier_fits_the_process_and_the_classes_of_both_models(model):
    assert all(getattr(CONFIG.encoder, name) == getattr(model, name)
               for name in ("noise_schedule", "timesteps", "timestep_scale", "image_size", "norm_groups"))
    assert CONFIG.num_classes == model.null_label


def test_the_file_is_what_the_recipe_makes():
    path = ROOT / "models" / "shapes32_classifier.safetensors"
    tensors, config = load_classifier(path)
    assert config == CONFIG and path.stat().st_size < 3_000_000
    # The process of the model it guides, or its timesteps would mean other noise.
    assert all(getattr(config.encoder, name) == getattr(MODEL, name)
               for name in ("noise_schedule", "timesteps", "timestep_scale", "image_size"))
    model = ADMClassifier(config).eval()
    model.load_state_dict(tensors)
    shares = accuracy(model, SHAPES.draw, count=64)
    assert min(shares[:3]) > 0.9 and shares[5] > 0.4
