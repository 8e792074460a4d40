"""Sample sets on disk: drawn in batches, resumed where they stopped, shared by processes and machines.

A set is described by whatever decides what is in it, and a batch is a function of the description and its index (its
seed). So nothing has to be remembered but the files: a batch that is there, whole and of this description is kept, any
other is drawn. A batch appears at once or not at all, whoever is stopped when.

    store = SampleStore(folder, {"sampler": "ddim", "steps": 20, "model": digest})
    fill(store, range(100), draw=lambda index: {"images": sample(seed=index)})
    images = store.images(range(100))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.files import write_whole
from benchmarks.shards import barrier, shard

DESCRIPTION = "description.json"


class SampleStore:
    """Batches of images and whatever was kept with them, in a folder.

    Args:
        folder: made where it is missing.
        description: what decides the samples (settings, sampler, digest of the model ...), of plain JSON types.

    Raises:
        ValueError: the description is not JSON, or the folder holds samples of another; the message says what differs.
    """

    def __init__(self, folder: Path, description: dict):
        self.folder, self.description = Path(folder), _as_json(description)
        self._key = json.dumps(self.description, sort_keys=True)
        self._seen: dict[int, tuple[int, int, str]] = {}
        path = self.folder / DESCRIPTION
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(self.description, indent=1) + "\n").encode())
        # Read back even so: another process may have been quicker.
        if (found := _description(path)) != self.description:
            raise ValueError(f"{self.folder} holds samples of other settings: {_difference(found, self.description)}. "
                             "Choose another folder, or remove this one to draw it anew")

    @classmethod
    def open(cls, folder: Path) -> SampleStore:
        """The store that a folder holds.

        Raises:
            FileNotFoundError: there is none.
        """
        if not (path := Path(folder) / DESCRIPTION).is_file():
            raise FileNotFoundError(f"{folder} is no sample store: it has no {DESCRIPTION}")
        return cls(folder, _description(path))

    def missing(self, batches: Iterable[int]) -> list[int]:
        """Those of `batches` that are to be drawn: not there, cut off, altered, or of another description."""
        return [index for index in batches if self.digest(index) is None]

    def present(self) -> list[int]:
        """Every batch that is there and whole, in order."""
        names = (path.stem.removeprefix("batch-") for path in self.folder.glob("batch-*.safetensors"))
        found = sorted(int(name) for name in names if name.isdecimal())
        return [index for index in found if self.digest(index) is not None]

    def put(self, index: int, **tensors: Tensor) -> None:
        """Keep a batch; it replaces one of the same index.

        Args:
            index: from 0.
            tensors: by name, of any shape and type; `images` is uint8 [B, 3, H, W] or [B, H, W, 3], kept as the former.

        Raises:
            ValueError: there is nothing to keep, the index is negative, or `images` are not such.
        """
        if index < 0 or not tensors:
            raise ValueError(f"batch {index} holds {sorted(tensors)}; indices start at 0, and a batch holds something")
        tensors = {name: _channels_first(tensor) if name == "images" else tensor for name, tensor in tensors.items()}
        # Copies, because safetensors refuses tensors that share memory.
        tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                   for name, tensor in tensors.items()}
        # The digest alone: the order of several entries in a header is not fixed, and equal batches are equal files.
        write_whole(self._path(index), save(tensors, {"digest": self._digest(index, tensors)}))

    def get(self, index: int) -> dict[str, Tensor]:
        """A batch as it was put.

        Raises:
            FileNotFoundError: it is missing, which a damaged one is as well.
        """
        tensors, _ = self._read(index)
        if tensors is None:
            raise FileNotFoundError(f"batch {index} of {self.folder} is missing or damaged; draw what `missing` names")
        return tensors

    def chunks(self, batches: Iterable[int]) -> Iterator[dict[str, Tensor]]:
        """Batch after batch, with one in memory at a time."""
        return (self.get(index) for index in batches)

    def stack(self, name: str, batches: Iterable[int]) -> Tensor:
        """A tensor of every batch, joined along its first dimension; single numbers become a row each.

        Raises:
            FileNotFoundError: a batch is missing.
            KeyError: a batch has no such tensor.
        """
        # All names of a batch are read, since its digest is of them all; only the one asked for is kept.
        return torch.cat([torch.atleast_1d(batch[name]) for batch in self.chunks(batches)])

    def images(self, batches: Iterable[int]) -> Tensor:
        """The images of these batches, uint8 [N, 3, H, W]."""
        return self.stack("images", batches)

    def digest(self, index: int) -> str | None:
        """What identifies a batch by its content, None where it is missing; each file is read once."""
        try:
            stat = self._path(index).stat()
        except FileNotFoundError:
            return None
        seen = self._seen.get(index)
        if seen is None or seen[:2] != (stat.st_mtime_ns, stat.st_size):
            tensors, digest = self._read(index)
            if tensors is None:
                return None
            seen = self._seen[index] = (stat.st_mtime_ns, stat.st_size, digest)
        return seen[2]

    def _path(self, index: int) -> Path:
        return self.folder / f"batch-{index:06d}.safetensors"

    def _read(self, index: int) -> tuple[dict[str, Tensor] | None, str]:
        try:
            with safe_open(self._path(index), "pt") as file:
                digest = (file.metadata() or {}).get("digest", "")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (FileNotFoundError, SafetensorError):
            return None, ""
        return (tensors, digest) if digest == self._digest(index, tensors) else (None, "")

    def _digest(self, index: int, tensors: dict[str, Tensor]) -> str:
        return hashlib.blake2b(save(tensors) + f"{index} {self._key}".encode(), digest_size=16).hexdigest()


def fill(store: SampleStore, batches: Iterable[int], draw: Callable[[int], dict[str, Tensor]],
         say: Callable[[str], None] = lambda text: None) -> None:
    """Draw what is missing of `batches`, this process's part of it, and wait for the other processes.

    Args:
        store: where the batches are kept.
        batches: all that are wanted, by every process.
        draw: tensors of a batch by its index, from which alone they follow.
        say: told of every batch drawn.
    """
    own = store.missing(shard(batches))
    for done, index in enumerate(own, 1):
        store.put(index, **draw(index))
        say(f"{store.folder.name}: batch {index}, {done} of {len(own)} that were missing")
    barrier()


def _as_json(description: dict) -> dict:
    try:
        return json.loads(json.dumps(description, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a description is of plain JSON types, so that it can be compared: {error}") from error


def _description(path: Path) -> dict:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); remove the folder to draw its samples anew") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} describes no sample set; remove the folder to draw its samples anew")
    return found


def _difference(found: dict, wanted: dict) -> str:
    nothing = object()

    def shown(value) -> str:
        return "absent" if value is nothing else json.dumps(value)

    names = [name for name in sorted({*found, *wanted}) if found.get(name, nothing) != wanted.get(name, nothing)]
    return "; ".join(f"{name} is {shown(found.get(name, nothing))} there, {shown(wanted.get(name, nothing))} here"
                     for name in names)


def _channels_first(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8 and images.ndim == 4:
        if images.shape[1] == 3:
            return images
        if images.shape[3] == 3:
            return images.movedim(3, 1)
    raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; "
                     "they must be uint8 [B, 3, H, W] or [B, H, W, 3]")
