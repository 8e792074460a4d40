"""OpenAI's pixel models as a MODEL of the host, with its casting, offloading and attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import comfy.conds
import comfy.latent_formats
import comfy.ldm.common_dit
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import node_helpers
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...sag_core.adm.authors_map import authors_split
from ...sag_core.adm.config import ADMConfig
from ...sag_core.adm.memory import peak_activations
from ...sag_core.adm.schedule import betas
from ...sag_core.adm.unet import ADMUNet
from .adm_step import ADM_STEP
from .pixels import UNCLAMPED

CLASS_LABEL = "class_label"
"""Key of a conditioning entry that holds a class; -1 is the model's null label."""
LOW_RES = "low_res_image"
"""Key of a conditioning entry that holds the image an upsampler enlarges, [B, 3, h, w] in [-1, 1]."""


def load_model(tensors: dict[str, Tensor], config: ADMConfig, authors_map: bool = False):
    """A MODEL of these weights, in the precision the host chooses for its device.

    With `authors_map` its attention is recorded as by the published code of SAG; what it draws is the same.

    Raises:
        ValueError: the model takes neither an image alone nor one beside a low-resolution image.
    """
    if config.in_channels != 3 and not config.upsampler:
        raise ValueError(f"the checkpoint takes {config.in_channels} channels; a model takes 3, or 6 if it is an "
                         "upsampler")
    load_device = comfy.model_management.get_torch_device()
    model_config = _HostConfig({"config": config})
    dtype = comfy.model_management.unet_dtype(
        device=load_device, model_params=comfy.utils.calculate_parameters(tensors),
        supported_dtypes=model_config.supported_inference_dtypes)
    model_config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(
        dtype, load_device, model_config.supported_inference_dtypes))
    offload_device = comfy.model_management.unet_offload_device()
    model = _HostModel(model_config)
    if authors_map:
        model.diffusion_model.recorded_as = partial(authors_split, new_attention_order=config.new_attention_order)
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=load_device, offload_device=offload_device)
    model.diffusion_model.load_state_dict(tensors, assign=patcher.is_dynamic())
    return patcher


def class_conditioning(label: int) -> list:
    """A CONDITIONING that holds a class label and no text."""
    return [[torch.zeros(1, 1, 1), {CLASS_LABEL: label}]]


def low_res_conditioning(conditioning: list, image: Tensor) -> list:
    """A CONDITIONING with the image an upsampler enlarges, [B, h, w, C] in [0, 1] as the host has it."""
    pixels = image[..., :3].movedim(-1, 1) * 2 - 1
    return node_helpers.conditioning_set_values(conditioning, {LOW_RES: pixels})


class _HostUNet(ADMUNet):
    """The U-Net behind the host's calling convention."""

    recorded_as: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """Queries and keys that maps are made of, from q, k and v; None for those the model attends with."""

    def __init__(self, config: ADMConfig, dtype=None, device=None, operations=None):
        super().__init__(config, operations, _attention, dtype, device)
        self.dtype = dtype

    def forward(self, x, timesteps, context=None, control=None, transformer_options=None, y=None, **kwargs):
        options = {} if transformer_options is None else transformer_options
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward, self,
            comfy.patcher_extension.get_all_wrappers(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options),
        ).execute(x, timesteps, context, control, options, y=y)

    def _forward(self, x, timesteps, context, control, transformer_options, y=None):
        height, width = x.shape[-2:]
        side = self.config.downsampling
        # Sizes the levels cannot halve are padded and cropped, as the host does for its own models.
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (side, side))
        out = super().forward(x, timesteps, y, transformer_options)[..., :height, :width]
        # The second half of the channels is the learned variance, which the host's samplers do not use.
        step = transformer_options.get(ADM_STEP)
        if step is not None and self.config.learn_sigma:
            step.see_variance(out[:, 3:], transformer_options.get("cond_or_uncond", [0]))
        return out[:, :3]


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options: dict) -> Tensor:
    return optimized_attention(q, k, v, heads, skip_reshape=True, transformer_options=transformer_options)


