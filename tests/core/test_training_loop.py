"""The training loop: resumed is as if it had not stopped, and a checkpoint of another recipe is refused."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from training.loop import export, learning_rate, loop_arguments, timesteps, train


def options(path, steps=6, **more) -> Namespace:
    parser = ArgumentParser()
    loop_arguments(parser, steps=steps, decay=2, batch=4, lr=0.1)
    return Namespace(**vars(parser.parse_args([])) | {"every": 2, "checkpoint": path} | more)


def trained(args, stop_at=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss_of(step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, loss.item()

    return train(model, loss_of, args, {"lr": args.lr}, weight_decay=0.1)


def test_a_resumed_training_is_as_if_it_had_not_stopped(tmp_path):
    weights, shown = trained(options(tmp_path / "whole.pt"))
    args = options(tmp_path / "parts.pt")
    with pytest.raises(KeyboardInterrupt):
        trained(args, stop_at=5)
    assert torch.load(args.checkpoint, weights_only=True)["step"] == 4
    resumed, again = trained(args)
    assert again == shown and all(torch.equal(resumed[name], weights[name]) for name in weights)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    args = options(tmp_path / "checkpoint.pt")
    trained(args)
    with pytest.raises(SystemExit, match="was begun as {'lr': 0.1}, not {'lr': 0.2}"):
        trained(options(args.checkpoint, lr=0.2))


def test_the_learning_rate_rises_over_200_steps_and_falls_over_the_last_ones():
    args = Namespace(lr=1.0, steps=1000, decay=100)
    assert [learning_rate(step, args) for step in (0, 99, 199, 500, 899, 950, 999)] == pytest.approx(
        [0.005, 0.5, 1, 1, 1, 0.5, 0.01])


def test_timesteps_are_one_of_each_part_of_the_process():
    drawn = timesteps(10, 1000, torch.Generator().manual_seed(0))
    assert (drawn // 100).tolist() == list(range(10))


def test_what_is_exported_describes_itself(tmp_path):
    export(tmp_path / "model.safetensors", {"weight": torch.ones(2)}, {"lr": 1}, adm_config="{}")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.get_tensor("weight").dtype == torch.float16
        assert file.metadata()["training"] == '{"lr": 1}' and file.metadata()["adm_config"] == "{}"
