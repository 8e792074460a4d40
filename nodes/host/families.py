"""The host's transformers: where their blocks are, and where the image lies among the tokens.

A transformer sees the latent as patches in raster order, beside other tokens: text, reference images, registers,
padding. One row of `TRANSFORMERS` says all that is needed of a family. A network that is not here is sampled without
guidance, because a guess would put the mask in the wrong place without anybody noticing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Call:
    """One call of the network.

    Args:
        network: the diffusion model.
        size: spatial size of the latent it is given, (H, W) or (T, H, W).
        inputs: its other inputs by name, as the host's model hands them over.
        options: transformer_options, as the running layer sees them.
    """

    network: nn.Module
    size: tuple[int, ...]
    inputs: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)


# How many tokens come before the image's, of `tokens` in all, `image` of which are the image's; less than none where
# they are not to be found.
Order = Callable[[Call, int, int], int]


def image_only(call: Call, tokens: int, image: int) -> int:
    """Nothing beside the image; more or fewer tokens are another node's doing."""
    return 0 if tokens == image else -1


def image_first(call: Call, tokens: int, image: int) -> int:
    """[image, text] or [image, references, text]; all there is to the self-attention of cross-attention models."""
    return 0


def image_last(call: Call, tokens: int, image: int) -> int:
    """[text, image] or [text, image, references]; the host counts the references' tokens."""
    return tokens - image - sum(call.options.get("reference_image_num_tokens", ()))


def image_last_padded(call: Call, tokens: int, image: int) -> int:
    """[text, references, image, padding]: the image is filled up to a multiple of so many tokens."""
    multiple = call.network.pad_tokens_multiple or 1
    return tokens - math.ceil(image / multiple) * multiple


def image_after_reference(call: Call, tokens: int, image: int) -> int:
    """[reference frames, image, poses]: the references are cut into the same patches."""
    reference = call.inputs.get("reference_latent")
    return 0 if reference is None else math.prod(token_grid(reference.shape[2:], call.network.patch_size))


def image_after_projected_reference(call: Call, tokens: int, image: int) -> int:
    """[reference, image, others]: only some models have a projection that makes tokens of a reference image."""
    reference = call.inputs.get("reference_latent")
    if reference is None or call.network.ref_conv is None:
        return 0
    # A convolution without padding: patches that hang over the edge are left out.
    return math.prod(side // patch for side, patch in
                     zip(reference.shape[-2:], call.network.patch_size[-2:], strict=True))


def image_before_patches(call: Call, tokens: int, image: int) -> int:
    """[text, image, reference patches]; keys may hold a cached text that the queries leave out."""
    references = call.inputs.get("ref_patches")
    return tokens - image - (0 if references is None else references.shape[1])


def row_beside_reference(call: Call, patch: int) -> int:
    """Tokens in a row where the latent has a reference image of its own height on its right (HiDream E1)."""
    reference = call.inputs.get("image_cond")
    return math.ceil((call.size[-1] + (0 if reference is None else reference.shape[-1])) / patch)


@dataclass(frozen=True)
class Transformer:
    """A family of transformers.

    Args:
        blocks: attributes that hold the blocks in which image tokens attend to each other, in the order they run.
        order: where the image's tokens are.
        patch: side of the square patch that becomes a token, or its sides along the last dimensions, as numbers or as
            the network's attributes that hold them.
        self_attention: path inside a block of the module that computes its self-attention, where the block attends to
            other things, too; empty where it does not.
        mute: whether that module keeps the host's options from the attention it calls.
        same_tokens: whether all tokens that are attended to ask as well; false where a model asks for a part alone.
        row: tokens in a row, where the image's are not all there is in it.
    """

    blocks: tuple[str, ...]
    order: Order
    patch: str | int | tuple[str, ...] = "patch_size"
    self_attention: str = ""
    mute: bool = False
    same_tokens: bool = True
    row: Callable[[Call, int], int] | None = None

    def grid(self, call: Call) -> tuple[int, ...]:
        """The grid of tokens of the image, (h, w) or (t, h, w)."""
        patch = self.patch
        if isinstance(patch, str):
            patch = getattr(call.network, patch)
        elif isinstance(patch, tuple):
            patch = [getattr(call.network, side) or 1 for side in patch]
        return token_grid(call.size, patch)

    def places(self, call: Call, grid: tuple[int, ...]) -> Tensor | None:
        """Returns the places of the image's tokens, counted from its first; None where they follow one another."""
        if self.row is None:
            return None
        row = self.row(call, getattr(call.network, self.patch))
        return None if row == grid[-1] else (torch.arange(grid[0])[:, None] * row + torch.arange(grid[1])).flatten()


