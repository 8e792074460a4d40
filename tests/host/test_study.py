"""A human study from the images to the score: blinded pairs on disk, answers as the page saves them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import nodes
from sag_core.preference import wilson
from tests.host.graph import call

PAIRS = 12
COLOUR = torch.tensor([0.0, 114.0, 178.0]) / 255  # of the first row of a plot


@pytest.fixture
def images():
    """Images without and with guidance, that can be told apart by their brightness."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(PAIRS, 4, 6, 3, generator=generator) / 2
    return plain, plain + 0.5


def export(images, prefix="pairs", seed=1, **inputs):
    return call("SAGABPairs", plain=images[0], guided=images[1], filename_prefix=prefix, seed=seed, **inputs)


def key_of(output_folder, key):
    return json.loads((output_folder / key.removesuffix(" [output]")).read_text())


def page_data(folder):
    page = (folder / "index.html").read_text("utf-8")
    (data,) = re.findall(r'<script type="application/json" id="study">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def answer(output_folder, key, rater, prefer, name=None, kind="json"):
    """Save answers as the page does; `prefer` gives "guided", "plain" or "none" for each pair."""
    known = key_of(output_folder, key)
    other = {"left": "right", "right": "left"}
    choices = [(pair, {"guided": side, "plain": other[side], "none": "none"}[prefer(pair)])
               for pair, side in enumerate(known["guided"], start=1)]
    if kind == "json":
        text = json.dumps({"format": "sag-pairs-answers-1", "study": known["study"], "rater": rater,
                           "answers": [{"pair": pair, "choice": choice} for pair, choice in choices]})
    else:
        text = "study,rater,pair,choice\n" + "".join(
            f'"{known["study"]}","{rater}",{pair},{choice}\n' for pair, choice in choices)
    path = output_folder / (name or f"{rater}.answers.{kind}")
    path.write_text(text, "utf-8")
    return f"{path.name} [output]"


# -- export ----------------------------------------------------------------------------------------------------------


def test_pairs_are_the_images_and_the_key_tells_which_is_which(output_folder, images):
    folder, key = export(images)
    assert folder == str(output_folder / "pairs_00001_") and key == "pairs_00001_.key.json [output]"
    sides = key_of(output_folder, key)["guided"]
    assert len(sides) == PAIRS and set(sides) == {"left", "right"}
    for pair, side in enumerate(sides, start=1):
        for name in ("left", "right"):
            with Image.open(output_folder / "pairs_00001_" / f"{pair:04}_{name}.png") as picture:
                pixels = torch.from_numpy(np.array(picture)) / 255
            assert_close(pixels, images[name == side][pair - 1], rtol=0, atol=0.5 / 255 + 1e-6)


def test_the_folder_does_not_tell_which_is_which(output_folder, images):
    """One set of pairs and the same with the images exchanged differ in nothing but the images."""
    first, _ = export(images, "a")
    folder = output_folder / "a_00001_"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["index.html", *(f"{pair:04}_{side}.png" for pair in range(1, PAIRS + 1) for side in ("left", "right"))])
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert not picture.info
    page = (folder / "index.html").read_text("utf-8")
    data = page_data(folder)
    assert set(data) == {"study", "pairs", "question", "format"} and data["pairs"] == PAIRS
    blank = page.replace(json.dumps(data), "")
    assert "guided" not in blank and "seed" not in page


def test_order_is_the_seeds(output_folder, images):
    one, again, other = (key_of(output_folder, export(images, seed=seed)[1])["guided"] for seed in (1, 1, 2))
    assert one == again != other


def test_nothing_is_overwritten(output_folder, images):
    folders = [export(images)[0] for _ in range(3)]
    assert len(set(folders)) == 3
    before = {path: path.read_bytes() for path in output_folder.rglob("*") if path.is_file()}
    export(images, seed=9)
    assert all(path.read_bytes() == content for path, content in before.items())
    # A key whose folder was moved away still keeps its number.
    (output_folder / "pairs_00004_").rename(output_folder / "moved")
    assert export(images)[0].endswith("pairs_00005_")


def test_a_folder_of_the_output_can_be_named(output_folder, images):
    _, key = export(images, "studies/june")
    assert key == "studies/june_00001_.key.json [output]"
    assert (output_folder / "studies" / "june_00001_" / "index.html").is_file()


@pytest.mark.parametrize("prefix", ["../escape", "a/../../escape"])
def test_the_output_folder_is_not_left(output_folder, images, prefix):
    with pytest.raises(Exception, match="outside the output folder"):
        export(images, prefix)


@pytest.mark.parametrize("question", ["</script><b>?", "Welches Bild ist sch\u00f6ner?", 'a "b" \\ c', "STUDY"])
def test_any_question_can_be_asked(output_folder, images, question):
    export(images, question=question)
    assert page_data(output_folder / "pairs_00001_")["question"] == question


@pytest.mark.parametrize(("change", "message"), [
    (lambda plain, guided: (plain, guided[:3]), "plain holds 12 images of 6 x 4, guided 3 images of 6 x 4"),
    (lambda plain, guided: (plain[:, :2], guided), "plain holds 12 images of 6 x 2, guided 12 images of 6 x 4"),
    (lambda plain, guided: (plain, plain.clone()), "the same images"),
])
def test_pairs_that_are_none_are_refused(output_folder, images, change, message):
    with pytest.raises(ValueError, match=message):
        export(change(*images))
    assert not list(output_folder.iterdir())


