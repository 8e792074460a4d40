"""A blinded study on disk: a folder of pairs with the page that shows them, and the key beside the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..sag_core.preference import ANSWERS_FORMAT, LEFT, Answers, Key, blind, read_answers, read_key, write_key

KEY_SUFFIX = ".key.json"
KEYS = (f"*{KEY_SUFFIX}",)
# Browsers number a second download of the same name: x.answers (1).json
ANSWERS = ("*.answers*.json", "*.answers*.csv")
LARGEST = 16 * 2 ** 20
_PAGE = Path(__file__).with_name("study.html")


def write_study(base: Path, plain: Sequence[Image.Image], guided: Sequence[Image.Image], seed: int,
                question: str) -> Path:
    """Write pairs of images, each in an order drawn at random, into the folder `base`, and their key beside it.

    Args:
        base: a folder that does not exist yet.
        plain, guided: as many of each, of one size.
        seed: of the order.
        question: what people are asked.

    Returns:
        Where the key is.

    Raises:
        FileExistsError: the folder or the key exists.
    """
    sides = blind(len(plain), seed)
    base.mkdir()
    digest = hashlib.blake2b(digest_size=6)
    for pair, (without, with_guidance, side) in enumerate(zip(plain, guided, sides, strict=True), start=1):
        left, right = (with_guidance, without) if side == LEFT else (without, with_guidance)
        for name, picture in (("left", left), ("right", right)):
            picture.save(base / f"{pair:04}_{name}.png")
            digest.update(picture.tobytes())
    study = f"{base.name.strip('_')}-{digest.hexdigest()}"
    told = json.dumps({"study": study, "pairs": len(sides), "question": question, "format": ANSWERS_FORMAT})
    page = _PAGE.read_text("utf-8").replace(">STUDY<", f">{told.replace('<', chr(92) + 'u003c')}<")
    (base / "index.html").write_text(page, "utf-8")
    key = Path(f"{base}{KEY_SUFFIX}")
    with key.open("x", encoding="utf-8") as file:
        file.write(write_key(Key(study, sides)))
    return key


def load_key(path: Path) -> Key:
    """A study's key.

    Raises:
        ValueError: the file is none; the message names it and says why.
    """
    return _loaded(path, "the key of a study", read_key)


def load_answers(path: Path) -> Answers:
    """One person's answers.

    Raises:
        ValueError: the file holds none; the message names it and says why.
    """
    return _loaded(path, "answers to a study", read_answers)


def collect(key: Key, paths: Sequence[Path]) -> tuple[list[Answers], list[str]]:
    """The answers to a study among files of many, each person's once, and what cannot be read.

    Raises:
        ValueError: one person gave two different sets of answers.
    """
    found: dict[str, tuple[Answers, Path]] = {}
    unread = []
    for path in paths:
        try:
            answers = load_answers(path)
        except ValueError as error:
            unread.append(str(error))
            continue
        if answers.study != key.study:
            continue
        before = found.setdefault(answers.rater, (answers, path))
        if before[0] != answers:
            raise ValueError(f"{before[1].name} and {path.name} are different answers of {answers.rater}; keep one, or "
                             "give the two people different names")
    return [answers for answers, _ in found.values()], unread


def _loaded(path: Path, what: str, read):
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has {path.stat().st_size} bytes; {LARGEST} are the most")
        return read(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {what}: {error}") from error
