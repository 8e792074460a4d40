"""Blinded pairs: scores by hand, the interval by its definition, and answers that cannot be trusted."""

from __future__ import annotations

import json
import math

import pytest

from sag_core.preference import Answers, Key, Score, blind, read_answers, read_key, score, wilson, write_key

KEY = Key("study-1", ("left", "right", "right", "left"))


def answers(**changes):
    described = {"format": "sag-pairs-answers-1", "study": "study-1", "rater": "Ann",
                 "answers": [{"pair": 1, "choice": "left"}, {"pair": 3, "choice": "none"}], **changes}
    return json.dumps(described)


@pytest.mark.parametrize(("successes", "trials", "low", "high"), [
    # Agresti and Coull (1998), and Newcombe (1998), table I: the score method without continuity correction.
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
    (29, 29, 0.8830, 1.0),
])
def test_wilson_interval_as_published(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_ends_of_the_interval_are_where_the_score_test_rejects():
    z = 1.6448536269514722
    for share in wilson(7, 31, confidence=0.9):
        assert abs(7 / 31 - share) / math.sqrt(share * (1 - share) / 31) == pytest.approx(z)


def test_interval_without_trials_is_everything():
    assert wilson(0, 0) == (0, 1)


def test_score_by_hand():
    ann = Answers("study-1", "Ann", {1: "left", 2: "left", 3: "right", 4: "none"})
    bob = Answers("study-1", "Bob", {4: "left"})
    found = score(KEY, [ann, bob])
    assert found == Score(preferred=3, decided=4, undecided=1) and found.share == 0.75


@pytest.mark.parametrize(("preferred", "decided", "p"), [
    (5, 5, 2 / 32), (0, 5, 2 / 32), (4, 5, 12 / 32), (2, 4, 1.0), (0, 0, 1.0), (600, 1000, 2.7e-10)])
def test_sign_test_by_hand(preferred, decided, p):
    assert Score(preferred, decided, 0).p_value == pytest.approx(p, rel=0.02)


def test_share_of_no_answers_is_nan():
    assert math.isnan(score(KEY, [Answers("study-1", "Ann", {1: "none"})]).share)


@pytest.mark.parametrize(("given", "message"), [
    (Answers("other", "Ann", {1: "left"}), "Ann answered study 'other'; this key is of 'study-1'"),
    (Answers("study-1", "Ann", {5: "left"}), "Ann answered pair 5; the study has 4"),
])
def test_answers_to_something_else_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        score(KEY, [given])


def test_order_in_the_pairs_is_the_seeds_and_even():
    assert blind(50, 3) == blind(50, 3) != blind(50, 4)
    assert 400 < blind(1000, 0).count("left") < 600


def test_key_is_written_and_read():
    assert read_key(write_key(KEY)) == KEY


@pytest.mark.parametrize(("text", "message"), [
    ("{", "no JSON"), ("[]", "not marked sag-pairs-key-1"), ("[" * 100_000, "no JSON"),
    (json.dumps({"format": "sag-pairs-key-1", "study": "s"}), "no list"),
    (json.dumps({"format": "sag-pairs-key-1", "study": "s", "guided": []}), "0 pairs"),
    (json.dumps({"format": "sag-pairs-key-1", "study": "s", "guided": ["left", "up"]}), "pair 2 .* side 'up'"),
    (json.dumps({"format": "sag-pairs-key-1", "study": 3, "guided": ["left"]}), "name is 3"),
    (answers(), "not marked sag-pairs-key-1"),
])
def test_a_key_that_is_none_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_key(text)


TABLE = "study,rater,pair,choice\n\"study-1\",\"Ann\",1,left\n\"study-1\",\"Ann\",3,none\n"


@pytest.mark.parametrize("text", [answers(), TABLE, "\ufeff" + TABLE, TABLE.replace("\n", "\r\n")],
                         ids=["json", "csv", "csv with a mark", "csv of Windows"])
def test_answers_are_read(text):
    assert read_answers(text) == Answers("study-1", "Ann", {1: "left", 3: "none"})


@pytest.mark.parametrize(("rater", "name"), [
    ("", "anonymous"), (None, "anonymous"), ("a\x00b\nc", "abc"), ("x" * 99, "x" * 40), (7, "7")])
def test_names_are_short_and_printable(rater, name):
    assert read_answers(answers(rater=rater)).rater == name


@pytest.mark.parametrize(("text", "message"), [
    ("", "neither JSON nor a table"), ("a,b\n1,2\n", "neither JSON nor a table"), ("{]", "no JSON"),
    ('{"a":' * 50_000, "no JSON"), (write_key(KEY), "not marked sag-pairs-answers-1"),
    (answers(answers={"1": "left"}), "no list of answers"), (answers(answers=[1]), "no list of answers"),
    (answers(study=None), "study is None"), (answers(answers=[{"pair": 0, "choice": "left"}]), "pair 0"),
    (answers(answers=[{"pair": True, "choice": "left"}]), "pair True"),
    (answers(answers=[{"pair": 1.0, "choice": "left"}]), "pair 1.0"),
    (answers(answers=[{"choice": "left"}]), "pair None"),
    (answers(answers=[{"pair": 1, "choice": "both"}]), "pair 1 is 'both'"),
    (answers(answers=[{"pair": 1, "choice": ["left"]}]), "pair 1 is .*left"),
    (answers(answers=[{"pair": 2, "choice": "left"}] * 2), "pair 2 twice"),
    (TABLE.replace("1,left", "one,left"), "pair 'one'"), (TABLE.replace(",left", ""), "choice for pair 1 is None"),
    (TABLE + '"study-1","Bob",2,left\n', "more than one rater"), (TABLE + '"s","Ann",2,left\n', "more than one study"),
    (TABLE + '"unclosed', "no table"),
])
def test_answers_that_are_none_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_answers(text)
