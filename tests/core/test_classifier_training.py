"""The recipe of the embedded classifier, and the file it made."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from torch.testing import assert_close

from sag_core.adm.classifier import ADMClassifier
from sag_core.adm.classifier_checkpoint import load_classifier
from training.classifier import CONFIG, MODEL, ROOT, accuracy, batch, noisy
from training.scenes import draw


def test_a_batch_is_a_function_of_seed_and_step():
    args = Namespace(seed=1, batch=8, device="cpu")
    first, again, next_one = batch(3, args), batch(3, args), batch(4, args)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], next_one[0])
    assert first[1].sort().values.equal(first[1]) and first[1].max() < CONFIG.encoder.timesteps


@pytest.mark.parametrize(("t", "image_share"), [(0, 1.0), (999, 0.0)])
def test_noise_goes_from_none_to_all_over_the_process(t, image_share):
    x, label = noisy(4, torch.Generator().manual_seed(2), torch.full((4,), t))
    scenes = draw(4, torch.Generator().manual_seed(2))
    assert label.equal(scenes.label)
    share = (x * scenes.image).sum() / scenes.image.square().sum()
    assert_close(share.item(), image_share, rtol=0, atol=0.05)


def test_the_file_is_what_the_recipe_makes():
    path = ROOT / "models" / "shapes32_classifier.safetensors"
    tensors, config = load_classifier(path)
    assert config == CONFIG and path.stat().st_size < 3_000_000
    # The process of the model it guides, or its timesteps would mean other noise.
    assert all(getattr(config.encoder, name) == getattr(MODEL, name)
               for name in ("noise_schedule", "timesteps", "timestep_scale", "image_size"))
    model = ADMClassifier(config).eval()
    model.load_state_dict(tensors)
    shares = accuracy(model, "cpu", count=64)
    assert min(shares[:3]) > 0.9 and shares[5] > 0.4
