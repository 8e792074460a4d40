"""The samples of the benchmarks: an image follows from its seed and label, as KSampler draws it, in any batch."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import unpicked
from benchmarks.paper.draw import to_bytes
from benchmarks.samples import DETERMINISTIC, load_model, sample
from tests.host.graph import call, guide

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "shapes32.safetensors"


@pytest.fixture
def model(tmp_path):
    """A model from a file that lies anywhere."""
    return load_model(Path(shutil.copyfile(SHIPPED, tmp_path / "anywhere.safetensors")))


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_an_image_is_that_of_ksampler_with_its_seed(model, sampler):
    (label,) = call("SAGClassLabel", label=3)
    batch = sample(model, range(5, 8), 3, sampler, steps=4)
    for seed, image in zip(range(5, 8), batch, strict=True):
        (alone,) = call("KSampler", model=model, seed=seed, steps=4, cfg=1.0, sampler_name=sampler, scheduler="simple",
                        positive=label, negative=label, latent_image={"samples": torch.zeros(1, 3, 32, 32)})
        # A rounding apart at most: a batch is computed in another order.
        assert (image.int() - to_bytes(alone["samples"])[0].int()).abs().max() <= 2


def test_guidance_changes_the_images_and_leaves_their_seeds(model):
    guided, _ = guide(model, scale=2.0)
    plain, steered = (sample(patched, range(2), -1, "ddim", steps=4).float() for patched in (model, guided))
    assert (plain - steered).abs().mean() > 1
    near, far = ((plain - other).square().mean() for other in (steered, plain.flip(0)))
    assert near < far


def test_the_sheet_has_a_row_for_every_class_beside_the_guided_one(monkeypatch, tmp_path):
    monkeypatch.setattr(unpicked, "say", lambda text: None)
    monkeypatch.setattr("sys.argv", ["unpicked", "--model", str(SHIPPED), "--out", str(tmp_path), "--count", "16",
                                     "--steps", "2", "--samplers", "euler"])
    monkeypatch.setattr(unpicked, "running", lambda device: nullcontext())
    unpicked.main()
    with Image.open(tmp_path / "shapes32-euler.png") as sheet:
        width = 2 * (64 + 8) + 8
        assert sheet.width == 2 * (width + 8) + 8 and sheet.height > 8 * (64 + 8)


def test_a_file_without_classes_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["unpicked", "--model", str(tmp_path / "none.safetensors")])
    monkeypatch.setattr(unpicked, "running", lambda device: nullcontext())
    with pytest.raises(SystemExit, match="none.safetensors"):
        unpicked.main()
