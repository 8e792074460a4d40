"""Inception-v3 as published FIDs use it, with weights that the user has."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from benchmarks.networks import Features, name_of

WEIGHTS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SIDE, CLASSES = 299, 1008
# Of the 1 x 1 branch of Mixed_6d, 17 x 17: 2023 numbers, about as many as are pooled (arXiv 2103.03841).
SPATIAL = 7


class _Pooling:
    """A block whose pooling branch is that of the network of 2015, where torchvision's counts the padding."""

    pool = staticmethod(lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(self.pool(x))]


class _A(_Pooling, InceptionA):
    pass


class _C(_Pooling, InceptionC):
    pass


class _E(_Pooling, InceptionE):
    pass


def inception() -> Inception3:
    """The network of 2015 without its weights."""
    net = Inception3(CLASSES, aux_logits=False, transform_input=False, init_weights=False,
                     inception_blocks=[BasicConv2d, _A, InceptionB, _C, InceptionD, _E, InceptionAux])
    net.Mixed_7c.pool = lambda x: F.max_pool2d(x, 3, stride=1, padding=1)
    net.fc, net.classes = nn.Identity(), nn.Linear(2048, CLASSES)
    return net.eval().requires_grad_(False)


class InceptionFeatures:
    """What Inception-v3 sees in uint8 images [B, 3, H, W] (networks.FeatureNet).

    Args:
        weights: a file of torch-fidelity's or pytorch-fid's weights; nothing is downloaded.
        device: where it computes.

    Raises:
        FileNotFoundError: there is no such file; the message says where to get it.
        ValueError: it holds other weights.
    """

    def __init__(self, weights: Path, device: str | torch.device = "cpu"):
        if not Path(weights).is_file():
            raise FileNotFoundError(f"{weights} is not there. Download Inception-v3's weights (92 MB) from {WEIGHTS} "
                                    "and name the file, or leave it out to compare by the classifier of scenes")
        self.net, self.device = inception(), device
        try:
            tensors = torch.load(weights, map_location="cpu", weights_only=True)
            named = {name.replace("fc.", "classes."): tensor for name, tensor in tensors.items()}
            self.net.load_state_dict(named)
        except (pickle.UnpicklingError, AttributeError, EOFError, OSError, RuntimeError, TypeError) as error:
            raise ValueError(f"{weights} holds no weights of Inception-v3 as {WEIGHTS} does: {error}") from error
        self.name = name_of("inception", self.net)
        self.net.to(device)

    def __call__(self, images: Tensor) -> Features:
        spatial = []
        hook = self.net.Mixed_6d.branch1x1.register_forward_hook(
            lambda module, inputs, output: spatial.append(output[:, :SPATIAL].flatten(1)))
        try:
            pooled = self.net(as_input(images.to(self.device)))
        finally:
            hook.remove()
        # The bias is left out, as in the code that published Inception Scores go back to.
        probabilities = (pooled @ self.net.classes.weight.T).softmax(1)
        return Features(pooled.cpu(), spatial[0].cpu(), probabilities.cpu())


def as_input(images: Tensor) -> Tensor:
    """uint8 images -> [B, 3, 299, 299] in [-1, 1), enlarged as TensorFlow 1 did it: corners, not centres, coincide."""
    down, across = (_enlargement(size).to(images.device) for size in images.shape[2:])
    return (torch.einsum("ih,bchw,jw->bcij", down, images.float(), across) - 128) / 128


def _enlargement(size: int) -> Tensor:
    """The matrix [299, size] of a bilinear resize."""
    at = torch.arange(SIDE) * (size / SIDE)
    low = at.floor().long().clamp(max=size - 1)
    share = (at - low)[:, None]
    return torch.lerp(F.one_hot(low, size).float(), F.one_hot((low + 1).clamp(max=size - 1), size).float(), share)
