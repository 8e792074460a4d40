"""The training loop: resumed is as if it had not stopped, nothing is lost to a full disk, another recipe is refused."""

from __future__ import annotations

import errno
import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tools.process import capture
from training import loop
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
    export(tmp_path / "model.safetensors", {"weight": torch.ones(2)}, {"lr": 1}, ("a", "b"), adm_config="{}")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.get_tensor("weight").dtype == torch.float16
        assert file.metadata() == {"training": '{"lr": 1}', "adm_config": "{}", "classes": '["a", "b"]'}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "another file of tensors"])
def test_a_damaged_checkpoint_is_refused_and_kept(tmp_path, content):
    args = options(tmp_path / "checkpoint.pt")
    if content is None:
        torch.save(torch.ones(2), args.checkpoint)
    else:
        args.checkpoint.write_bytes(content)
    before = args.checkpoint.read_bytes()
    with pytest.raises(SystemExit, match="checkpoint.pt (cannot be read|is not a checkpoint).*another --checkpoint"):
        trained(args)
    assert args.checkpoint.read_bytes() == before


def test_a_truncated_checkpoint_is_refused(tmp_path):
    args = options(tmp_path / "checkpoint.pt")
    trained(args)
    args.checkpoint.write_bytes(args.checkpoint.read_bytes()[:-100])
    with pytest.raises(SystemExit, match="checkpoint.pt cannot be read and may be damaged"):
        trained(args)


# -- a full disk -----------------------------------------------------------------------------------------------------

def test_a_disk_that_fills_up_during_training_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    weights, shown = trained(options(tmp_path / "whole.pt"))
    args = options(tmp_path / "checkpoint.pt")
    write = torch.save

    def full(state, path):
        if state["step"] > 2:
            Path(path).write_bytes(b"a part")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(loop.torch, "save", full)
        with pytest.raises(SystemExit, match="checkpoint.pt cannot be written: .*No space left.* Is the disk full"):
            trained(args)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []
    assert torch.load(args.checkpoint, weights_only=True)["step"] == 2
    resumed, again = trained(args)
    assert again == shown and all(torch.equal(resumed[name], weights[name]) for name in weights)


def test_an_export_that_fails_leaves_the_file_of_before(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    export(path, {"weight": torch.ones(2)}, {}, ())
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop, "save_file", full)
    with pytest.raises(SystemExit, match="model.safetensors cannot be written"):
        export(path, {"weight": torch.zeros(2)}, {}, ())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


SMALL_DISK = """
import sys
from pathlib import Path

import torch

folder, root = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, root)
from training.loop import export, save

checkpoint, model = folder / "a.pt", folder / "a.safetensors"
small, large = {"a": torch.ones(1_000)}, {"a": torch.zeros(1_000_000)}
save(checkpoint, small)
export(model, small, {}, ())
for write in (lambda: save(checkpoint, large), lambda: export(model, large, {}, ())):
    try:
        write()
    except SystemExit as refusal:
        print(refusal)
print(sorted(path.name for path in folder.iterdir()))
print(torch.load(checkpoint, weights_only=True)["a"].sum().item())
save(checkpoint, {"a": torch.full((1_000,), 2.0)})
print(torch.load(checkpoint, weights_only=True)["a"].sum().item())
"""


def test_a_disk_that_is_really_full_leaves_whole_files_and_is_written_to_again_when_it_is_not(tmp_path):
    """On a file system of 256 KiB, in a namespace of its own."""
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c",
             'mount -t tmpfs -o size=256k none "$1" && shift && exec "$@"', "sh", tmp_path]
    if not shutil.which("unshare") or capture([*mount, "true"])[0]:
        pytest.skip("this machine lets nobody mount a file system")
    status, printed = capture([*mount, sys.executable, "-c", SMALL_DISK, tmp_path, Path(loop.__file__).parents[1]])
    assert status == 0, printed
    *refusals, files, kept, again = printed.splitlines()
    assert len([line for line in refusals if "cannot be written" in line and "Is the disk full?" in line]) == 2
    assert files == "['a.pt', 'a.safetensors']" and (float(kept), float(again)) == (1000, 2000)
