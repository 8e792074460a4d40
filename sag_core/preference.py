"""Which of two images people prefer: blinded pairs, their key, the answers, and the score (SAG, human evaluation).

Answers come from other people's machines: everything in them is checked before it counts.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

KEY_FORMAT, ANSWERS_FORMAT = "sag-pairs-key-1", "sag-pairs-answers-1"
LEFT, RIGHT, NEITHER = "left", "right", "none"
MOST_PAIRS = 100_000
NAME_LENGTH = 40


@dataclass(frozen=True)
class Key:
    """Key of a study, hidden until all have answered: the side of each pair on which the guided image is.

    Args:
        study: identifies the pairs, so that answers to others are not scored with this key.
        guided: "left" or "right" of every pair.

    Raises:
        ValueError: no pairs, or an unknown side.
    """

    study: str
    guided: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (isinstance(self.study, str) and self.study):
            raise ValueError(f"the study's name is {self.study!r}")
        if not 0 < len(self.guided) <= MOST_PAIRS:
            raise ValueError(f"it holds {len(self.guided)} pairs; there must be 1 to {MOST_PAIRS}")
        for pair, side in enumerate(self.guided, start=1):
            if side not in (LEFT, RIGHT):
                raise ValueError(f"pair {pair} has the guided image on side {side!r}, which is neither left nor right")


@dataclass(frozen=True)
class Answers:
    """Answers of one person: "left", "right" or "none" by the number of the pair, counted from 1."""

    study: str
    rater: str
    choices: Mapping[int, str]


@dataclass(frozen=True)
class Score:
    """Share of the answers that preferred the guided image.

    Args:
        preferred: answers for the guided image.
        decided: answers for either image.
        undecided: answers for neither, which do not count.
    """

    preferred: int
    decided: int
    undecided: int

    @property
    def share(self) -> float:
        """Of the answers for either image; nan without any."""
        return self.preferred / self.decided if self.decided else math.nan

    @property
    def p_value(self) -> float:
        """Two-sided sign test: how likely as uneven an outcome is where people cannot tell."""
        n, far = self.decided, max(self.preferred, self.decided - self.preferred)
        ways = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(far, n + 1))
        return min(1.0, 2 * math.fsum(math.exp(log_ways - n * math.log(2)) for log_ways in ways))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = successes / trials
    middle = share + z2 / (2 * trials)
    reach = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials ** 2)))
    return max(0.0, (middle - reach) / (1 + z2 / trials)), min(1.0, (middle + reach) / (1 + z2 / trials))


def blind(pairs: int, seed: int) -> tuple[str, ...]:
    """On which side of each pair the guided image goes, drawn at random."""
    draw = random.Random(seed)
    return tuple(draw.choice((LEFT, RIGHT)) for _ in range(pairs))


def score(key: Key, answers: Sequence[Answers]) -> Score:
    """Returns the share of these people's answers that preferred the guided image; every answer counts alike.

    Raises:
        ValueError: answers to another study, or to a pair that it does not have.
    """
    for one in answers:
        if one.study != key.study:
            raise ValueError(f"{one.rater} answered study {_short(one.study)}; this key is of {_short(key.study)}")
        for pair in one.choices:
            if pair > len(key.guided):
                raise ValueError(f"{one.rater} answered pair {pair}; the study has {len(key.guided)}")
    given = [(choice, key.guided[pair - 1]) for one in answers for pair, choice in one.choices.items()]
    decided = [choice == guided for choice, guided in given if choice != NEITHER]
    return Score(sum(decided), len(decided), len(given) - len(decided))


# -- files -----------------------------------------------------------------------------------------------------------


def write_key(key: Key) -> str:
    """The key as JSON."""
    return json.dumps({"format": KEY_FORMAT, "study": key.study, "guided": key.guided}, indent=1) + "\n"


def read_key(text: str) -> Key:
    """The key from JSON.

    Raises:
        ValueError: it is none; the message says why.
    """
    described = _json(text, KEY_FORMAT)
    guided = described.get("guided")
    if not isinstance(guided, list):
        raise ValueError(f"its sides are {_short(guided)}, and no list")
    return Key(described.get("study"), tuple(guided))


def read_answers(text: str) -> Answers:
    """One person's answers, from JSON or CSV as the page of pairs writes them.

    Raises:
        ValueError: they are none, or name a pair twice or a choice that does not exist; the message says which.
    """
    return _from_json(text) if text.lstrip().startswith("{") else _from_csv(text)


def _from_json(text: str) -> Answers:
    described = _json(text, ANSWERS_FORMAT)
    entries = described.get("answers")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"its answers are {_short(entries)}, and no list of answers")
    return _answers(described.get("study"), described.get("rater"),
                    [(entry.get("pair"), entry.get("choice")) for entry in entries])


def _from_csv(text: str) -> Answers:
    try:
        rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff")), strict=True))
    except csv.Error as error:
        raise ValueError(f"it is no table: {error}") from error
    wanted = ("study", "rater", "pair", "choice")
    if not rows or not set(wanted) <= set(rows[0]):
        raise ValueError(f"it is neither JSON nor a table with the columns {', '.join(wanted)}")
    for name in ("study", "rater"):
        if len({row[name] for row in rows}) > 1:
            raise ValueError(f"it holds more than one {name}; give every person's answers a file of their own")
    pairs = [int(row["pair"]) if (row["pair"] or "").isdecimal() else row["pair"] for row in rows]
    return _answers(rows[0]["study"], rows[0]["rater"],
                    [(pair, row["choice"]) for pair, row in zip(pairs, rows, strict=True)])


def _answers(study: object, rater: object, entries: Sequence[tuple[object, object]]) -> Answers:
    if not isinstance(study, str):
        raise ValueError(f"its study is {_short(study)}, and no name")
    choices: dict[int, str] = {}
    for pair, choice in entries:
        if not isinstance(pair, int) or isinstance(pair, bool) or pair < 1:
            raise ValueError(f"it answers pair {_short(pair)}; pairs are counted from 1")
        if choice not in (LEFT, RIGHT, NEITHER):
            raise ValueError(f"its choice for pair {pair} is {_short(choice)}; it must be left, right or none")
        if pair in choices:
            raise ValueError(f"it answers pair {pair} twice")
        choices[pair] = choice
    name = "".join(letter for letter in str(rater or "") if letter.isprintable()).strip()
    return Answers(study, name[:NAME_LENGTH] or "anonymous", choices)


def _json(text: str, form: str) -> dict:
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(described, dict) or described.get("format") != form:
        raise ValueError(f"it is JSON, but not marked {form}")
    return described


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
