"""What a network sees in images, and the features of whole sets, kept beside their images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.shards import barrier, shard
from benchmarks.store import SampleStore

CHUNK = 64


@dataclass(frozen=True, eq=False)
class Features:
    """Of images or of a set of them, float32.

    Args:
        pooled: [N, D], without places (FID, KID, precision and recall).
        spatial: [N, S], with places (sFID).
        probabilities: [N, K], of classes, rows of sum 1 (Inception Score).
    """

    pooled: Tensor
    spatial: Tensor
    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.pooled)

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def join(cls, parts: Iterable[Features]) -> Features:
        parts = list(parts)
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class FeatureNet(Protocol):
    """A network that images are compared in.

    Attributes:
        name: fit for a folder; another network, or other weights, have another name.
    """

    name: str

    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images [B, 3, H, W], all three in one pass."""


def name_of(kind: str, net: nn.Module) -> str:
    """A name for a network by its weights."""
    return f"{kind}-{hashlib.blake2b(save(net.state_dict()), digest_size=4).hexdigest()}"


def features_of(images: Tensor, net: FeatureNet) -> Features:
    """Features of any number of uint8 images [N, 3, H, W], a chunk at a time."""
    with torch.inference_mode():
        return Features.join(net(chunk) for chunk in images.split(CHUNK))


def features_of_store(store: SampleStore, batches: Iterable[int], net: FeatureNet,
                      say: Callable[[str], None] = lambda text: None) -> Features:
    """Features of these batches, in their order.

    They are kept below the store, in a folder of the network's name, each with the digest of the batch it was taken of:
    what was drawn again is looked at again. Under torchrun each process computes its part, and all of them return all.

    Raises:
        FileNotFoundError: a batch is missing.
    """
    batches = list(batches)
    kept = SampleStore(store.folder / "features" / net.name, {"network": net.name, "of": store.description})
    own = shard(batches)
    for index in own:
        if _source(kept, index) != (digest := _digest(store, index)):
            say(f"{net.name}: batch {index} of {store.folder.name}")
            kept.put(index, **features_of(store.get(index)["images"], net).tensors(), source=_bytes(digest))
    barrier()
    found = [kept.get(index) for index in batches]
    return Features.join(Features(*(batch[field.name] for field in fields(Features))) for batch in found)


def features_of_folder(folder: Path, net: FeatureNet) -> Features:
    """Features of the pictures in a folder, by name; nothing is written.

    Raises:
        ValueError: there are none.
    """
    from PIL import Image

    endings = Image.registered_extensions()
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    if not paths:
        raise ValueError(f"{folder} holds no pictures and is no sample store")
    return Features.join(features_of(_picture(path), net) for path in paths)


def _picture(path: Path) -> Tensor:
    from PIL import Image

    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(
            1, picture.height, picture.width, 3).movedim(3, 1)


def _digest(store: SampleStore, index: int) -> str:
    digest = store.digest(index)
    if digest is None:
        raise FileNotFoundError(f"batch {index} of {store.folder} is missing or damaged; draw what `missing` names")
    return digest


def _source(kept: SampleStore, index: int) -> str | None:
    return None if kept.digest(index) is None else bytes(kept.get(index)["source"].tolist()).hex()


def _bytes(digest: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
