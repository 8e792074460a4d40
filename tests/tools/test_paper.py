"""The paper's tables at toy scale: what decides a way, what a claim needs, and what the page says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.metrics.bootstrap import Bootstrap, Estimate
from benchmarks.paper.command import arguments
from benchmarks.paper.draw import to_bytes
from benchmarks.paper.page import claims, percent, rows, shown
from benchmarks.paper.score import HIGHER_IS_BETTER, Score, Verdict, accuracy, decide, improvement, judge
from benchmarks.paper.tables import BASE, SEEDS, TABLES, TUNING, TUNING_SEEDS, Claim, Table
from benchmarks.paper.ways import Way
from sag_core.settings import SAGSettings
from sag_core.strategies import STRATEGIES

BOOTSTRAP = Bootstrap(10, 4)


def estimate(value, *resamples):
    return Estimate(value, torch.tensor(resamples, dtype=torch.float64), BOOTSTRAP)


@pytest.mark.parametrize("resamples, least, text", [
    ((0.2, 0.3, 0.3, 0.4), 0.0, "yes"),
    ((0.2, 0.3, 0.3, 0.4), 0.5, "yes, but by less than 50%"),
    ((-0.1, 0.1, 0.2, 0.4), 0.0, "undecided"),
    ((-0.4, -0.3, -0.3, -0.2), 0.0, "no"),
])
def test_a_claim_is_reproduced_where_its_whole_interval_is_on_the_papers_side(resamples, least, text):
    value = sum(resamples) / 4
    assert decide(estimate(value, *resamples), least) == text


def test_an_improvement_is_a_share_of_the_worse_value_pair_by_pair():
    lower = improvement(estimate(3.0, 2.0, 3.0, 4.0, 3.0), estimate(4.0, 4.0, 4.0, 5.0, 6.0), higher=False)
    assert lower.value == pytest.approx(0.25)
    assert lower.resamples.tolist() == pytest.approx([0.5, 0.25, 0.2, 0.5])
    higher = improvement(estimate(0.9, 0.9, 0.8, 0.6, 0.9), estimate(0.6, 0.6, 0.8, 0.8, 0.6), higher=True)
    assert higher.value == pytest.approx(0.5)
    assert higher.resamples.tolist() == pytest.approx([0.5, 0.0, -0.25, 0.5])


def test_accuracy_counts_samples_that_are_named_as_asked():
    class Features:
        probabilities = torch.tensor([[0.9, 0.1]] * 5 + [[0.2, 0.8]] * 5)

    labels = torch.tensor([0] * 4 + [1] * 6)
    assert accuracy(Features, labels, BOOTSTRAP).value == pytest.approx(0.9)


def test_a_table_is_judged_by_its_own_rows():
    table = Table("t", "", {"a": Way(), "b": Way(labels="all")}, [Claim("a wins", "a", "b"), Claim("b", "b", "a"),
                                                                   Claim("not measured", "a", "b", "accuracy")])
    scores = {Way().name: Score({"FID": estimate(1.0, 0.8, 1.0, 1.0, 1.2)}, 25),
              Way(labels="all").name: Score({"FID": estimate(2.0, 1.9, 2.0, 2.0, 2.1)}, 50)}
    assert [(v.claim.text, v.text) for v in judge(table, scores)] == [("a wins", "yes"), ("b", "no")]
    assert rows(table, scores).splitlines()[2].split("|")[2].strip() == "1.00 [0.83, 1.17]"


def test_what_the_page_shows():
    assert shown(None, 2) == "-"
    change = estimate(0.25, 0.1, 0.2, 0.3, 0.4)
    assert percent(change) == "+25.0% [+11.5%, +38.5%]"
    assert "| -" in claims([Verdict(Claim("a", "a", "b"), change, "yes")])


def test_every_claim_names_rows_and_metrics_that_there_are():
    for table in [*TABLES.values(), TUNING]:
        for claim in table.claims:
            assert {claim.better, claim.worse} <= set(table.rows)
            assert claim.measure in HIGHER_IS_BETTER
        assert table.base in table.rows


def test_every_way_can_be_asked_for():
    ways = [way for table in TABLES.values() for way in table.rows.values()]
    for way in ways:
        SAGSettings(**way.guidance)
        assert way.mask.get("strategy", "random") in STRATEGIES
    # A way is its description: equal ones share their samples, others never.
    assert len({way.name for way in ways}) == len({str(way.description) for way in ways})
    assert len({way.name for way in ways}) < len(ways)


def test_settings_are_tuned_on_other_seeds_than_those_reported():
    assert not set(SEEDS) & set(TUNING_SEEDS)
    tuned = [dict(way.guidance) for way in TUNING.rows.values()]
    assert BASE in tuned


def test_images_are_stored_as_a_png_holds_them():
    assert to_bytes(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


def test_a_quick_run_is_never_written_down():
    assert arguments(["--quick"]).batch < arguments([]).batch
    for given in (["--quick", "--write"], ["--write", "--tables", "scale"], ["--tables", "nothing"]):
        with pytest.raises(SystemExit):
            arguments(given)
