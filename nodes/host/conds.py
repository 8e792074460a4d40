"""The host's conds: which branch is guided, where each cond acts, and how their maps become the branch's."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping

import comfy.conds
import comfy.samplers
import torch
from torch import Tensor

from ...sag_core.masks import fuse, place


def guided_branch(conds: list, known: Mapping[str, list], sigma: Tensor) -> tuple[int, str] | None:
    """The guided branch: uncond where the graph evaluates one at this noise level, else cond.

    Args:
        conds: the lists of conds of a pass, None where a branch is not evaluated.
        known: the guider's lists by name.
        sigma: noise level [B].

    Returns:
        Its place among `conds` and "uncond" or "cond"; None where nothing is evaluated.
    """
    negative = [(i, "uncond") for i, cond in enumerate(conds) if _is_same(cond, known.get("negative"))]
    positive = [(i, "cond") for i, cond in enumerate(conds) if _is_same(cond, known.get("positive"))] or [(0, "cond")]
    # Conds that another node has made are known by their place, where the guider keeps the host's order.
    if not negative and positive[0][0] == 0:
        negative = [(1, "uncond")]
    for index, name in negative + positive:
        if index < len(conds) and any(is_active(cond, sigma) for cond in conds[index] or ()):
            return index, name
    return None


def _is_same(conds: list | None, known: list | None) -> bool:
    """Returns whether a list is the guider's own, or what context windows have cut from it."""
    if not conds or not known:
        return False
    return conds is known or [cond.get("uuid") for cond in conds] == [cond.get("uuid") for cond in known]


def is_active(cond: dict, sigma: Tensor) -> bool:
    """Returns whether the host evaluates a cond at this noise level."""
    level = sigma[0]
    return not ("timestep_start" in cond and level > cond["timestep_start"]
                or "timestep_end" in cond and level < cond["timestep_end"])


def sizes(conds: list, x: Tensor) -> set[tuple[int, ...]]:
    """Spatial sizes the model may be run at for these conds: the whole sample's, and those of their areas."""
    whole = tuple(x.shape[2:])
    found = {whole}
    for cond in conds:
        if "area" in cond:
            area = comfy.samplers.add_area_dims(list(cond["area"]), len(whole))
            half = len(area) // 2
            offsets = area[half:half + len(whole)]
            found.add(tuple(min(side, size - start) for side, size, start in
                            zip(area[:len(whole)], whole, offsets, strict=True)))
    return found


def own_copies(conds: list[dict]) -> list[dict]:
    """Returns conds to evaluate later, whatever other nodes do to the tensors of these in the meantime."""
    return [cond | {key: _own_copy(cond[key]) for key in ("model_conds", "area", "mask") if key in cond}
            for cond in conds]


def _own_copy(value: object) -> object:
    if isinstance(value, Tensor):
        return value.clone()
    # Of others' own types nothing is known.
    if type(value) is dict:
        return {key: _own_copy(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_own_copy, value))
    if isinstance(value, comfy.conds.CONDRegular):
        value = copy.copy(value)
        value.cond = _own_copy(value.cond)
    return value


class Twins:
    """Ids for conds that need one of their own; the same each step, so that caching nodes can follow them."""

    def __init__(self) -> None:
        self._ids: dict[tuple, uuid.UUID] = {}

    def of(self, own: uuid.UUID, role: object) -> uuid.UUID:
        """The id of a cond in another role."""
        return self._ids.setdefault((own, role), uuid.uuid4())

    def tell_apart(self, conds: list | None) -> list | None:
        """Conds that share an id, as the twins the host makes of area conds do, each with one of its own."""
        ids = [cond["uuid"] for cond in conds or ()]
        if len(set(ids)) == len(ids):
            return conds
        return [cond if own not in ids[:i] else cond | {"uuid": self.of(own, ids[:i].count(own))}
                for i, (cond, own) in enumerate(zip(conds, ids, strict=True))]


def combine(maps_by_cond: Mapping[object, Mapping[str, Tensor]], conds: list, x: Tensor,
            sigma: Tensor) -> Tensor | None:
    """The branch's map from the maps of its conds, weighted as the host weights their predictions.

    Args:
        maps_by_cond: by cond, then by layer, the map [B, h, w].
        conds: the branch's conds.
        x: noisy sample [B, C, H, W].
        sigma: noise level [B].

    Returns:
        [B, h, w] on the layer's grid for a single cond over the whole sample, [B, H, W] where areas and masks are put
        together; None where a cond gave no map.
    """
    # A default cond is not run where the others leave it nothing to cover.
    conds = [cond for cond in conds if is_active(cond, sigma)
             and ("default" not in cond or cond["uuid"] in maps_by_cond)]
    maps = [maps_by_cond.get(cond["uuid"]) for cond in conds]
    if not all(maps):
        return None
    maps = [fuse(list(by_layer.values())).to(x.device) for by_layer in maps]
    if len(conds) == 1 and "area" not in conds[0]:
        return maps[0]
    if x.ndim == 3:
        return fuse(maps)  # a video packed with its sound, which has no areas
    total = torch.zeros_like(x[:, :1], dtype=torch.float32)
    weights = torch.zeros_like(total)
    for default in (False, True):
        # Every default cond takes what the others leave.
        left = (1 - weights).clamp(min=0)
        for cond, attn_map in zip(conds, maps, strict=True):
            if ("default" in cond) is not default:
                continue
            part = comfy.samplers.get_area_and_mult(cond, x, sigma)
            weight = left if default else part.mult[:, :1].float().clamp(min=0)
            window = _window(part.area, x.ndim - 2)
            total[window] += place(attn_map, part.input_x.shape[2:]) * weight
            weights[window] += weight
    # Where no cond acts the map is 0; weights are 0 or more, so the mean stays within the maps.
    return (total / weights.clamp(min=torch.finfo(torch.float32).tiny))[:, 0]


def _window(area: list[int] | None, dims: int) -> tuple:
    """The host's area (sizes, then offsets) as an index into [B, C, ...]."""
    if area is None:
        return (...,)
    return (..., *(slice(start, start + size) for size, start in zip(area[:dims], area[dims:], strict=True)))
