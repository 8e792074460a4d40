"""Configuration of a noisy classifier: one frozen record of its architecture and the process it was trained on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from .config import ADMConfig

POOLS = ("attention", "adaptive", "spatial", "spatial_v2")


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier of noisy images (arXiv 2105.05233, sec. 4): the encoder of an ADM, pooled.

    Args:
        encoder: its architecture and the diffusion process it was trained on; what concerns a decoder or labels as
            input is not used.
        num_classes: classes it tells apart.
        pool: "attention" (a query of the mean over places, learned positions: one image size only), "adaptive" (the
            mean over places), "spatial" or "spatial_v2" (the means of every block's features, and two layers more).

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    encoder: ADMConfig
    num_classes: int = 1000
    pool: str = "attention"

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, int) or not 1 <= self.num_classes <= 1_000_000:
            raise ValueError(f"num_classes is {self.num_classes}; it must be a whole number from 1 to 1000000")
        if self.pool not in POOLS:
            raise ValueError(f"pool is {self.pool!r}; known ones are {', '.join(POOLS)}")
        if self.encoder.image_size % self.encoder.downsampling:
            raise ValueError(f"image_size is {self.encoder.image_size}; {len(self.encoder.channel_mult)} levels need a "
                             f"multiple of {self.encoder.downsampling}")

    @property
    def grid(self) -> int:
        """Side of the deepest feature map for images of the training size."""
        return self.encoder.image_size // self.encoder.downsampling

    def check_size(self, height: int, width: int) -> None:
        """Refuse images it cannot name.

        Raises:
            ValueError: the size does not fit the learned positions, or the levels cannot halve it.
        """
        side, step = self.encoder.image_size, self.encoder.downsampling
        if self.pool == "attention" and (height, width) != (side, side):
            raise ValueError(f"the images are {width}x{height}; this classifier knows only {side}x{side}. Sample at "
                             "that size, or load the classifier of yours")
        if height % step or width % step:
            raise ValueError(f"the images are {width}x{height}; this classifier needs sides that are multiples of "
                             f"{step}")

    def to_json(self) -> str:
        """The configuration as JSON, for a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ClassifierConfig:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is not such a configuration.
        """
        try:
            fields = json.loads(text)
            return cls(**fields | {"encoder": ADMConfig.from_json(json.dumps(fields["encoder"]))})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a classifier's configuration: {error}") from error
