"""The published pixel models: what their tensors show, and what only the flags they were trained with can tell."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import ADMConfig

# What separates the layouts of the code bases, beside what each model says.
IMPROVED = {"num_heads": 4, "resblock_updown": False}
DDPM = {"num_heads": 1, "new_attention_order": True, "norm_eps": 1e-6, "embedding_shift": 1, "asymmetric_padding": True,
        "learn_sigma": False, "scale_shift_norm": False, "resblock_updown": False}

_SIZE_64, _SIZE_256 = (1, 2, 3, 4), (1, 1, 2, 2, 4, 4)
_ADM_64 = ADMConfig(192, _SIZE_64, 3, (2, 4, 8), num_classes=1000, new_attention_order=True, noise_schedule="cosine")
_ADM_128 = ADMConfig(256, (1, 1, 2, 3, 4), 2, (4, 8, 16), num_heads=4, num_classes=1000, image_size=128)
_ADM_256 = ADMConfig(256, _SIZE_256, 2, (8, 16, 32), num_classes=1000, image_size=256)
_ADM_512 = ADMConfig(256, (0.5, 1, 1, 2, 2, 4, 4), 2, (16, 32, 64), num_classes=1000, image_size=512)
_IDDPM_64 = ADMConfig(128, _SIZE_64, 3, (4, 8), **IMPROVED, noise_schedule="cosine", timesteps=4000,
                      timestep_scale=0.25)
_IDDPM_256 = ADMConfig(128, _SIZE_256, 2, (16,), **(IMPROVED | {"num_heads": 1}), scale_shift_norm=False,
                       image_size=256)

# guided-diffusion's and improved-diffusion's READMEs have the flags; DDPM is arXiv 2006.11239, appendix B, and its
# CelebA 64 that of DDIM, arXiv 2010.02502. Models that share every shape share a row.
PUBLISHED = {
    "ADM ImageNet 64x64": _ADM_64,
    "ADM ImageNet 128x128": _ADM_128,
    "ADM ImageNet 256x256": _ADM_256,
    "ADM ImageNet or LSUN 256x256": replace(_ADM_256, num_classes=0),
    "ADM ImageNet 512x512": _ADM_512,
    "ADM ImageNet 512x512 (finetuned)": replace(_ADM_512, num_classes=0),
    "ADM upsampler 64x64 to 256x256": ADMConfig(
        192, _SIZE_256, 2, (8, 16, 32), num_heads=4, in_channels=6, num_classes=1000, image_size=256),
    "ADM upsampler 128x128 to 512x512": ADMConfig(
        192, _SIZE_256, 2, (16, 32), in_channels=6, num_classes=1000, image_size=512),
    "IDDPM ImageNet 64x64": _IDDPM_64,
    "IDDPM ImageNet 64x64 (270M)": replace(_IDDPM_64, model_channels=192, num_classes=1000, timestep_scale=1.0),
    "IDDPM CIFAR-10 32x32": replace(_IDDPM_64, channel_mult=(1, 2, 2, 2), attention_downsamples=(2, 4), image_size=32),
    "IDDPM LSUN bedroom 256x256": _IDDPM_256,
    "IDDPM upsampler 64x64 to 256x256": ADMConfig(
        192, _SIZE_256, 2, (16, 32), **IMPROVED, in_channels=6, num_classes=1000, image_size=256, timesteps=4000),
    "DDPM CIFAR-10 32x32": ADMConfig(128, (1, 2, 2, 2), 2, (2,), **DDPM, image_size=32),
    "DDPM LSUN or CelebA-HQ 256x256": ADMConfig(128, _SIZE_256, 2, (16,), **DDPM, image_size=256),
    "DDIM CelebA 64x64": ADMConfig(128, (1, 2, 2, 2, 4), 2, (4,), **DDPM),
}
"""Configuration of each, by the name users are told."""

# From what tells a model apart to what makes it a relative, such as one trained further on other classes.
_LAYOUT = ("model_channels", "channel_mult", "in_channels", "resblock_updown", "asymmetric_padding")
_NETWORK = (*_LAYOUT, "num_res_blocks", "attention_downsamples", "scale_shift_norm")
_SHOWN = (*_NETWORK, "learn_sigma", "num_classes")


def complete(shown: ADMConfig) -> ADMConfig:
    """Fill in what tensors cannot tell (heads, size, noise process) from the published model that is most alike.

    Args:
        shown: what the tensors show, with the rest as an unknown model of that code base has it.
    """
    for fields in (_SHOWN, _NETWORK, _LAYOUT):
        for published in PUBLISHED.values():
            if _agree(shown, published, fields):
                return replace(published, **{field: getattr(shown, field) for field in _SHOWN})
    return shown


@dataclass(frozen=True)
class Overrides:
    """Settings that a user knows better than the tensors and the published models tell; None leaves a value.

    Args:
        noise_schedule, timesteps: of the training process.
        rescale_timesteps: the network is shown timesteps scaled to 0 to 1,000. Where only `timesteps` is given, models
            of improved-diffusion are, as in its scripts, and others are not.
        num_heads, head_channels: heads of the attention blocks, or channels of each; one of the two.
        new_attention_order: qkv channels are split into q, k, v first and heads second.

    Raises:
        ValueError: both ways to count heads are given.
    """

    noise_schedule: str | None = None
    timesteps: int | None = None
    rescale_timesteps: bool | None = None
    num_heads: int | None = None
    head_channels: int | None = None
    new_attention_order: bool | None = None

    def __post_init__(self) -> None:
        if self.num_heads is not None and self.head_channels is not None:
            raise ValueError(f"num_heads is {self.num_heads} and head_channels is {self.head_channels}; "
                             "give one of them")

    @property
    def heads(self) -> dict[str, int]:
        """Fields of the configuration that count heads; empty where they are left."""
        if self.num_heads is not None:
            return {"num_heads": self.num_heads}
        return {} if self.head_channels is None else {"num_heads": 0, "head_channels": self.head_channels}

    def apply(self, config: ADMConfig) -> ADMConfig:
        """The configuration with what is given here.

        Raises:
            ValueError: a value is out of its range; the message names it.
        """
        given = {name: getattr(self, name) for name in ("noise_schedule", "timesteps", "new_attention_order")}
        config = replace(config, **self.heads, **{name: value for name, value in given.items() if value is not None})
        rescaled = self.rescale_timesteps
        if rescaled is None and self.timesteps is not None:
            rescaled = not config.resblock_updown and not config.asymmetric_padding
        if rescaled is None:
            return config
        return replace(config, timestep_scale=1000 / config.timesteps if rescaled else 1.0)


def describe(config: ADMConfig, parameters: int) -> str:
    """One line that names a model: "ADM ImageNet 256x256, 1000 classes (553.8 M parameters), linear 1000 steps".

    Args:
        config: its configuration.
        parameters: how many numbers its tensors hold.
    """
    classes = f"{config.num_classes} classes" if config.num_classes else "unconditional"
    needs = ", needs a low-resolution image" if config.upsampler else ""
    return (f"{_name(config)}, {classes} ({parameters / 1e6:.1f} M parameters), {config.noise_schedule} "
            f"{config.timesteps} steps{needs}")


def _name(config: ADMConfig) -> str:
    for name, published in PUBLISHED.items():
        if _agree(config, published, _SHOWN):
            return name
    for name, published in PUBLISHED.items():
        if _agree(config, published, _NETWORK):
            return f"a model shaped like {name}"
    convolutional = "DDPM" if config.asymmetric_padding else "improved-diffusion"
    code = "guided-diffusion" if config.resblock_updown else convolutional
    return f"a model of {code} with {len(config.channel_mult)} levels of {config.width(0)} channels and up"


def _agree(a: ADMConfig, b: ADMConfig, fields: tuple[str, ...]) -> bool:
    return all(getattr(a, field) == getattr(b, field) for field in fields)
