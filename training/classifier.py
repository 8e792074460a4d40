"""Train the embedded classifier of noisy images on procedural scenes: `python -m training.classifier`.

It names the shape in x_t at any timestep of the embedded model's own diffusion process (arXiv 2105.05233, sec. 4).
Checkpoints are written atomically and resumed from without asking; every batch is a function of (seed, step). At the
end the averaged weights are exported to `models/` as float16 safetensors, with the configuration and the recipe in the
metadata, and its accuracy by noise level is printed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sag_core.adm.classifier import ADMClassifier
from sag_core.adm.classifier_config import ClassifierConfig
from sag_core.adm.config import ADMConfig
from sag_core.adm.schedule import betas
from sag_core.adm.unet import AttentionBlock, ResBlock
from training.scenes import SHAPES, draw
from training.train import CONFIG as MODEL
from training.train import ROOT, learning_rate, save

CONFIG = ClassifierConfig(ADMConfig(
    model_channels=32, channel_mult=(1, 2, 3), num_res_blocks=1, attention_downsamples=(4,), head_channels=32,
    norm_groups=MODEL.norm_groups, learn_sigma=False, image_size=MODEL.image_size,
    noise_schedule=MODEL.noise_schedule, timesteps=MODEL.timesteps), num_classes=len(SHAPES))
LEVELS = 10


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3_000, help="optimiser steps in all")
    parser.add_argument("--decay", type=int, default=1_000, help="last steps, over which the learning rate falls to 0")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights, per step")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "training/checkpoints/shapes32_classifier.pt")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "shapes32_classifier.safetensors")
    return parser.parse_args()


def initialise(model: ADMClassifier) -> None:
    """Start every residual branch at zero, as the published code does."""
    for module in model.modules():
        if isinstance(module, ResBlock | AttentionBlock):
            last = module.out_layers[-1] if isinstance(module, ResBlock) else module.proj_out
            for parameter in last.parameters():
                torch.nn.init.zeros_(parameter)


def noisy(count: int, generator: torch.Generator, t: Tensor) -> tuple[Tensor, Tensor]:
    """Scenes at timesteps t [count], in variance-preserving scale, and their labels [count]."""
    alpha_bar = torch.cumprod(1 - betas(CONFIG.encoder), 0).float()[t, None, None, None]
    scenes = draw(count, generator, CONFIG.encoder.image_size)
    noise = torch.randn(scenes.image.shape, generator=generator)
    return alpha_bar.sqrt() * scenes.image + (1 - alpha_bar).sqrt() * noise, scenes.label


def batch(step: int, args: argparse.Namespace) -> tuple[Tensor, ...]:
    """Noisy images, stratified timesteps and labels of one step, a function of (seed, step)."""
    generator = torch.Generator().manual_seed(args.seed * 10_000_019 + 5_000_011 + step)
    strata = (torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) / args.batch
    t = (strata * CONFIG.encoder.timesteps).long().clamp(max=CONFIG.encoder.timesteps - 1)
    x, label = noisy(args.batch, generator, t)
    return tuple(tensor.to(args.device) for tensor in (x, t, label))


@torch.no_grad()
def accuracy(model: ADMClassifier, device: str, count: int = 512) -> list[float]:
    """Share of new scenes that are named rightly, by tenth of the process, the cleanest first."""
    shares, tenth = [], CONFIG.encoder.timesteps // LEVELS
    for level in range(LEVELS):
        generator = torch.Generator().manual_seed(9_000_000_001 + level)
        t = torch.randint(level * tenth, (level + 1) * tenth, (count,), generator=generator)
        x, label = noisy(count, generator, t)
        shares.append(float((model(x.to(device), t.to(device)).argmax(1).cpu() == label).float().mean()))
    return shares


def export(path: Path, weights: dict[str, Tensor], recipe: dict) -> None:
    """The averaged weights as float16 safetensors that describe themselves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    metadata = {"adm_classifier_config": CONFIG.to_json(), "training": json.dumps(recipe),
                "classes": json.dumps(SHAPES)}
    save_file({name: tensor.half().cpu().contiguous() for name, tensor in weights.items()}, partial, metadata)
    os.replace(partial, path)


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    model = ADMClassifier(CONFIG)
    initialise(model)
    model.to(args.device)
    ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=args.weight_decay)
    start, smooth = 0, None
    recipe = {key: getattr(args, key) for key in ("batch", "lr", "decay", "ema", "weight_decay", "seed", "steps")}
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, map_location=args.device, weights_only=True)
        if state["recipe"] != recipe:
            raise SystemExit(f"{args.checkpoint} was begun as {state['recipe']}, not {recipe}: give the same options, "
                             "or another --checkpoint to begin anew")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, start, smooth = state["ema"], state["step"], state["loss"]

    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        x, t, label = batch(step, args)
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = model(x, t)
        loss = F.cross_entropy(logits.float(), label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(args.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.values()), [tensor.detach() for tensor in model.state_dict().values()], 1 - decay)
        smooth = float(loss) if smooth is None else smooth + (float(loss) - smooth) * 0.01
        if (step + 1) % 20 == 0:
            progress.set_postfix(loss=f"{smooth:.4f}")
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            save(args.checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema,
                                   "step": step + 1, "loss": smooth, "recipe": recipe})
    model.load_state_dict(ema)
    shares = accuracy(model.eval(), args.device)
    print("accuracy by tenth of the process, the cleanest first:", " ".join(f"{share:.1%}" for share in shares))
    export(args.out, ema, recipe | {"loss": round(smooth, 6), "accuracy": [round(share, 3) for share in shares]})


if __name__ == "__main__":
    main()
