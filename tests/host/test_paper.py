"""The paper's tables draw their samples with the pack's own nodes: a batch is a function of its way and its index."""

from __future__ import annotations

import pytest

from benchmarks.paper.draw import Artist
from benchmarks.paper.tables import CLASSIFIER_SCALE, sag
from benchmarks.paper.ways import Way

STEPS = {"respacing": "ddim4"}
PLAIN = Way(**STEPS)


@pytest.fixture(scope="module")
def artist(tmp_path_factory) -> Artist:
    return Artist(2, tmp_path_factory.mktemp("samples"))


def drawn(artist, way, index=3):
    return artist.draw(way, index)


def test_a_batch_follows_from_its_way_and_its_index(artist):
    first = drawn(artist, PLAIN)
    assert first["images"].shape == (2, 3, 32, 32)
    assert first["images"].equal(drawn(artist, PLAIN)["images"])
    assert not first["images"].equal(drawn(artist, PLAIN, index=4)["images"])


@pytest.mark.parametrize("way, calls", [
    (PLAIN, 4), (sag(**STEPS), 8), (Way(labels="all", **STEPS), 4), (Way("all", classifier=2.0, **STEPS), 4),
    (sag("all", classifier=CLASSIFIER_SCALE["all"], **STEPS), 8),
    (sag(mask={"strategy": "random"}, **STEPS), 8),
    (sag(schedule={"interval": "percent", "start": 0.0, "end": 0.4, "scale_curve": "constant"}, **STEPS), 5)],
    ids=["none", "SAG", "labels", "CG", "CG + SAG", "strategy", "interval"])
def test_a_way_takes_its_passes_and_changes_the_samples(artist, way, calls):
    batch = drawn(artist, way)
    assert batch["calls"] == calls and batch["labels"].tolist() == [3, 3]
    assert way is PLAIN or not batch["images"].equal(drawn(artist, PLAIN)["images"])


def test_what_is_there_is_not_drawn_again(artist):
    artist.fill(PLAIN, [0, 1], lambda text: None)
    artist.model, model = None, artist.model
    try:
        artist.fill(PLAIN, [0, 1], lambda text: None)
    finally:
        artist.model = model
    assert artist.store(PLAIN).images([0, 1]).shape == (4, 3, 32, 32)
    assert artist.store(sag(**STEPS)).missing([0, 1]) == [0, 1]
