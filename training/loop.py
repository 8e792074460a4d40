"""The training loop of every network here: AdamW, averaged weights, checkpoints that are resumed from."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm


def loop_arguments(parser: argparse.ArgumentParser, steps: int, decay: int, batch: int, lr: float) -> None:
    """Options that every training has."""
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps in all")
    parser.add_argument("--decay", type=int, default=decay, help="last steps, over which the learning rate falls to 0")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights, per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")


def train(model: nn.Module, loss_of: Callable[[int], tuple[Tensor, float]], args: argparse.Namespace,
          recipe: dict[str, object], weight_decay: float = 0.0) -> tuple[dict[str, Tensor], float]:
    """Train to the last step, from the checkpoint there is or from the start.

    Args:
        model: as it starts, on its device.
        loss_of: loss of a step, a function of its number, and what is shown of it.
        args: of `loop_arguments`, and `checkpoint`.
        recipe: what decides the result; a checkpoint of another is refused.
        weight_decay: of AdamW.

    Returns:
        The averaged weights, and the running mean of what is shown.

    Raises:
        SystemExit: the checkpoint was begun with other options, or cannot be read or written.
    """
    ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=weight_decay)
    start, smooth = 0, None
    if (state := load_state(args.checkpoint, recipe, args.device)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, start, smooth = state["ema"], state["step"], state["loss"]
    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        loss, shown = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(args.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.values()), [tensor.detach() for tensor in model.state_dict().values()], 1 - decay)
        smooth = shown if smooth is None else smooth + (shown - smooth) * 0.01
        if (step + 1) % 20 == 0:
            progress.set_postfix(loss=f"{smooth:.5f}")
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            save(args.checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema,
                                   "step": step + 1, "loss": smooth, "recipe": recipe})
    return ema, smooth


def load_state(path: Path, recipe: dict[str, object], device: str = "cpu") -> dict | None:
    """Returns what a checkpoint holds, None where there is none.

    Raises:
        SystemExit: it was begun with other options, or is no checkpoint of a training.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        # Only its kind: what torch says of a damaged file is how to run the code in it.
        raise SystemExit(f"{path} cannot be read and may be damaged ({type(error).__name__}): remove it, or give "
                         "another --checkpoint, to begin anew") from error
    if not isinstance(state, dict) or "recipe" not in state:
        raise SystemExit(f"{path} is not a checkpoint of a training: give another --checkpoint")
    if state["recipe"] != recipe:
        raise SystemExit(f"{path} was begun as {state['recipe']}, not {recipe}: give the same options, or another "
                         "--checkpoint to begin anew")
    return state


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up over 200 steps, a constant, and a linear fall to 0 over the last `decay` steps."""
    return args.lr * min(1.0, (step + 1) / 200, (args.steps - step) / max(1, args.decay))


def timesteps(count: int, length: int, generator: torch.Generator) -> Tensor:
    """Timesteps stratified over the process, rising: one from each of `count` equal parts, [count]."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (strata * length).long().clamp(max=length - 1)


def save(path: Path, state: dict) -> None:
    """Write a checkpoint atomically.

    Raises:
        SystemExit: the checkpoint cannot be written; the one before is whole.
    """
    write(path, lambda partial: torch.save(state, partial))


def export(path: Path, weights: dict[str, Tensor], recipe: dict, classes: Sequence[str], **metadata: str) -> None:
    """Write weights as float16 safetensors that describe themselves, atomically."""
    metadata |= {"training": json.dumps(recipe), "classes": json.dumps(classes)}
    half = {name: tensor.half().cpu().contiguous() for name, tensor in weights.items()}
    write(path, lambda partial: save_file(half, partial, metadata))


def write(path: Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` write a file beside `path`, then put it in its place, so that `path` is always a whole file.

    Raises:
        SystemExit: the file cannot be written (the disk is full, say); what stood at `path` still stands there.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(partial)
        os.replace(partial, path)
    # torch and safetensors report a full disk as errors of their own.
    except (OSError, RuntimeError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        kept = "The file of before is whole; run the same command again to go on from it." if path.exists() else ""
        raise SystemExit(f"{path} cannot be written: {error}. Is the disk full? {kept}".rstrip()) from error
