"""A classifier of noisy images with the host's memory management."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor

from ...sag_core.adm.classifier import ADMClassifier
from ...sag_core.adm.classifier_config import ClassifierConfig
from ...sag_core.classifier_guidance import NoiseLevels, classifier_gradient

_DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier that the host loads to its device and puts away again.

    Args:
        config: its architecture and diffusion process.
        patcher: what the host manages.
        dtype: that it computes in.
    """

    config: ClassifierConfig
    patcher: comfy.model_patcher.ModelPatcher
    dtype: torch.dtype

    def gradient(self, x: Tensor, sigma: Tensor, labels: Tensor, scale: float) -> Tensor:
        """scale * grad log p(labels | x) by the variance-preserving x [B, C, H, W], at noise levels [B]."""
        device = self.patcher.load_device
        timesteps = self._levels.timestep(sigma)
        slope = classifier_gradient(self._classify, x.to(device), timesteps.to(device), labels.to(device), scale)
        return slope.to(x.device)

    @cached_property
    def _levels(self) -> NoiseLevels:
        return NoiseLevels(self.config.encoder)

    def _classify(self, x: Tensor, timesteps: Tensor) -> Tensor:
        network = self.patcher.model
        # Weights that the host has moved in inference mode have no part in a gradient; copies of them have.
        moved = {name: weight.clone() for name, weight in network.named_parameters() if weight.is_inference()}
        return torch.func.functional_call(network, moved, (x.to(self.dtype), timesteps))


def load_classifier_model(tensors: Mapping[str, Tensor], config: ClassifierConfig) -> Classifier:
    """A classifier of these weights, in the precision the host chooses for its device.

    Raises:
        ValueError: the tensors do not fill the architecture.
    """
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(
        device=device, model_params=comfy.utils.calculate_parameters(tensors), supported_dtypes=_DTYPES)
    cast = comfy.model_management.unet_manual_cast(dtype, device, _DTYPES)
    operations = comfy.ops.disable_weight_init if cast is None else comfy.ops.manual_cast
    with torch.inference_mode(False), torch.no_grad():
        network = ADMClassifier(config, operations, dtype, comfy.model_management.unet_offload_device()).eval()
        network.requires_grad_(False)
        network.load_state_dict(tensors)
    patcher = comfy.model_patcher.ModelPatcher(
        network, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    return Classifier(config, patcher, cast or dtype)
