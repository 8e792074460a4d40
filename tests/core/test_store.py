"""Runs are kept in bounded memory: as many as a list has, bit for bit, and none takes a run of sampling down."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch

from sag_core.trace import AttentionTrace, Recording, RunMissing, Step, fingerprint, levels

SIDE = 32
BYTES = 4 * SIDE * SIDE + SIDE * SIDE  # of a run with one step: a map in float32 and a mask


def samples_of(index):
    return torch.full((1, 4, 2, 2), float(index))


def run_of(index, steps=1, **fields):
    generator = torch.Generator().manual_seed(index)
    made = [Step(1.0 / (i + 1), torch.rand(1, SIDE, SIDE, generator=generator), "middle.0", "cond", i % 2 == 0,
                 levels(torch.rand(1, SIDE, SIDE, generator=generator))) for i in range(steps)]
    return Recording((SIDE, SIDE), 1.25, made, fields.pop("notes", []), {fingerprint(samples_of(index))}, plain=False,
                     **fields)


def equal(one, other):
    """Whether two recordings are the same, bit for bit."""
    def told(run):
        return (run.size, run.threshold, run.notes, run.results, run.plain,
                [(s.sigma, s.layer, s.branch, s.guided) for s in run.steps])

    def tensors(run):
        return [t for step in run.steps for t in (step.attn_map, step.mask)]

    return told(one) == told(other) and len(one.steps) == len(other.steps) and all(
        (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b))
        for a, b in zip(tensors(one), tensors(other), strict=True))


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def filled(folder, count, memory=0, **limits):
    trace = AttentionTrace(folder, memory=memory, **limits)
    for index in range(count):
        trace.add(run_of(index))
    return trace


def test_a_list_of_a_hundred_is_found_bit_for_bit_in_bounded_memory(tmp_path):
    trace, alive = AttentionTrace(tmp_path, memory=10 * BYTES), []
    for index in range(100):
        run = run_of(index)
        alive.append(weakref.ref(run))
        trace.add(run)
    del run
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 11  # the latest, and what fits
    assert len(files(tmp_path)) == 89
    for index in range(100):
        assert equal(trace.find(samples_of(index)), run_of(index))
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 11
    assert len(trace.recordings) == 100


def test_by_default_the_memory_does_not_grow_with_the_runs(tmp_path):
    trace, alive = AttentionTrace(tmp_path), []
    for index in range(40):
        run = Recording((512, 512), steps=[Step(1.0, torch.rand(1, 512, 512), "middle.0", "cond", True)],
                        results={fingerprint(samples_of(index))})
        alive.append(weakref.ref(run))
        trace.add(run)
    del run
    gc.collect()
    assert sum(ref().nbytes() for ref in alive if ref() is not None) <= 17 * 2**20
    assert all(trace.find(samples_of(index)) for index in range(40))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_whatever_a_run_holds_comes_back_as_it_was(tmp_path, dtype):
    shared = torch.rand(2, 5, 4, 6).to(dtype)
    steps = [Step(float("inf"), shared, "block.1, block.2", "uncond", False),
             Step(0.1 + 0.2, shared[:1].expand(2, -1, -1, -1), "middle.0", "cond", True),
             Step(0.0, shared.transpose(2, 3), "middle.0", "cond", True, levels(torch.rand(2, 5, 8, 12)))]
    before = Recording((5, 8, 12), 1 / 3, steps, ["a note", "\uac00"], {fingerprint(samples_of(0)), "other"})
    trace = AttentionTrace(tmp_path, memory=0)
    trace.add(before)
    trace.add(run_of(1))
    after = trace.find(samples_of(0))
    assert after is not before and equal(after, before)


def test_what_was_read_from_a_file_does_not_need_it_any_more(tmp_path):
    trace = filled(tmp_path, 3)
    found = trace.find(samples_of(0))
    for path in files(tmp_path):
        path.write_bytes(b"\0" * 100_000)
    assert equal(found, run_of(0))


def test_files_go_with_the_trace(tmp_path):
    trace = filled(tmp_path, 5)
    assert len(files(tmp_path)) == 4
    del trace
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_files_go_with_the_process(tmp_path):
    script = ("import pathlib, sys; from tests.core.test_store import filled, files\n"
              "folder = pathlib.Path(sys.argv[1]); trace = filled(folder, 5); print(len(files(folder)))")
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])  # noqa: S603
    assert done.stdout.strip() == "4" and list(tmp_path.iterdir()) == []


def test_without_a_folder_files_go_to_that_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trace = filled(None, 2)
    assert len(files(tmp_path)) == 1 and equal(trace.find(samples_of(0)), run_of(0))


def test_a_run_that_comes_again_leaves_no_file_behind(tmp_path):
    trace = filled(tmp_path, 3)
    trace.add(run_of(0))
    assert len(trace.recordings) == 3 and len(files(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["deleted", "cut", "one bit", "another run's"])
def test_a_run_whose_file_is_gone_or_changed_is_said_to_be_gone_and_the_others_are_found(tmp_path, damage):
    trace = filled(tmp_path, 4)
    first, second, _ = files(tmp_path)
    data = first.read_bytes()
    if damage == "deleted":
        first.unlink()
    else:
        first.write_bytes({"cut": data[:-1], "one bit": data[:-1] + bytes([data[-1] ^ 1]),
                           "another run's": second.read_bytes()}[damage])
    for _ in range(2):  # the second time it is known
        with pytest.raises(RunMissing, match="run 1 of this trace is gone, because its file cannot be read: .*1.safet"):
            trace.find(samples_of(0))
    assert all(equal(trace.find(samples_of(index)), run_of(index)) for index in (1, 2, 3))
    assert len(trace.recordings) == 3
    trace.add(run_of(0))
    assert equal(trace.find(samples_of(0)), run_of(0))


def test_runs_are_kept_when_the_folder_is_removed_meanwhile(tmp_path):
    trace = filled(tmp_path / "temp", 3)
    for path in sorted((tmp_path / "temp").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "temp").rmdir()
    trace.add(run_of(3))
    trace.add(run_of(4))
    assert [equal(trace.find(samples_of(index)), run_of(index)) for index in (2, 3, 4)] == [True] * 3
    with pytest.raises(RunMissing, match="run 2 of this trace is gone"):
        trace.find(samples_of(1))


def test_files_take_no_more_than_they_may_and_the_oldest_go(tmp_path):
    trace = filled(tmp_path, 10, disk=4 * BYTES)
    assert len(files(tmp_path)) == 4
    with pytest.raises(RunMissing, match="run 5 of this trace is gone, because later runs needed its room"):
        trace.find(samples_of(4))
    assert all(equal(trace.find(samples_of(index)), run_of(index)) for index in range(5, 10))


def test_where_no_file_can_be_written_runs_stay_in_memory_and_it_is_said_once(tmp_path):
    (tmp_path / "file").write_text("no folder", "utf-8")
    trace, said = AttentionTrace(tmp_path / "file", memory=0), []
    for index in range(20):
        trace.add(run_of(index), said.append)
    assert len(said) == 1 and "cannot be put into a file: " in said[0] and str(tmp_path / "file") in said[0]
    assert all(equal(trace.find(samples_of(index)), run_of(index)) for index in range(20))


def test_where_no_file_can_be_written_memory_is_bounded_too(tmp_path):
    (tmp_path / "file").write_text("no folder", "utf-8")
    trace = AttentionTrace(tmp_path / "file", memory=0)
    trace._store._without_files = 3 * BYTES
    for index in range(8):
        trace.add(run_of(index))
    with pytest.raises(RunMissing, match="run 4 of this trace is gone, because later runs needed its room"):
        trace.find(samples_of(3))
    assert all(equal(trace.find(samples_of(index)), run_of(index)) for index in range(4, 8))


def test_a_disk_that_is_full_leaves_no_half_of_a_file(tmp_path):
    resource = pytest.importorskip("resource")  # a limit on the size of files, which not every system has
    trace, said = filled(tmp_path, 2), []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        trace.add(run_of(2), said.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(files(tmp_path)) == 1 and "OSError: " in said[0]
    trace.add(run_of(3), said.append)  # there is room again
    assert len(files(tmp_path)) == 3 and len(said) == 1
    assert all(equal(trace.find(samples_of(index)), run_of(index)) for index in range(4))


def test_runs_that_share_a_result_keep_the_others(tmp_path):
    """Two runs may end with one clean prediction and with other samples."""
    trace = AttentionTrace(tmp_path, memory=0)
    for index in (0, 1):
        run = run_of(index)
        run.results.add(fingerprint(samples_of(9)))
        trace.add(run)
    assert torch.equal(trace.find(samples_of(0)).attn_map(0), run_of(0).attn_map(0))
    for index in (1, 9):
        assert torch.equal(trace.find(samples_of(index)).attn_map(0), run_of(1).attn_map(0))


def test_identical_latents_find_the_latest_of_their_runs(tmp_path):
    trace = AttentionTrace(tmp_path, memory=0)
    for seed in (0, 1, 2):
        run = run_of(seed)
        run.results = {fingerprint(samples_of(0))}
        trace.add(run)
    assert len(trace.recordings) == 1 and files(tmp_path) == []
    assert torch.equal(trace.find(samples_of(0)).attn_map(0), run_of(2).attn_map(0))


def test_runs_may_end_in_several_threads_at_once(tmp_path):
    trace, wrong = AttentionTrace(tmp_path, memory=2 * BYTES), []

    def work(thread):
        for index in range(thread * 100, thread * 100 + 25):
            trace.add(run_of(index))
            if not equal(trace.find(samples_of(index)), run_of(index)):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(trace.recordings) == 150
    assert all(equal(trace.find(samples_of(t * 100 + i)), run_of(t * 100 + i)) for t in range(6) for i in range(25))


def test_a_copy_of_a_model_records_where_its_trace_is_looked_at(tmp_path):
    """Some nodes copy a model's options with all they reach."""
    trace = filled(tmp_path, 2)
    other = copy.deepcopy(trace)
    other.add(run_of(7))
    assert equal(trace.find(samples_of(7)), run_of(7))
    del trace
    gc.collect()
    assert equal(other.find(samples_of(0)), run_of(0))


def test_a_run_that_is_gone_is_not_written(tmp_path):
    trace = filled(tmp_path / "runs", 2)
    files(tmp_path)[0].unlink()
    with pytest.raises(RunMissing, match="run 1 of this trace is gone"):
        trace.save(tmp_path / "saved.safetensors", samples_of(0))
    assert files(tmp_path) == []