class _HostConfig(comfy.supported_models_base.BASE):
    latent_format = comfy.latent_formats.ChromaRadiance  # three channels, not scaled: pixels in [-1, 1]
    unet_config = {}
    unet_extra_config = {}
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]


class _HostModel(comfy.model_base.BaseModel):
    image_range = (-1.0, 1.0)
    """Range of clean predictions."""

    def __init__(self, model_config: _HostConfig):
        super().__init__(model_config, comfy.model_base.ModelType.EPS, unet_model=_HostUNet)
        self.adm_config: ADMConfig = model_config.unet_config["config"]
        self.model_sampling = _Sampling(self.adm_config)
        self.peak_activations = peak_activations(self.adm_config)

    def memory_required(self, input_shape, cond_shapes=None):
        """Bytes of a pass, which decide whether the host evaluates positive and negative at once."""
        rows, _, *sides = input_shape
        step = self.adm_config.downsampling
        area = math.prod(-(-side // step) * step for side in sides)
        return rows * area * self.peak_activations * comfy.model_management.dtype_size(self.get_dtype_inference())

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        """x0 clamped to the range of pixels, as OpenAI's samplers do; without it high noise levels burn the colours.

        Their samplers clamp what they make of x0 and keep the noise that the model predicts, and so does the pack's
        own; the host's samplers know no noise but the one that the (clamped) x0 implies. Self-attention guidance, which
        needs the model's own, asks for x0 as it is.
        """
        options = transformer_options or {}
        denoised = super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)
        return denoised if ADM_STEP in options or UNCLAMPED in options else denoised.clamp(*self.image_range)

    def extra_conds(self, **kwargs):
        return self._image(**kwargs) | self._label(**kwargs)

    def _image(self, **kwargs):
        if not self.adm_config.upsampler:
            return {}
        image = kwargs.get(LOW_RES)
        if image is None:
            raise ValueError("this model is an upsampler and was given no low-resolution image: positive and negative "
                             "both need one. Connect a Low-Resolution Image node")
        noise = kwargs["noise"]
        image = torch.nn.functional.interpolate(
            image.to(kwargs["device"], torch.float32).expand(-1, 3, -1, -1), noise.shape[2:], mode="bilinear")
        return {"c_concat": comfy.conds.CONDNoiseShape(image)}

    def _label(self, **kwargs):
        config = self.adm_config
        if not config.num_classes:
            return {}
        label = int(kwargs.get(CLASS_LABEL, -1))
        if label == -1:
            label = config.null_label
        if not 0 <= label < config.num_classes:
            without = "" if config.null_label >= 0 else " and none for 'no class': positive and negative both need one"
            raise ValueError(f"class label is {kwargs.get(CLASS_LABEL, -1)}; this model has labels 0 to "
                             f"{config.num_classes - 1}{without}. Connect a Class Label node")
        return {"y": comfy.conds.CONDRegular(torch.tensor([label], device=kwargs["device"]))}


class _Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """The noise levels of the model's own training process, of any length."""

    def __init__(self, config: ADMConfig):
        super().__init__()
        self._register_schedule(given_betas=betas(config))
        self.training_sigmas = self.sigmas
        """Noise levels of all timesteps, for samplers that follow the training process."""
        # The cosine schedule ends in levels of up to 20,000, where the host's schedulers would spend their steps. What
        # lies above the last level of the linear one is noise to any image. The table that finds a level's timestep is
        # left whole.
        self.register_buffer("sigmas", self.sigmas[self.sigmas <= 160])

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level at a part of the training process: below 1 - g / N lie the timesteps under g, and no other.

        It falls halfway between two timesteps, so that no rounding of a scheduler's takes a level to the other side.
        """
        if not 0.0 < percent < 1.0:
            return super().percent_to_sigma(percent)
        levels = self.training_sigmas
        place = min(max((1.0 - percent) * len(levels) - 0.5, 0.0), len(levels) - 1.0)
        low, high = levels[math.floor(place)].item(), levels[math.ceil(place)].item()
        return low * (high / low) ** (place % 1)
