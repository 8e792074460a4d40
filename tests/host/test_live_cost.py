"""What the live view costs a run: the sampling thread neither encodes nor waits, and computes next to nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from benchmarks.host import pack_module
from benchmarks.measure import clocked
from benchmarks.models import SHAPES, build
from tests.host import models
from tests.host.graph import call, sample

SECONDS = 60


@dataclass
class Audience:
    """Watches a run; `on_frame` is called where its frames are sent, in whatever thread that is."""

    on_frame: Callable[[], object]
    side: int = 256
    frames: int = 0
    end: dict | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def send(self, kind, data):
        if kind == "frame":
            self.on_frame()
            self.frames += 1
        elif kind == "end":
            self.end = data
            self.over.set()

    def keep(self, film):
        return None


def watched(model, audience):
    settings = pack_module("settings").settings_of(scale=0.5, blur_sigma=1.5, threshold=1.0)
    return pack_module("host.patch").guide_model(model, settings, lambda text: None, lambda: audience)[0]


@pytest.mark.usefixtures("every_step_is_shown")
def test_the_sampling_thread_encodes_and_sends_no_frame(monkeypatch):
    film, encoding, sending = pack_module("live.film"), set(), set()
    develop = film.develop
    monkeypatch.setattr(film, "develop", lambda shot: (encoding.add(threading.get_ident()), develop(shot))[1])
    tiny, audience = models.sd15(), Audience(lambda: sending.add(threading.get_ident()))
    sample(tiny, watched(tiny.model, audience), steps=3)
    assert audience.over.wait(SECONDS) and audience.frames == 3
    assert len(encoding) == 1 and sending == encoding and threading.get_ident() not in encoding


@pytest.mark.usefixtures("every_step_is_shown")
def test_a_run_ends_while_its_audience_still_blocks():
    film, hold, steps = pack_module("live.film"), threading.Event(), 12
    tiny, audience = models.sd15(), Audience(lambda: hold.wait(SECONDS))
    sample(tiny, watched(tiny.model, audience), steps=steps)
    assert audience.frames == 0  # nothing could be sent in all that time
    hold.set()
    assert audience.over.wait(SECONDS)
    # What waited, and the one that the thread may have taken before.
    assert audience.frames in (film.WAITING, film.WAITING + 1)
    assert audience.end["dropped"] == steps - audience.frames


def test_steps_are_left_out_where_showing_them_would_slow_the_run(monkeypatch):
    view, steps = pack_module("host.view"), 5
    monkeypatch.setattr(view, "SHARE", 0.0)
    monkeypatch.setattr(view, "ALLOWANCE", 0.0)
    tiny, audience = models.sd15(), Audience(lambda: None)
    sample(tiny, watched(tiny.model, audience), steps=steps)
    assert audience.over.wait(SECONDS)
    assert audience.frames == 1 and audience.end["dropped"] == steps - 1
    assert (audience.end["steps"], audience.end["guided"]) == (steps, steps)  # what is said of the run stays whole


def test_the_sampling_thread_computes_less_than_a_hundredth_for_the_view():
    """Time that it computes, which other work on the machine does not change, at steps of a third of a second."""
    subject, audience, view = build(SHAPES["sd15"].on("cpu").small()), Audience(lambda: None), pack_module("host.view")
    model = watched(subject.model, audience)

    def run():
        call("KSampler", model=model, seed=1, steps=4, cfg=5.0, sampler_name="euler", scheduler="simple",
             positive=subject.positive, negative=subject.negative, latent_image={"samples": subject.latent})

    run()  # what is made once is not of a step
    start = time.thread_time()
    with clocked((pack_module("host.run"), "open_view"), (view.View, "show"), (view.View, "close")) as clock:
        run()
    assert torch.get_num_threads() == 1  # so that this thread computes the model itself
    assert 0 < clock.computing <= 0.01 * (time.thread_time() - start), clock
