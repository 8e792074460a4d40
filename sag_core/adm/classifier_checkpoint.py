"""Reading the noisy classifiers of guided-diffusion: the file, safely, and what its tensors say of the architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from .checkpoint import check_fit, read_tensors
from .classifier import ADMClassifier
from .classifier_config import ClassifierConfig
from .config import ADMConfig

# In every classifier of the code base; a U-Net has no such output.
_REQUIRED = ("time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.1.0.in_layers.0.weight",
             "middle_block.1.qkv.weight")

# Sizes of the released classifiers by their multipliers, for those whose pooling does not fix it.
_IMAGE_SIZE = {(1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256, (0.5, 1, 1, 2, 2, 4, 4): 512}


def load_classifier(path: Path, noise_schedule: str | None = None,
                    timesteps: int | None = None) -> tuple[dict[str, Tensor], ClassifierConfig]:
    """The tensors and configuration of a classifier: .safetensors, or a .pt that is read without running code.

    Args:
        path: the file.
        noise_schedule, timesteps: of the process it was trained on, where the user knows better; None leaves them.

    Raises:
        ValueError: the file is damaged, holds code, or is no such classifier; the message names it and says what it is.
    """
    tensors, metadata = read_tensors(path)
    try:
        own = metadata.get("adm_classifier_config")
        config = read_classifier_config(tensors) if own is None else ClassifierConfig.from_json(own)
        given = {"noise_schedule": noise_schedule, "timesteps": timesteps}
        encoder = replace(config.encoder, **{name: value for name, value in given.items() if value is not None})
        config = replace(config, encoder=encoder)
        check_fit(tensors, ADMClassifier(config, device="meta").state_dict())
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return tensors, config


def is_classifier(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether a state dict is that of a noisy classifier: an encoder without a decoder."""
    return all(name in tensors for name in _REQUIRED) and not any(name.startswith("output_blocks.") for name in tensors)


def read_classifier_config(tensors: Mapping[str, Tensor]) -> ClassifierConfig:
    """The classifier a state dict belongs to; heads are those of the published ones, 64 channels wide.

    Raises:
        ValueError: these are not the tensors of a classifier, or some are missing.
    """
    if not is_classifier(tensors):
        kind = f"something else's: the first of {len(tensors)} is {next(iter(tensors), 'none')!r}"
        if "output_blocks.0.0.in_layers.0.weight" in tensors:
            kind = "a diffusion model's: load it with Load ADM / IDDPM Checkpoint"
        raise ValueError(f"not a noisy classifier of guided-diffusion; its tensors are {kind}")

    def width(name: str, dim: int = 0) -> int:
        if name not in tensors:
            raise ValueError(f"an incomplete classifier: {name!r} is missing")
        return tensors[name].shape[dim]

    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("input_blocks."))
    convolved = [i for i in range(1, blocks) if f"input_blocks.{i}.0.op.weight" in tensors]
    widths = [width(f"input_blocks.{i}.0.op.weight" if i in convolved else f"input_blocks.{i}.0.out_layers.3.weight")
              for i in range(1, blocks)]
    attended = [f"input_blocks.{i}.1.qkv.weight" in tensors for i in range(1, blocks)]
    per_level = convolved[0] if convolved else _blocks_per_level(widths, attended)
    first = range(0, len(widths), per_level)
    model_channels = width("time_embed.0.weight", dim=1)
    channel_mult = tuple(_exact(widths[i] / model_channels) for i in first)
    pool = _pool(tensors)
    image_size = _IMAGE_SIZE.get(channel_mult, 64)
    if pool == "attention":
        image_size = math.isqrt(width("out.2.positional_embedding", dim=1) - 1) << (len(channel_mult) - 1)
    output = {"attention": "out.2.c_proj.weight", "spatial": "out.2.weight"}.get(pool, "out.3.weight")
    return ClassifierConfig(ADMConfig(
        model_channels=model_channels, channel_mult=channel_mult, num_res_blocks=per_level - 1,
        attention_downsamples=tuple(2 ** level for level, i in enumerate(first) if attended[i]),
        in_channels=width("input_blocks.0.0.weight", dim=1), learn_sigma=False,
        scale_shift_norm=width("input_blocks.1.0.emb_layers.1.weight") == 2 * widths[0],
        resblock_updown=not convolved, image_size=image_size,
        noise_schedule="cosine" if image_size == 64 else "linear"), width(output), pool)


def _pool(tensors: Mapping[str, Tensor]) -> str:
    if "out.2.positional_embedding" in tensors:
        return "attention"
    if "out.0.weight" in tensors and tensors["out.0.weight"].ndim == 1:
        return "adaptive"  # it begins with a norm, the two others with a layer
    return "spatial_v2" if "out.3.weight" in tensors else "spatial"


def _blocks_per_level(widths: list[int], attended: list[bool]) -> int:
    """Blocks of a level with the one that halves, where that is a residual block like the others.

    The block that halves has no attention, the others of a level all have or all have not, and widths change between
    levels alone; the smallest number that this leaves is taken.
    """
    total = len(widths) + 1  # the last level halves nothing

    def fits(size: int) -> bool:
        levels = [range(start, min(start + size, len(widths))) for start in range(0, len(widths), size)]
        return all(len({widths[i] for i in level}) == 1 and len({attended[i] for i in level[:size - 1]}) == 1
                   and not any(attended[i] for i in level[size - 1:]) for level in levels)

    sizes = [size for size in range(2, total + 1) if total % size == 0 and fits(size)]
    if not sizes:
        raise ValueError(f"a classifier of {total} encoder blocks that do not form levels")
    return sizes[0]


def _exact(multiple: float) -> float:
    return int(multiple) if multiple.is_integer() else multiple


def describe_classifier(config: ClassifierConfig, parameters: int) -> str:
    """A line for the user: what was recognised."""
    encoder = config.encoder
    size = f"{encoder.image_size} x {encoder.image_size}"
    data = "ImageNet " if config.num_classes == 1000 else ""
    return (f"ADM classifier of {data}{size}, {config.num_classes} classes, {config.pool} pooling "
            f"({parameters / 1e6:.1f} M parameters), {encoder.noise_schedule} {encoder.timesteps} steps")
