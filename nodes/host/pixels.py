"""Pixel models under the host's samplers: what is clamped to the range of images, and what is not.

What classifier-free guidance, other nodes and samplers are given is clamped, as it is without this pack. Self-attention
guidance needs the model's own noise, and so the prediction before it was clamped.
"""

from __future__ import annotations

from .adm_step import ADM_STEP

UNCLAMPED = "sag_unclamped"
"""Key in transformer_options of a pass whose predictions are wanted as the network makes them."""


def image_range(model, options: dict) -> tuple[float, float] | None:
    """Range of a pixel model's clean predictions; None of another model's, and where the authors' sampler clamps."""
    return None if ADM_STEP in options else getattr(model, "image_range", None)


def unclamped(model_options: dict) -> dict:
    """Model options of a pass whose predictions are wanted as the network makes them."""
    return model_options | {"transformer_options": model_options.get("transformer_options", {}) | {UNCLAMPED: True}}
