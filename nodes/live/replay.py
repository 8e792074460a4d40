"""A recording shown in the viewer of the live view, after its run."""

from __future__ import annotations

from torch import Tensor

from ...sag_core.trace import Recording
from .film import KEPT, VERSION, Audience
from .frames import develop, shrink, take, thin


def replay(audience: Audience | None, recording: Recording, image: Tensor | None) -> None:
    """Show the steps of a recording over its first image [B, H, W, 3], or over nothing; without an audience, nothing.

    A video's middle frame is shown.
    """
    if audience is None or not recording.steps:
        return
    every = -(-len(recording.steps) // KEPT)
    frames = [_frame(recording, step, audience.side) for step in range(0, len(recording.steps), every)]
    maps = recording.steps[0].attn_map
    guided = sum(step.guided for step in recording.steps)
    about = {"purpose": "guide" if guided else "record", "layer": recording.steps[0].layer,
             "total": len(recording.steps), "batch": len(maps),
             "video": maps.shape[1] if maps.ndim == 4 and maps.shape[1] > 1 else 0, "size": list(recording.size[-2:]),
             "image": None if image is None else _image(image, len(maps), audience.side), "notes": recording.notes}
    end = {"state": "finished", "steps": len(recording.steps), "guided": guided,
           "skipped": len(recording.steps) - guided, "why": {}, "notes": recording.notes, "dropped": 0}
    name = audience.keep({"version": VERSION, **about, "frames": frames, "end": end})
    audience.send("kept", {"file": name})


def _frame(recording: Recording, index: int, side: int) -> dict:
    step, mask = recording.steps[index], None
    if recording.plain:
        mask = _middle(step.attn_map) > recording.threshold
    elif step.mask is not None:
        mask = _middle(step.mask)
    facts = {"step": index, "guided": step.guided, "why": "", "sigma": step.sigma, "branch": step.branch}
    mask = None if mask is None else thin(mask, side)
    return facts | develop(take(None, _middle(step.attn_map), mask, recording.size[-2:]))


def _middle(maps: Tensor) -> Tensor:
    """The first sample's map [h, w], of a video its middle frame's."""
    return maps[0, maps.shape[1] // 2] if maps.ndim == 4 else maps[0]


def _image(images: Tensor, batch: int, side: int) -> str:
    """The image that belongs to `_middle`; of a video's, the middle one."""
    length = max(1, len(images) // batch)
    image = images[length // 2, ..., :3][None].movedim(-1, 1)
    return develop(take(shrink(image, side)[0].movedim(0, -1).clamp(0, 1), None, None, (1, 1)))["image"]
