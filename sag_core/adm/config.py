"""Configuration of an ADM / IDDPM checkpoint: one frozen record of its architecture and noise schedule."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

NOISE_SCHEDULES = ("linear", "cosine")

# Configurations come from files of anybody's, and what they ask for is built: far above any model, far below harm.
_RANGES = {
    "model_channels": (1, 4096), "num_res_blocks": (1, 16), "in_channels": (1, 64), "norm_groups": (1, 256),
    "image_size": (1, 8192), "timesteps": (1, 100_000), "num_classes": (0, 1_000_000), "null_label": (-1, 1_000_000),
    "num_heads": (0, 1024), "head_channels": (0, 4096), "embedding_shift": (0, 1),
}


@dataclass(frozen=True)
class ADMConfig:
    """Architecture of a guided-diffusion U-Net (arXiv 2105.05233, table 4) and the process it was trained on.

    Args:
        model_channels: width of the first level, in channels.
        channel_mult: width of each level as a multiple of `model_channels`, highest resolution first.
        num_res_blocks: residual blocks per level of the encoder (the decoder has one more).
        attention_downsamples: levels with self-attention, named by their downsampling factor (1, 2, 4, ...).
        num_heads: attention heads in every attention block; 0 means `head_channels` decides.
        head_channels: channels per attention head where `num_heads` is 0.
        in_channels: image channels, 3; 6 for the upsamplers, which concatenate a low-resolution image.
        learn_sigma: the output has a second half, which interpolates the log-variance.
        num_classes: rows of the label embedding, 0 for an unconditional model.
        null_label: the label that means "no class", -1 for a model that has none.
        scale_shift_norm: the timestep scales and shifts the second norm instead of being added.
        resblock_updown: resampling is done by residual blocks instead of a convolution.
        new_attention_order: qkv channels are split into q, k, v first and heads second.
        norm_groups: groups of every normalisation, 32 in all published models. Narrow models need fewer: a group of one
            channel loses that channel's mean, and with it the image's mean colour.
        norm_eps: added to the variance in every normalisation; 1e-6 in DDPM.
        embedding_shift: the lowest frequency of the timestep embedding is 10000^-1 with 1 (DDPM), one step of the
            geometric series short of it with 0.
        asymmetric_padding: convolutions that halve the resolution are padded at the bottom and the right alone, as in
            TensorFlow and so in DDPM; otherwise on all sides.
        image_size: side of the training images, in pixels; the model itself accepts other sizes.
        noise_schedule: "linear" (DDPM, arXiv 2006.11239) or "cosine" (IDDPM, arXiv 2102.09672).
        timesteps: length of the training diffusion process.
        timestep_scale: factor of the timestep the network is shown; IDDPM trained 4,000 steps with 1000 / 4000.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    model_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention_downsamples: tuple[int, ...]
    num_heads: int = 0
    head_channels: int = 64
    in_channels: int = 3
    learn_sigma: bool = True
    num_classes: int = 0
    null_label: int = -1
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    new_attention_order: bool = False
    norm_groups: int = 32
    norm_eps: float = 1e-5
    embedding_shift: int = 0
    asymmetric_padding: bool = False
    image_size: int = 64
    noise_schedule: str = "linear"
    timesteps: int = 1000
    timestep_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be a whole number from {low} to {high}")
        if not 1 <= len(self.channel_mult) <= 8 or not all(0 < multiple <= 64 for multiple in self.channel_mult):
            raise ValueError(f"channel_mult is {self.channel_mult}; it must be 1 to 8 positive numbers up to 64")
        if not 0 < self.timestep_scale <= 1000:
            raise ValueError(f"timestep_scale is {self.timestep_scale}; it must be a positive number up to 1000")
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps is {self.norm_eps}; it must be a number between 0 and 1")
        if self.embedding_shift and self.model_channels < 4:
            raise ValueError(f"model_channels is {self.model_channels}; with an embedding_shift it must be at least 4")
        if self.noise_schedule not in NOISE_SCHEDULES:
            raise ValueError(f"noise_schedule is {self.noise_schedule!r}; known ones are {', '.join(NOISE_SCHEDULES)}")
        if not -1 <= self.null_label < self.num_classes:
            raise ValueError(f"null_label is {self.null_label}; this model has {self.num_classes} labels")
        if (self.num_heads or self.head_channels) < 1:
            raise ValueError(f"num_heads is {self.num_heads} and head_channels is {self.head_channels}; "
                             "the one that decides must be at least 1")
        for width in map(self.width, range(len(self.channel_mult))):
            if width % self.norm_groups:
                raise ValueError(f"a level of {width} channels cannot be split into {self.norm_groups} norm_groups")
            if width % (self.num_heads or self.head_channels):
                raise ValueError(f"a level of {width} channels cannot be split into attention heads: "
                                 f"num_heads {self.num_heads}, head_channels {self.head_channels}; it was trained with "
                                 "others, which are to be given")

    @property
    def out_channels(self) -> int:
        """Channels the network predicts: the noise, and its log-variance where that is learned."""
        return 6 if self.learn_sigma else 3

    @property
    def upsampler(self) -> bool:
        """Returns whether the model is shown a low-resolution image of what it draws, after the noisy one."""
        return self.in_channels == 6

    @property
    def downsampling(self) -> int:
        """Factor between the image and the deepest level; image sides must be multiples of it."""
        return 2 ** (len(self.channel_mult) - 1)

    def width(self, level: int) -> int:
        """Channels of a level."""
        return int(self.channel_mult[level] * self.model_channels)

    def heads(self, channels: int) -> int:
        """Attention heads of a block with this many channels."""
        return self.num_heads or channels // self.head_channels

    def to_json(self) -> str:
        """The configuration as JSON, for a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ADMConfig:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is not such a configuration.
        """
        try:
            fields = json.loads(text)
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not an ADM configuration: {error}") from error
