"""The live view: what it shows is what was recorded, it changes nothing, and it never holds up or ends a run."""

from __future__ import annotations

import base64
import io
import threading

import comfy.latent_formats
import comfy.model_management
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.host import pack_module
from tests.host import adm, families, models
from tests.host.graph import only, sample

pytestmark = pytest.mark.usefixtures("every_step_is_shown")

SECONDS = 30


class Watcher:
    """An audience that remembers what it was told; `hold` keeps the thread that tells it."""

    def __init__(self, side=64):
        self.side, self.told, self.film, self.over = side, [], None, threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def send(self, kind, data):
        if kind == "frame":
            assert self.hold.wait(SECONDS)
        self.told.append((kind, data))
        if kind == "end":
            self.over.set()

    def keep(self, film):
        self.film = film
        return "kept.json"

    def of(self, kind):
        assert self.over.wait(SECONDS)
        return [data for told, data in self.told if told == kind]


def settings(**changes):
    return pack_module("settings").settings_of(scale=0.5, blur_sigma=1.5, threshold=1.0, **changes)


def guided(model, watcher, **changes):
    return pack_module("host.patch").guide_model(model, settings(**changes), lambda text: None, lambda: watcher)


def plane(frame, name, size):
    return np.frombuffer(base64.b64decode(frame[name]), dtype=np.uint8).reshape(frame[size])


def picture(frame):
    return Image.open(io.BytesIO(base64.b64decode(frame["image"].split(",")[1])))


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name == "sag-live"]


def test_the_frames_are_the_recorded_steps():
    tiny, watcher = models.sd15(), Watcher()
    model, trace = guided(tiny.model, watcher)
    sample(tiny, model, steps=3)
    (start,), frames, (end,) = watcher.of("start"), watcher.of("frame"), watcher.of("end")
    recording = only(trace)
    assert (start["purpose"], start["layer"], start["total"], start["batch"]) == ("guide", "middle.0", 3, 1)
    assert [frame["step"] for frame in frames] == [0, 1, 2]
    for frame, step in zip(frames, recording.steps, strict=True):
        attn_map = step.attn_map[0]
        stretched = (attn_map - attn_map.min()) / (attn_map.max() - attn_map.min())
        assert np.abs(plane(frame, "map", "grid") - stretched.numpy() * 255).max() <= 0.51
        mask = plane(frame, "mask", "mask_size") > 0
        assert np.array_equal(mask, (attn_map > 1).numpy())
        assert frame["coverage"] == pytest.approx(mask.mean(), abs=1e-4)
        assert (frame["sigma"], frame["branch"], frame["guided"]) == (step.sigma, step.branch, step.guided)
        assert picture(frame).size == (24, 16)
    assert (end["state"], end["steps"], end["guided"], end["skipped"], end["dropped"]) == ("finished", 3, 3, 0, 0)
    assert watcher.film["frames"] == frames and end["file"] == "kept.json"


def test_watching_changes_nothing_and_leaves_no_thread():
    tiny, watcher = models.sd15(), Watcher()
    watched = sample(tiny, guided(tiny.model, watcher)[0])
    assert torch.equal(watched, sample(tiny, guided(tiny.model, None)[0]))
    assert watcher.of("end")
    for thread in own_threads():
        thread.join(SECONDS)
    assert own_threads() == []


def test_without_an_audience_nothing_is_prepared(monkeypatch):
    tiny, threads = models.sd15(), []
    monkeypatch.setattr(threading.Thread, "start", lambda self: threads.append(self.name))
    monkeypatch.setattr(pack_module("host.view"), "take", lambda *_: pytest.fail("a picture was taken"))
    sample(tiny, guided(tiny.model, None)[0])
    assert "sag-live" not in threads


def test_pictures_are_made_small_and_of_the_first_image():
    tiny, watcher = adm.loaded("shapes32 (embedded)"), Watcher(side=8)
    sample(tiny, guided(tiny.model, watcher)[0], latent={"samples": tiny.latent.repeat(3, 1, 1, 1)})
    assert watcher.of("start")[0]["batch"] == 3
    assert all(max(picture(frame).size) == 8 for frame in watcher.of("frame"))


