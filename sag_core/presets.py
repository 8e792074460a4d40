"""Recommended settings, a row for each family of models, with where each row comes from."""

from __future__ import annotations

from dataclasses import dataclass

from .adm.config import ADMConfig

PAPER = "the paper"
BUILT_IN = "defaults of ComfyUI's built-in node; not measured here"
CARRIED_OVER = "carried over from Stable Diffusion's; nobody has measured any"
MEASURED = "chosen by the samples and the map of the embedded model (training/README.md)"


@dataclass(frozen=True)
class Preset:
    """Settings for a family of models.

    Args:
        scale, blur_sigma, threshold, layer: of `SAGSettings`.
        blur_kernel: of `SAGSettings`; the paper's kernels have 31 taps.
        source: where they come from.
    """

    scale: float
    blur_sigma: float
    source: str
    threshold: float = 1.0
    layer: str = "auto"
    blur_kernel: int = 0


PRESETS = {
    "Stable Diffusion 1, 2": Preset(0.5, 2.0, BUILT_IN),
    "Stable Diffusion XL": Preset(0.5, 2.0, BUILT_IN),
    "other latent models": Preset(0.5, 2.0, CARRIED_OVER),
    "other pixel models": Preset(0.5, 9.0, "the paper's blur for 256 pixels; nobody has measured any"),
    "ADM 64": Preset(0.1, 1.0, "the paper's scale for 128 pixels and its smallest blur", layer="output.11",
                     blur_kernel=31),
    "ADM 128, with labels": Preset(0.1, 3.0, PAPER, layer="output.8", blur_kernel=31),
    "ADM 256, with labels": Preset(0.2, 9.0, PAPER, layer="output.2", blur_kernel=31),
    "ADM 256, without labels": Preset(0.5, 9.0, PAPER, layer="output.2", blur_kernel=31),
    "ADM 256, LSUN cat": Preset(0.05, 9.0, PAPER, layer="output.2", blur_kernel=31),
    "ADM 256, LSUN horse": Preset(0.01, 9.0, PAPER, layer="output.2", blur_kernel=31),
    "IDDPM, DDPM": Preset(0.1, 1.0, "the paper's scale for ADM at 128 pixels; of these it gives no settings",
                          blur_kernel=31),
    "embedded model": Preset(2.0, 1.0, MEASURED, layer="input.3"),
}


def preset_for_adm(config: ADMConfig) -> str:
    """The preset's name for a pixel model, by its code base, its size and whether it has labels."""
    if config.norm_groups != 32:  # every published model normalises in 32 groups
        return "embedded model"
    if not config.resblock_updown:
        return "IDDPM, DDPM"
    if config.image_size <= 64:
        return "ADM 64"
    if config.image_size == 128:
        return "ADM 128, with labels"
    return f"ADM 256, {'with' if config.num_classes else 'without'} labels"
