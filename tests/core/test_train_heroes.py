"""The training of adventurers: what it asks for, what a batch holds, and what is exported when."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors import safe_open

from sag_core.adm.checkpoint import load_checkpoint
from sag_core.adm.unet import ADMUNet
from tests.core.painted_tiles import paint
from training import sample, train_heroes
from training.data import heroes
from training.heroes import CLASSES
from training.loop import save
from training.tiles import load
from training.train import batch, initialise, recipe
from training.train_heroes import CONFIG, export_checkpoint, parse_args

OPTIONS = ["--batch", "4", "--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    return heroes(load(folder, paint(folder)))


@pytest.fixture
def options(tmp_path):
    return [*OPTIONS, "--checkpoint", str(tmp_path / "heroes.pt"), "--out", str(tmp_path / "heroes.safetensors")]


def run(monkeypatch, options):
    monkeypatch.setattr(sys, "argv", ["train_heroes", *options])
    train_heroes.main()


def test_the_model_is_as_large_as_it_is_said_to_be():
    model = ADMUNet(CONFIG, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(5.5e6, rel=0.01)
    assert CONFIG.num_classes == len(CLASSES) + 1 and CONFIG.null_label == len(CLASSES)


def test_a_batch_is_a_function_of_seed_and_step(data):
    args = parse_args(OPTIONS)
    first, again, next_one = (batch(step, args, CONFIG, data.draw) for step in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], next_one[0])
    assert not torch.equal(first[0], batch(3, parse_args([*OPTIONS, "--seed", "1"]), CONFIG, data.draw)[0])


def test_half_of_the_labels_are_dropped_and_the_timesteps_cover_the_process(data):
    images, label, t, eps = batch(0, parse_args([*OPTIONS, "--batch", "400"]), CONFIG, data.draw)
    assert (label == CONFIG.null_label).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert set(label.tolist()) == set(range(len(CLASSES) + 1))
    assert (t * 400 // CONFIG.timesteps).diff().abs().max() <= 2 and eps.shape == images.shape


def test_without_tiles_it_says_where_to_get_them(monkeypatch, options):
    with pytest.raises(SystemExit, match="not part of this repository. Give --tiles .* Dungeon Crawl Stone Soup"):
        run(monkeypatch, options)


def test_it_trains_resumes_exports_and_is_sampled(monkeypatch, tmp_path, options, data):
    monkeypatch.setattr(train_heroes, "load", lambda place: place)
    monkeypatch.setattr(train_heroes, "heroes", lambda place: data)
    run(monkeypatch, [*options, "--every", "1"])
    tensors, config = load_checkpoint(tmp_path / "heroes.safetensors")
    assert config == CONFIG
    with safe_open(tmp_path / "heroes.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == list(CLASSES)
        made = json.loads(file.metadata()["training"])
    assert made["batch"] == 4 and made["steps"] == 2 and made["loss"] > 0
    with pytest.raises(SystemExit, match="was begun as .*: give the same options"):
        run(monkeypatch, [*options, "--lr", "0.5"])
    monkeypatch.setattr(sys, "argv", ["sample", "--model", str(tmp_path / "heroes.safetensors"), "--columns", "1",
                                      "--steps", "2", "--enlarge", "3", "--out", str(tmp_path / "sheet.png")])
    sample.main()
    with sample.Image.open(tmp_path / "sheet.png") as sheet:
        rows = len(CLASSES) + 1
        assert sheet.size == (96, rows * 96 + (rows - 1) * 2)
        # A pixel of the model is a square of the sheet.
        corner = {sheet.getpixel((x, y)) for x in range(3) for y in range(3)}
        assert len(corner) == 1


def test_the_last_checkpoint_is_exported_without_tiles(monkeypatch, tmp_path, options):
    args = parse_args([*options, "--export-now"])
    model = ADMUNet(CONFIG)
    initialise(model)
    save(args.checkpoint, {"ema": model.state_dict(), "step": 1, "loss": 0.5, "recipe": recipe(args)})
    run(monkeypatch, [*options, "--export-now"])
    tensors, config = load_checkpoint(args.out)
    assert config == CONFIG and all(tensor.dtype == torch.float16 for tensor in tensors.values())
    with safe_open(args.out, "pt") as file:
        assert json.loads(file.metadata()["training"])["at_step"] == 1


def test_there_is_nothing_to_export_before_the_first_checkpoint_or_of_another_recipe(options):
    args = parse_args([*options, "--export-now"])
    with pytest.raises(SystemExit, match="There is no checkpoint at .*heroes.pt"):
        export_checkpoint(args)
    save(args.checkpoint, {"ema": {}, "step": 1, "loss": 0.5, "recipe": {"lr": 1}})
    with pytest.raises(SystemExit, match="was begun as {'lr': 1}"):
        export_checkpoint(args)
    assert not args.out.exists()
