"""What the embedded model attends to in scenes whose objects are known exactly: overlap and frequency, by layer.

Scenes are noised to timesteps spread over the process and shown to the network once each; a layer's map is the mean
over the timesteps, as the paper aggregates it over a sampling run. No host is needed: the network calls a function
for its attention, and the function listens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.paper.draw import MODEL
from sag_core.adm.checkpoint import load_checkpoint
from sag_core.adm.schedule import betas
from sag_core.adm.unet import ADMUNet, sdpa
from sag_core.analysis import detail_gain, log_spectra, on_grid, overlap
from sag_core.attention import column_mass
from sag_core.masks import to_grid
from training.scenes import Scenes, draw

TIMESTEPS = range(40, 1000, 80)
SEED = 5_000_000
DRAWS = 20
THRESHOLDS = (1.0, 1.3)


@dataclass(frozen=True)
class Seen:
    """What a layer's mask meets, at one threshold.

    Args:
        layer: its name.
        grid: (h, w).
        threshold: psi.
        iou, random: of every scene, [N] and its mean over draws [N].
        detail: how much more log-magnitude the masked patches of each scene have, [N]; nan where none is masked.
    """

    layer: str
    grid: tuple[int, int]
    threshold: float
    iou: Tensor
    random: Tensor
    detail: Tensor


@torch.inference_mode()
def look(count: int, chunk: int = 100) -> list[Seen]:
    """Every layer's masks of `count` scenes, at every threshold."""
    tensors, config = load_checkpoint(MODEL)
    heard: dict[str, Tensor] = {}

    def listen(q: Tensor, k: Tensor, v: Tensor, heads: int, options: dict) -> Tensor:
        name, index = options["block"]
        attn_map = to_grid(column_mass(q, k), options["activations_shape"][2:])
        heard[f"{name}.{index}"] = heard.get(f"{name}.{index}", 0) + attn_map / len(TIMESTEPS)
        return sdpa(q, k, v, heads, options)

    network = ADMUNet(config, attention=listen).eval()
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    alpha_bar = torch.cumprod(1 - betas(config), 0).float()
    found: dict[tuple[str, float], list[Seen]] = {}
    for start in range(0, count, chunk):
        generator = torch.Generator().manual_seed(SEED + start)
        scenes = draw(min(chunk, count - start), generator, config.image_size)
        heard.clear()
        for t in TIMESTEPS:
            noise = torch.randn(scenes.image.shape, generator=generator)
            x = alpha_bar[t].sqrt() * scenes.image + (1 - alpha_bar[t]).sqrt() * noise
            steps, labels = torch.full((len(x),), float(t)), torch.full((len(x),), config.null_label)
            network(x, steps, labels)
        for layer, attn_map in heard.items():
            for threshold in THRESHOLDS:
                found.setdefault((layer, threshold), []).append(
                    _seen(layer, attn_map, threshold, scenes, SEED + start))
    return [_joined(parts) for parts in found.values()]


def gain(seen: Seen) -> float:
    """By what share the mean IoU exceeds that of random masks of equal area."""
    return (seen.iou.mean() / seen.random.mean() - 1).item()


def _seen(layer: str, attn_map: Tensor, threshold: float, scenes: Scenes, seed: int) -> Seen:
    grid = tuple(attn_map.shape[1:])
    mask, objects = (attn_map > threshold).float(), on_grid(scenes.mask[:, 0], grid)
    met = overlap(mask, objects, DRAWS, seed)
    detail = detail_gain(log_spectra((scenes.image + 1) / 2, grid), mask)
    return Seen(layer, grid, threshold, met.iou, met.random.mean(dim=0), detail)


def _joined(parts: list[Seen]) -> Seen:
    first = parts[0]
    return Seen(first.layer, first.grid, first.threshold,
                *(torch.cat([getattr(part, name) for part in parts]) for name in ("iou", "random", "detail")))
