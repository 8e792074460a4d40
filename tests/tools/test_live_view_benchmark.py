"""The benchmark of the live view: its intervals, its clock, its verdicts, and that it runs from end to end."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks.live_view import CLOCKED, README, Cost, report
from benchmarks.measure import Median, Spread, clocked
from benchmarks.watcher import Shown
from tools.process import spawn
from tools.provision import CHECKOUT

ONE = Spread(1.0, 1.0, 1.0)


@pytest.mark.parametrize(("n", "low", "high"), [(1, 1, 1), (5, 1, 5), (6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10),
                                                (20, 6, 15), (30, 10, 21)])
def test_interval_of_a_median_lies_between_tabulated_values(n, low, high):
    """The critical values of the two-sided sign test at 5 %; below six values it has none."""
    found = Median.of(list(range(n, 0, -1)))
    assert found == Median(low, (n + 1) / 2, high)


def test_the_clock_tells_computing_from_waiting_and_leaves_nothing():
    def work(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return seconds

    own = SimpleNamespace(work=work, wait=time.sleep)
    with clocked((own, "work"), (own, "wait")) as clock:
        assert own.work(0.02) == 0.02
        own.wait(0.05)
    assert 0.02 <= clock.computing < 0.05 and clock.passed >= 0.07
    assert own.work is work and own.wait is time.sleep


@pytest.mark.parametrize(("slower", "verdict"), [
    (Median(-1.0, 0.5, 1.0), "met"), (Median(0.5, 0.7, 1.1), "not settled: the interval holds 1 %"),
    (Median(1.01, 2.0, 3.0), "missed")])
def test_the_whole_interval_decides(slower, verdict):
    own = Spread(0.1, 0.25, 0.3)
    cost = Cost(Spread(9.0, 10.0, 11.0), slower, slower, own, own, [Shown(3, 3072, 1), Shown(5, 1024, 0)])
    run, thread = report({"a": cost}).splitlines()[-2:]
    assert run.split("|")[-2].strip() == verdict
    assert [cell.strip() for cell in thread.split("|")[-3:-1]] == ["2.50 %", "missed"]
    assert [cell.strip() for cell in report({"a": cost}).splitlines()[2].split("|")[-3:-1]] == ["0.5", "1 of 9"]


def test_the_command_watches_real_runs():
    command = [sys.executable, "-m", "benchmarks.live_view", "--device", "cpu", "--quick", "--rounds", "1"]
    with spawn(command, cwd=CHECKOUT, output=subprocess.PIPE) as process:
        printed = process.communicate()[0].decode("utf-8", "replace")
    assert process.returncode == 0, printed
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 + 2 + 4
    # Every step of every watched run of both models arrived.
    assert [row.split("|")[-2].strip() for row in rows[2:4]] == [
        f"0 of {(1 + CLOCKED) * steps}" for steps in (2, 1)]


def test_there_is_a_place_for_the_figures():
    text = README.read_text("utf-8")
    for device in ("cpu", "cuda"):
        assert text.count(f"<!-- live {device}: begin -->") == text.count(f"<!-- live {device}: end -->") == 1