def test_of_a_video_the_middle_frame_is_shown():
    family, watcher = families.FAMILIES["Wan 2.1 T2V, Wan 2.2 T2V 14B"], Watcher()
    tiny = family.at(family.build(), family.odd)
    model, trace = guided(tiny.model, watcher)
    sample(tiny, model)
    for frame, step in zip(watcher.of("frame"), only(trace).steps, strict=True):
        middle = step.attn_map[0, step.attn_map.shape[1] // 2]
        assert np.array_equal(plane(frame, "mask", "mask_size") > 0, (middle > 1).numpy())
    assert watcher.of("start")[0]["video"] == tiny.latent.shape[2] > 1


def test_why_steps_go_without_guidance():
    tiny, watcher = models.sd15(), Watcher()
    sample(tiny, guided(tiny.model, watcher, start_percent=0.5)[0], steps=4)
    (end,) = watcher.of("end")
    assert end["why"] == {"outside the interval": end["skipped"]} and end["guided"] and end["skipped"]
    assert [frame["why"] for frame in watcher.of("frame")].count("outside the interval") == end["skipped"]
    assert not watcher.of("frame")[0]["guided"] and watcher.of("frame")[-1]["guided"]


@pytest.mark.parametrize(("changes", "why"), [
    ({"threshold": 100.0}, "nothing to blur"),
    ({"scale": 0.0}, "scale is 0"),
])
def test_why_no_step_is_guided(changes, why):
    tiny, watcher = models.sd15(), Watcher()
    own = pack_module("settings").settings_of(**{"scale": 0.5, "blur_sigma": 1.5, "threshold": 1.0, **changes})
    model, _ = pack_module("host.patch").guide_model(tiny.model, own, lambda text: None, lambda: watcher)
    sample(tiny, model)
    assert watcher.of("end")[0]["why"] == {why: 2}


def test_sampling_does_not_wait_for_a_slow_browser():
    film, frames = pack_module("live.film"), pack_module("live.frames")
    watcher = Watcher()
    watcher.hold.clear()
    one = film.Film(watcher, {})
    shot = frames.take(torch.zeros(4, 4, 3), torch.ones(2, 2), None, (4, 4))
    for step in range(50):
        one.add(shot, {"step": step})
    one.close({})
    watcher.hold.set()
    shown = [frame["step"] for frame in watcher.of("frame")]
    assert shown[-film.WAITING:] == list(range(50 - film.WAITING, 50)) and len(shown) <= film.WAITING + 1
    assert watcher.of("end")[0]["dropped"] == 50 - len(shown)


def test_a_long_run_is_kept_thinned():
    film = pack_module("live.film")
    one = film.Film(Watcher(), {})
    one.close({})
    one.join()
    for step in range(1000):
        one._show({"step": step})
    steps = [frame["step"] for frame in one.frames]
    assert film.KEPT / 2 <= len(steps) <= film.KEPT
    assert steps[0] == 0 and len({b - a for a, b in zip(steps, steps[1:], strict=False)}) == 1


def test_an_interrupted_run_says_so():
    tiny, watcher = models.sd15(), Watcher()
    model, _ = guided(tiny.model, watcher)

    def interrupt(args):
        raise comfy.model_management.InterruptProcessingException

    model.set_model_sampler_post_cfg_function(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(tiny, model)
    assert watcher.of("end")[0]["state"] == "InterruptProcessingException"


def test_what_goes_wrong_with_the_view_does_not_end_the_run():
    tiny, watcher, notes = models.sd15(), Watcher(), []
    model, _ = pack_module("host.patch").guide_model(tiny.model, settings(), notes.append, lambda: watcher)
    plain = sample(tiny, guided(tiny.model, None)[0])
    # Colours of another number of channels.
    model.model.latent_format.latent_rgb_factors = comfy.latent_formats.Flux().latent_rgb_factors
    assert torch.equal(sample(tiny, model), plain)
    assert watcher.of("end")[0]["state"] == "stopped"
    assert len(notes) == 1 and notes[0].startswith("the live view stopped: RuntimeError")


def test_a_format_without_colours_shows_the_map_alone():
    tiny, watcher = models.sd15(), Watcher()
    model, _ = guided(tiny.model, watcher)
    model.model.latent_format.latent_rgb_factors = None
    sample(tiny, model)
    assert all("image" not in frame and "map" in frame for frame in watcher.of("frame"))


@pytest.mark.parametrize(("tokens", "pixels", "extent"), [(8, 64, 1.0), (9, 65, 72 / 65), (5, 9, 10 / 9), (10, 7, 1.0),
                                                          (7, 20, 1.0), (3, 20, 24 / 20)])
def test_a_map_may_hang_over_the_edge(tokens, pixels, extent):
    """By the rule of `place`: patches whose side is a power of two."""
    shot = pack_module("live.frames").take(None, torch.rand(tokens, tokens), None, (pixels, pixels))
    assert shot.extent == pytest.approx((extent, extent))


def test_a_large_mask_is_thinned():
    mask = torch.arange(30).reshape(5, 6)
    assert torch.equal(pack_module("live.frames").thin(mask, 3), mask[::2, ::2])
    assert torch.equal(pack_module("live.frames").thin(mask, 6), mask)


def test_a_recording_is_shown_again():
    tiny, watcher = models.sd15(), Watcher()
    model, trace = guided(tiny.model, None)
    sample(tiny, model, steps=3)
    image = torch.rand(1, 128, 192, 3)
    pack_module("live.replay").replay(watcher, only(trace), image)
    assert [frame["step"] for frame in watcher.film["frames"]] == [0, 1, 2]
    assert watcher.told == [("kept", {"file": "kept.json"})]
    assert picture(watcher.film).size == (64, 43)
