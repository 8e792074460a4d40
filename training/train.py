"""Train the embedded model on procedural scenes: `python -m training.train`.

Checkpoints are written atomically and resumed from without asking. Every batch is a function of (seed, step), so an
interrupted run sees the data it would have seen. At the end the averaged weights are exported to `models/` as float16
safetensors, with the configuration and the recipe in the metadata.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from sag_core.adm.config import ADMConfig
from sag_core.adm.unet import ADMUNet, AttentionBlock, ResBlock
from training.loss import HybridLoss
from training.scenes import SHAPES, draw

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ADMConfig(
    model_channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_downsamples=(2, 4), head_channels=32,
    norm_groups=8, num_classes=len(SHAPES) + 1, null_label=len(SHAPES), image_size=32,
    noise_schedule="cosine")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6_000, help="optimiser steps in all")
    parser.add_argument("--decay", type=int, default=2_500, help="last steps, over which the learning rate falls to 0")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights, per step")
    parser.add_argument("--null", type=float, default=0.5, help="share of labels dropped to the null label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "training" / "checkpoints" / "shapes32.pt")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "shapes32.safetensors")
    return parser.parse_args()


def initialise(model: ADMUNet) -> None:
    """Start every residual branch and the output at zero, as the published code does."""
    for module in model.modules():
        if isinstance(module, ResBlock):
            last = module.out_layers[-1]
        elif isinstance(module, AttentionBlock):
            last = module.proj_out
        else:
            continue
        for parameter in last.parameters():
            torch.nn.init.zeros_(parameter)
    for parameter in model.out[-1].parameters():
        torch.nn.init.zeros_(parameter)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up over 200 steps, a constant, and a linear fall to 0 over the last `decay` steps."""
    return args.lr * min(1.0, (step + 1) / 200, (args.steps - step) / max(1, args.decay))


def batch(step: int, args: argparse.Namespace) -> tuple[torch.Tensor, ...]:
    """Images, labels, stratified timesteps and noise of one step, a function of (seed, step)."""
    generator = torch.Generator().manual_seed(args.seed * 10_000_019 + step)
    scenes = draw(args.batch, generator, CONFIG.image_size)
    dropped = torch.rand(args.batch, generator=generator) < args.null
    label = torch.where(dropped, CONFIG.null_label, scenes.label)
    strata = (torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) / args.batch
    t = (strata * CONFIG.timesteps).long().clamp(max=CONFIG.timesteps - 1)
    eps = torch.randn(scenes.image.shape, generator=generator)
    return tuple(tensor.to(args.device) for tensor in (scenes.image, label, t, eps))


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that an interruption leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def export(path: Path, ema: dict[str, torch.Tensor], recipe: dict) -> None:
    """The averaged weights as float16 safetensors that describe themselves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    metadata = {"adm_config": CONFIG.to_json(), "training": json.dumps(recipe), "classes": json.dumps(SHAPES)}
    save_file({name: tensor.half().cpu().contiguous() for name, tensor in ema.items()}, partial, metadata)
    os.replace(partial, path)


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    model = ADMUNet(CONFIG)
    initialise(model)
    model.to(args.device)
    ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    loss_of, start, smooth = HybridLoss(CONFIG), 0, None
    recipe = {key: getattr(args, key) for key in ("batch", "lr", "decay", "ema", "null", "seed", "steps")}
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, map_location=args.device, weights_only=True)
        if state["recipe"] != recipe:
            raise SystemExit(f"{args.checkpoint} was begun as {state['recipe']}, not {recipe}: give the same options, "
                             "or another --checkpoint to begin anew")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, start, smooth = state["ema"], state["step"], state["loss"]

    def predict(x, t, label):
        with torch.autocast(x.device.type, torch.bfloat16):
            return model(x, t, label)

    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        loss, simple = loss_of(predict, *batch(step, args))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(args.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.values()), [tensor.detach() for tensor in model.state_dict().values()], 1 - decay)
        smooth = float(simple) if smooth is None else smooth + (float(simple) - smooth) * 0.01
        if (step + 1) % 20 == 0:
            progress.set_postfix(loss=f"{smooth:.5f}")
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            save(args.checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema,
                                   "step": step + 1, "loss": smooth, "recipe": recipe})
    export(args.out, ema, recipe | {"loss": round(smooth, 6)})


if __name__ == "__main__":
    main()
