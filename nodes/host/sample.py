"""Layout of the tensor that is sampled, and the image or video in it."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.utils
from torch import Tensor


class Layout:
    """Layout of a sample: the place of the picture in it.

    Some models sample several things at once, a video and its sound, which the host packs into one tensor [B, 1, N],
    the picture first. Only the picture is recorded and guided.
    """

    def __init__(self, shapes: Sequence[Sequence[int]]):
        """`shapes`: of the things that are sampled, the picture's first."""
        self.shapes = [tuple(shape) for shape in shapes]

    @property
    def size(self) -> tuple[int, ...]:
        """The picture's spatial size, (H, W) or (T, H, W)."""
        return self.shapes[0][2:]

    def picture(self, sample: Tensor) -> Tensor:
        """The picture in a sample, [B, C, H, W] or [B, C, T, H, W]."""
        return comfy.utils.unpack_latents(sample, self.shapes)[0]

    def replace(self, sample: Tensor, picture: Tensor) -> Tensor:
        """The sample with another picture in it."""
        if len(self.shapes) == 1:
            return picture
        _, *others = comfy.utils.unpack_latents(sample, self.shapes)
        return comfy.utils.pack_latents([picture, *others])[0]


def picture_of(samples) -> Tensor:
    """The picture in the samples of a LATENT, which may hold several things."""
    return samples.unbind()[0] if getattr(samples, "is_nested", False) else samples
