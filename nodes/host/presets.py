"""Which preset a MODEL's family has."""

from __future__ import annotations

from ...sag_core.presets import preset_for_adm


def preset_of(model) -> str:
    """The name of the preset in sag_core/presets.py that fits a MODEL best."""
    base = model.model
    config = getattr(base, "adm_config", None)
    if config is not None:
        return preset_for_adm(config)
    if base.latent_format.latent_channels == 3:
        return "other pixel models"
    kinds = {kind.__name__ for kind in type(base).__mro__}
    if kinds & {"SDXL", "SDXLRefiner"}:
        return "Stable Diffusion XL"
    # The host's plain class is that of Stable Diffusion 1 and 2; the names are those of their variants.
    if type(base).__name__ in {"BaseModel", "SD21UNCLIP", "SD15_instructpix2pix", "SD_X4Upscaler", "Stable_Zero123"}:
        return "Stable Diffusion 1, 2"
    return "other latent models"
