"""Live view of a run, taken while it samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from comfy.latent_formats import LatentFormat
from torch import Tensor

from ...sag_core.guidance import Reason
from ...sag_core.trace import Recording, Step
from ..live.film import Film
from ..live.frames import shrink, take, thin
from .evaluation import MainPass
from .reasons import Missed
from .request import Request
from .sample import Layout
from .vision import to_rgb

WORDS = {
    Reason.SCALE: "scale is 0", Reason.OUTSIDE: "outside the interval", Reason.LEFT_OUT: "left out by the schedule",
    Reason.FACTOR: "the schedule's factor is 0", Reason.NO_BLUR: "blur_sigma is 0",
    Reason.STOPPED: "ended by stop_below", Reason.ATTENTION: "attention not finite",
    Reason.PREDICTION: "prediction not finite", Reason.NO_MASK: "nothing to blur",
    Reason.SKIPPED: "changes less than skip_below", Reason.OVERFLOW: "the extra pass failed",
    Missed.FAILED: "the extra pass failed", Missed.NO_MAP: "no attention map",
    Missed.NOT_ASKED: "nothing asked for guidance",
}
"""Reasons why an evaluation was not guided, in a few words."""

# What a run may be slowed by: a part of the time it has taken so far, and seconds for what a short run needs.
SHARE, ALLOWANCE = 0.01, 0.05


@dataclass(frozen=True)
class Subject:
    """Subject of a view: a run.

    Args:
        request: what is asked of it.
        recording: what is recorded of it, as it grows.
        layout: where the picture lies in its samples.
        latent_format: of its samples.
        layer: names of the layers that are recorded.
        steps: steps of the sampler.
        note: tells the user something.
    """

    request: Request
    recording: Recording
    layout: Layout
    latent_format: LatentFormat
    layer: str
    steps: int
    note: Callable[[str], None]

    @property
    def guides(self) -> bool:
        """Returns whether it is guided, and not recorded alone."""
        return self.request.settings is not None


class View:
    """Shows a run's steps to its audience; what goes wrong here ends the view and never the run.

    Steps are left out where showing them would take more of the sampling thread's time than the run may be slowed by.

    Args:
        subject: the run.
        film: where its pictures go.
    """

    def __init__(self, subject: Subject, film: Film):
        self.subject, self.film = subject, film
        self._steps = self._guided = self._skipped = 0
        self._why: dict[str, int] = {}
        self._started, self._spent = time.perf_counter(), 0.0

    def show(self, denoised: Tensor, main: MainPass | None, reason: Reason | Missed | None) -> None:
        """Show an evaluation that is over.

        Args:
            denoised: the guider's clean prediction.
            main: the evaluation's main pass.
            reason: why it was not guided; None where it was, or where nothing guides.
        """
        if self.film is None:
            return
        start = time.thread_time()
        try:
            self._show(denoised, main, reason)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            self.subject.note(f"the live view stopped: {type(error).__name__}: {error}; sampling goes on")
            self.close("stopped")
        self._spent += time.thread_time() - start

    def close(self, state: str) -> None:
        """The run is over: `state` is "finished" or says what ended it."""
        if self.film is not None:
            self.film.close({"state": state, "steps": self._steps, "guided": self._guided, "skipped": self._skipped,
                             "why": self._why, "notes": self.subject.recording.notes})
        self.film = None

    def _show(self, denoised: Tensor, main: MainPass | None, reason: Reason | Missed | None) -> None:
        steps, guides = self.subject.recording.steps, self.subject.guides
        step = steps[-1] if len(steps) > self._steps else None
        why = WORDS.get(reason, "")
        if guides:
            guided = step is not None and step.guided
            self._guided, self._skipped = self._guided + guided, self._skipped + (not guided)
            if why:
                self._why[why] = self._why.get(why, 0) + 1
        facts = {"step": len(steps) - 1 if step is not None else None, "guided": guides and not why, "why": why,
                 "sigma": None if main is None else main.sigma, "branch": None if main is None else main.name}
        self._steps = len(steps)
        if self._spent > ALLOWANCE + SHARE * (time.perf_counter() - self._started):
            self.film.skip()
            return
        rgb = _picture(self.subject, denoised, self.film.audience.side)
        attn_map, mask = (None, None) if step is None else _planes(self.subject, step)
        mask = None if mask is None else thin(mask, self.film.audience.side)
        self.film.add(take(rgb, attn_map, mask, self.subject.layout.size[-2:]), facts)


def open_view(subject: Subject) -> View | None:
    """The view of a run that starts; None where nobody watches."""
    audience = subject.request.audience and subject.request.audience()
    if audience is None:
        return None
    shape = subject.layout.shapes[0]
    return View(subject, Film(audience, {
        "purpose": "guide" if subject.guides else "record", "layer": subject.layer, "total": subject.steps,
        "batch": shape[0], "video": shape[2] if len(shape) == 5 and shape[2] > 1 else 0,
        "size": list(shape[-2:]), "notes": list(subject.recording.notes)}))


def _picture(subject: Subject, denoised: Tensor, side: int) -> Tensor | None:
    """The first image, or its middle frame, [h, w, 3] in 0..1; None where the format of the latents has no colours."""
    if subject.latent_format.latent_rgb_factors is None:
        return None
    picture = _middle(subject.layout.picture(denoised)[:1], 2)
    return to_rgb(shrink(picture, side), subject.latent_format)[0]


def _planes(subject: Subject, step: Step) -> tuple[Tensor, Tensor | None]:
    """Map and mask of the first image, or of its middle frame, [h, w] each."""
    attn_map = _middle(step.attn_map[:1], 1)[0]
    if step.mask is not None:
        return attn_map, _middle(step.mask[:1], 1)[0]
    return attn_map, attn_map > subject.recording.threshold if subject.recording.plain else None


def _middle(frames: Tensor, dim: int) -> Tensor:
    """The middle one of a video's frames; an image as it is."""
    return frames.select(dim, frames.shape[dim] // 2) if frames.ndim == dim + 3 else frames
