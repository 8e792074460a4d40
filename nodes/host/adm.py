"""OpenAI's pixel models as a MODEL of the host, with its casting, offloading and attention."""

from __future__ import annotations

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
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...sag_core.adm.config import ADMConfig
from ...sag_core.adm.schedule import betas
from ...sag_core.adm.unet import ADMUNet

CLASS_LABEL = "class_label"
"""Key of a conditioning entry that holds a class; -1 is the model's null label."""


def load_model(tensors: dict[str, Tensor], config: ADMConfig):
    """A MODEL of these weights, in the precision the host chooses for its device.

    Raises:
        ValueError: the tensors do not fill the architecture.
    """
    if config.in_channels != 3:
        raise ValueError(f"the checkpoint takes {config.in_channels} channels: it is an upsampler, which needs a "
                         "low-resolution image. Use a model that takes 3")
    load_device = comfy.model_management.get_torch_device()
    model_config = _HostConfig({"config": config})
    # The host's unit is Stable Diffusion's U-Net, 320 channels wide.
    model_config.memory_usage_factor = config.model_channels / 320
    dtype = comfy.model_management.unet_dtype(
        device=load_device, model_params=comfy.utils.calculate_parameters(tensors),
        supported_dtypes=model_config.supported_inference_dtypes)
    model_config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(
        dtype, load_device, model_config.supported_inference_dtypes))
    offload_device = comfy.model_management.unet_offload_device()
    model = _HostModel(model_config)
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=load_device, offload_device=offload_device)
    try:
        result = model.diffusion_model.load_state_dict(tensors, strict=False, assign=patcher.is_dynamic())
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit its architecture: {error}") from error
    if result.missing_keys or result.unexpected_keys:
        raise ValueError("the checkpoint does not fit its architecture: "
                         f"{len(result.missing_keys)} tensors are missing and {len(result.unexpected_keys)} left over, "
                         f"such as {(result.missing_keys + result.unexpected_keys)[0]!r}")
    return patcher


def class_conditioning(label: int) -> list:
    """A CONDITIONING that holds a class label and no text."""
    return [[torch.zeros(1, 1, 1), {CLASS_LABEL: label}]]


class _HostUNet(ADMUNet):
    """The U-Net behind the host's calling convention."""

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
        out = super().forward(x, timesteps, y, transformer_options)
        # The second half of the channels is the learned variance, which the host's samplers do not use.
        return out[:, :3, :height, :width]


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, transformer_options: dict) -> Tensor:
    return optimized_attention(q, k, v, heads, skip_reshape=True, transformer_options=transformer_options)


class _HostConfig(comfy.supported_models_base.BASE):
    latent_format = comfy.latent_formats.ChromaRadiance  # three channels, not scaled: pixels in [-1, 1]
    unet_config = {}
    unet_extra_config = {}
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]


class _HostModel(comfy.model_base.BaseModel):
    def __init__(self, model_config: _HostConfig):
        super().__init__(model_config, comfy.model_base.ModelType.EPS, unet_model=_HostUNet)
        self.adm_config: ADMConfig = model_config.unet_config["config"]
        self.model_sampling = _Sampling(self.adm_config)

    def extra_conds(self, **kwargs):
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
    """The noise levels of the model's own training process, of any length, and clean predictions that are images."""

    def __init__(self, config: ADMConfig):
        super().__init__()
        self._register_schedule(given_betas=betas(config))
        # The cosine schedule ends in levels of up to 20,000, where the host's schedulers would spend their steps. What
        # lies above the last level of the linear one is noise to any image.
        self.set_sigmas(self.sigmas[self.sigmas <= 160])

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """x0 clamped to the range of pixels, as OpenAI's samplers do; without it high noise levels burn the colours.

        A deviation from the authors' code in small print: there the noise that re-noises the degraded x0 is the one
        predicted, here the one that the clamped x0 implies, as for everything the host's samplers do.
        """
        return super().calculate_denoised(sigma, model_output, model_input).clamp(-1, 1)

    def percent_to_sigma(self, percent: float) -> float:
        if 0.0 < percent < 1.0:
            return self.sigma(torch.tensor((1.0 - percent) * (len(self.sigmas) - 1))).item()
        return super().percent_to_sigma(percent)
