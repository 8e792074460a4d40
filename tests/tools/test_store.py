"""Sample sets on disk: what is kept, what is drawn again, who draws what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.shards import processes, shard
from benchmarks.store import DESCRIPTION, SampleStore, fill

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"sampler": "ddim", "steps": 20, "scale": 0.5}


def drawn(index: int, count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(index)
    return {"images": torch.randint(256, (count, 3, 8, 6), generator=generator, dtype=torch.uint8),
            "labels": torch.arange(count) + index, "calls": torch.tensor(10 * index)}


@pytest.fixture
def store(tmp_path) -> SampleStore:
    store = SampleStore(tmp_path / "set", SETTINGS)
    fill(store, range(3), drawn)
    return store


def path(store: SampleStore, index: int) -> Path:
    return store.folder / f"batch-{index:06d}.safetensors"


def test_what_is_put_comes_back(store):
    assert {name: tensor.tolist() for name, tensor in store.get(1).items()} == {
        name: tensor.tolist() for name, tensor in drawn(1).items()}
    assert store.images([2, 0]).equal(torch.cat([drawn(2)["images"], drawn(0)["images"]]))
    assert store.stack("labels", range(3)).tolist() == [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5]
    assert store.stack("calls", range(3)).tolist() == [0, 10, 20]
    assert store.present() == [0, 1, 2] and store.missing(range(5)) == [3, 4]


def test_another_program_opens_it_by_its_folder(store):
    again = SampleStore.open(store.folder)
    assert again.description == SETTINGS and again.images([1]).equal(drawn(1)["images"])


def test_equal_batches_are_equal_files(store):
    before = path(store, 1).read_bytes()
    store.put(1, **dict(reversed(drawn(1).items())))
    assert path(store, 1).read_bytes() == before


def test_images_are_kept_channels_first(store):
    store.put(0, images=drawn(7)["images"].movedim(1, 3))
    assert store.images([0]).equal(drawn(7)["images"])


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4, dtype=torch.uint8),
                                    torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_other_images_are_refused(store, images):
    with pytest.raises(ValueError, match=r"images are torch\.\w+ \(.*they must be uint8"):
        store.put(0, images=images)
    assert store.images([0]).equal(drawn(0)["images"])


def test_nothing_and_negative_indices_are_refused(store):
    with pytest.raises(ValueError, match="batch 0 holds"):
        store.put(0)
    with pytest.raises(ValueError, match="batch -1 holds"):
        store.put(-1, **drawn(1))


def test_the_same_description_opens_it_and_another_is_an_error_that_names_the_difference(store):
    SampleStore(store.folder, dict(reversed(SETTINGS.items())))
    with pytest.raises(ValueError, match="scale is 0.5 there, 0.7 here; seed is absent there, 1 here"):
        SampleStore(store.folder, SETTINGS | {"scale": 0.7, "seed": 1})


@pytest.mark.parametrize("value", [float("nan"), torch.zeros(1), Path("a")])
def test_a_description_that_cannot_be_compared_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="plain JSON"):
        SampleStore(tmp_path / "set", {"value": value})
    assert not (tmp_path / "set").exists()


def test_a_folder_that_is_no_store_is_not_made_one_by_opening_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sample store"):
        SampleStore.open(tmp_path)
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        SampleStore.open(tmp_path)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def swap(file: Path) -> None:
    file.write_bytes(file.with_name("batch-000000.safetensors").read_bytes())


@pytest.mark.parametrize("harm", [cut, empty, alter, swap, Path.unlink])
@pytest.mark.parametrize("seen_whole", [False, True])
def test_a_damaged_batch_is_drawn_again_and_no_other(store, harm, seen_whole):
    if seen_whole:
        assert store.present() == [0, 1, 2]
    harm(path(store, 1))
    assert store.missing(range(3)) == [1] and store.present() == [0, 2]
    with pytest.raises(FileNotFoundError, match="batch 1 of"):
        store.images(range(3))
    calls = []
    fill(store, range(3), lambda index: calls.append(index) or drawn(index))
    assert calls == [1] and store.images([1]).equal(drawn(1)["images"])


def test_a_batch_of_another_description_is_not_trusted(store, tmp_path):
    other = SampleStore(tmp_path / "other", SETTINGS | {"scale": 0.7})
    path(other, 1).write_bytes(path(store, 1).read_bytes())
    assert other.missing([1]) == [1]


def test_an_interrupted_run_keeps_what_it_drew_and_no_part_of_a_batch(tmp_path):
    store, calls = SampleStore(tmp_path / "set", SETTINGS), []

    def stopped(index: int) -> dict:
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return drawn(index)

    with pytest.raises(KeyboardInterrupt):
        fill(store, range(5), stopped)
    fill(store, range(5), stopped)
    assert calls == [0, 1, 2, 2, 3, 4]
    assert sorted(file.name for file in store.folder.iterdir()) == sorted(
        [DESCRIPTION, *(path(store, index).name for index in range(5))])


def test_a_write_that_fails_leaves_the_batch_as_it_was(store, monkeypatch):
    def full(handle: int) -> None:
        raise OSError("no space left on device")

    before = path(store, 1).read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        store.put(1, **drawn(9))
    assert path(store, 1).read_bytes() == before and not list(store.folder.glob("*.part"))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_index_belongs_to_one_process(world):
    parts = [shard(range(3, 10), rank, world) for rank in range(world)]
    assert sorted(sum(parts, [])) == list(range(3, 10)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_part_of_an_index_does_not_hang_on_what_else_is_missing():
    assert set(shard([1, 4, 5], 1, 2)) == set(shard(range(6), 1, 2)) & {1, 4, 5}


def test_torchruns_environment_says_which_process_this_is(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert processes() == (1, 3) and shard(range(7)) == [1, 4]
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="RANK is 3"):
        processes()


def test_a_killed_process_leaves_a_store_that_goes_on(tmp_path):
    code = """if True:
        import os, sys, torch
        from benchmarks.store import SampleStore, fill
        def draw(index):
            if index == 2:
                os.kill(os.getpid(), 9) if os.name == "posix" else os._exit(1)
            return {"images": torch.full((1, 3, 4, 4), index, dtype=torch.uint8)}
        fill(SampleStore(sys.argv[1], {"a": 1}), range(4), draw)
    """
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")], cwd=ROOT, check=False)  # noqa: S603
    assert killed.returncode != 0
    store = SampleStore(tmp_path / "set", {"a": 1})
    assert store.missing(range(4)) == [2, 3]
