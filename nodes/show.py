"""Output of a node on itself: pictures, an animation, a text."""

from __future__ import annotations

import random
from string import ascii_lowercase

from comfy_api.latest import io, ui
from torch import Tensor


def shown(cls: type[io.ComfyNode], image: Tensor, text: str = "") -> dict:
    """A node's `ui` that shows an IMAGE on it, with a text for those who read the graph's history."""
    return ui.PreviewImage(image, cls=cls).as_dict() | ({"text": (text,)} if text else {})


def animated(image: Tensor, fps: float) -> dict:
    """A node's `ui` that plays an IMAGE on it, frame by frame."""
    name = "ComfyUI_temp_" + "".join(random.choices(ascii_lowercase, k=8))  # as the host names its previews
    result = ui.ImageSaveHelper.save_animated_webp(image, name, io.FolderType.temp, None, fps, lossless=False,
                                                   quality=90, method=2)
    return ui.SavedImages([result], is_animated=True).as_dict()