def token_grid(size: Sequence[int], patch: int | Sequence[int]) -> tuple[int, ...]:
    """Patches along each dimension of a latent, the last of which may hang over the edge.

    Args:
        size: (H, W) or (T, H, W).
        patch: side of a square patch, or the sides along the last dimensions.
    """
    sides = [patch, patch] if isinstance(patch, int) else list(patch)
    sides = [1] * (len(size) - len(sides)) + sides[-len(size):]
    return tuple(math.ceil(pixels / side) for pixels, side in zip(size, sides, strict=True))


COSMOS_PATCH = ("patch_temporal", "patch_spatial", "patch_spatial")

# By the class of the network; subclasses are of the family of their base.
TRANSFORMERS = {
    "AsymmDiTJoint": Transformer(("blocks",), image_first),  # Mochi
    "BooguTransformer2DModel": Transformer(("double_stream_layers", "single_stream_layers"), image_last),
    "Chroma": Transformer(("double_blocks", "single_blocks"), image_last),  # and Radiance
    "CogVideoXTransformer3DModel": Transformer(("blocks",), image_last, ("patch_size_t", "patch_size", "patch_size")),
    "ErnieImageModel": Transformer(("layers",), image_first, 1, "self_attention", mute=True),
    "Flux": Transformer(("double_blocks", "single_blocks"), image_last),  # and Flux 2, LongCat
    "GeneralDIT": Transformer(("blocks",), image_first, COSMOS_PATCH, "blocks.0"),  # Cosmos 1
    "HiDreamImageTransformer2DModel": Transformer(
        ("double_stream_blocks", "single_stream_blocks"), image_first, row=row_beside_reference),
    "HiDreamO1Transformer": Transformer(("language_model.layers",), image_before_patches, same_tokens=False),
    "HunYuanDiT": Transformer(("blocks",), image_first, self_attention="attn1", mute=True),
    "HunyuanVideo": Transformer(("double_blocks", "single_blocks"), image_last),  # and HunyuanImage
    "Ideogram4Transformer2DModel": Transformer(("layers",), image_last, 1),
    "JoyImageTransformer3DModel": Transformer(("double_blocks",), image_first),
    "Kandinsky5": Transformer(("visual_transformer_blocks",), image_first, self_attention="self_attention"),
    # LTXV; LTXAV, whose video comes first
    "LTXBaseModel": Transformer(("transformer_blocks",), image_first, 1, "attn1", same_tokens=False),
    "LensTransformer2DModel": Transformer(("transformer_blocks",), image_first, 1),
    "MMDiT": Transformer(("double_layers", "single_layers"), image_last),  # AuraFlow
    "MageFlowTransformer2DModel": Transformer(("transformer_blocks",), image_last),
    "MiniMaxH3Model": Transformer(("blocks",), image_last),
    "MiniTrainDIT": Transformer(("blocks",), image_first, COSMOS_PATCH, "self_attn"),  # Cosmos Predict 2, Anima
    "NextDiT": Transformer(("layers",), image_last_padded),  # Lumina 2, Z-Image
    "OmniGen2Transformer2DModel": Transformer(("layers",), image_last),
    "OpenAISignatureMMDITWrapper": Transformer(("joint_blocks",), image_last),  # SD3, SD3.5
    "PixArtMS": Transformer(("blocks",), image_first, self_attention="attn", mute=True, same_tokens=False),
    "PixDiT_T2I": Transformer(("patch_blocks", "pixel_blocks"), image_last),  # PixelDiT, PiD
    "QwenImageTransformer2DModel": Transformer(("transformer_blocks",), image_last),
    "SCAILWanModel": Transformer(("blocks",), image_after_reference, self_attention="self_attn"),
    "SingleStreamDiT": Transformer(("blocks",), image_last, "patch"),  # Krea 2
    "WanModel": Transformer(("blocks",), image_after_projected_reference, self_attention="self_attn"),
}


def transformer_of(network: nn.Module) -> Transformer | None:
    """The family of a network, None where it is not a transformer this module knows."""
    for base in type(network).__mro__:
        if base.__name__ in TRANSFORMERS:
            return TRANSFORMERS[base.__name__]
    return None


def self_attention_of(block: nn.Module, family: Transformer | None) -> nn.Module:
    """Returns the module that computes a block's self-attention: inside it, or the block itself.

    Args:
        block: a layer of `layers.find_layers`.
        family: its network's, None for a U-Net's.
    """
    if family is None:
        return getattr(block, "attn1", block)
    return block.get_submodule(family.self_attention)