# -- score -----------------------------------------------------------------------------------------------------------


def test_answers_are_scored_by_the_key(output_folder, images):
    _, key = export(images)
    answer(output_folder, key, "Ann", lambda pair: "guided" if pair <= 9 else "plain")
    plot, text, share, low, high = call("SAGABScore", key=key)
    assert share == 0.75 and (low, high) == pytest.approx(wilson(9, 12))
    assert "Ann: guided preferred in 9 of 12 answers, 75.0%" in text and "p = 0.15" in text
    assert plot.shape[0] == 1 and ((plot[0] - COLOUR).abs().amax(-1) < 0.01).any()


def test_answers_of_several_people_are_put_together(output_folder, images):
    _, key = export(images)
    answer(output_folder, key, "Ann", lambda pair: "guided" if pair <= 9 else "plain")
    ben = answer(output_folder, key, "Ben", lambda pair: "guided" if pair <= 4 else "none", kind="csv")
    plot, text, share, *_ = call("SAGABScore", key=key, answers="all to this study")
    assert share == 13 / 16
    assert [line.split(":")[0] for line in text.splitlines()[:3]] == ["all", "Ann", "Ben"]
    assert "8 without a preference, 0 not answered" in text
    alone, _, share, *_ = call("SAGABScore", key=key, answers=ben)
    assert share == 1 and alone.shape[1] < plot.shape[1]


def test_answers_to_another_study_do_not_count(output_folder, images):
    _, key = export(images)
    _, other = export((images[0][:3], images[1][:3]), "other")
    answer(output_folder, key, "Ann", lambda pair: "guided")
    others = answer(output_folder, other, "Ben", lambda pair: "plain")
    assert call("SAGABScore", key=key)[2] == 1
    with pytest.raises(ValueError, match="Ben answered study 'other_00001-.*this key is of 'pairs_00001-"):
        call("SAGABScore", key=key, answers=others)


def test_the_same_answers_saved_twice_count_once(output_folder, images):
    _, key = export(images)
    answer(output_folder, key, "Ann", lambda pair: "guided" if pair <= 9 else "plain")
    answer(output_folder, key, "Ann", lambda pair: "guided" if pair <= 9 else "plain", "Ann.answers (1).json")
    answer(output_folder, key, "Ann", lambda pair: "guided" if pair <= 9 else "plain", kind="csv")
    assert "9 of 12" in call("SAGABScore", key=key)[1]
    answer(output_folder, key, "Ann", lambda pair: "plain", "changed.answers.json")
    with pytest.raises(ValueError, match="are different answers of Ann; keep one"):
        call("SAGABScore", key=key)


def test_files_that_cannot_be_read_are_told_and_the_others_count(output_folder, images):
    _, key = export(images)
    answer(output_folder, key, "Ann", lambda pair: "guided")
    (output_folder / "broken.answers.json").write_bytes(b"\xff\xfe\x00")
    (output_folder / "list.answers.csv").write_text("pair\n1\n")
    _, text, share, *_ = call("SAGABScore", key=key)
    assert share == 1 and "not counted: " in text and "broken.answers.json" in text and "list.answers.csv" in text


def test_without_answers_it_says_what_to_do(output_folder, images):
    _, key = export(images)
    with pytest.raises(ValueError, match="there are no answers to study pairs_00001-.*put the files"):
        call("SAGABScore", key=key)
    answer(output_folder, key, "Ann", lambda pair: "none")
    with pytest.raises(ValueError, match="nothing to score"):
        call("SAGABScore", key=key)


def test_files_that_are_no_keys_are_refused_by_name(output_folder, images):
    _, key = export(images)
    (output_folder / "bad.key.json").write_text("{}")
    with pytest.raises(ValueError, match="bad.key.json cannot be read as the key of a study"):
        call("SAGABScore", key="bad.key.json [output]")
    with (output_folder / "huge.key.json").open("wb") as file:
        file.truncate(17 * 2 ** 20)
    with pytest.raises(ValueError, match="huge.key.json .* bytes"):
        call("SAGABScore", key="huge.key.json [output]")


@pytest.mark.parametrize("name", ["../pairs_00001_.key.json [output]", "pairs_00001_.key.json", "/etc/passwd [output]",
                                  "pairs_00001_/0001_left.png [output]", "none.key.json [output]"])
def test_names_outside_the_folders_are_refused(output_folder, images, name):
    export(images)
    node = nodes.NODE_CLASS_MAPPINGS["SAGABScore"]
    assert "neither the output nor the input folder" in node.validate_inputs(key=name)
    with pytest.raises(ValueError, match="neither the output nor the input folder"):
        call("SAGABScore", key=name)
    assert "neither" in node.validate_inputs(key="pairs_00001_.key.json [output]", answers=name)
    assert node.validate_inputs(key="pairs_00001_.key.json [output]", answers="all to this study") is True


def test_new_answers_are_read_again(output_folder, images):
    _, key = export(images)
    node = nodes.NODE_CLASS_MAPPINGS["SAGABScore"]
    seen = [node.fingerprint_inputs(key=key, answers="all to this study")]
    answer(output_folder, key, "Ann", lambda pair: "guided")
    seen.append(node.fingerprint_inputs(key=key, answers="all to this study"))
    assert seen[0] != seen[1] == node.fingerprint_inputs(key=key, answers="all to this study")
