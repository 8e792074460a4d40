"""The pack's texts in other languages, as the host gives them to the frontend. English is where it is said."""

from __future__ import annotations

import re
from functools import cache

import pytest
from app.custom_node_manager import CustomNodeManager

import nodes
from tests.host.boot import CHECKOUT, FOLDER
from tests.host.said import by_the_server, in_scripts

# A letter that only a text in this language has.
LETTERS = {"ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7a3]", "zh": r"[\u4e00-\u9fff]"}
LANGUAGES = sorted(LETTERS)
SCHEMAS = {name: node.define_schema() for name, node in nodes.NODE_CLASS_MAPPINGS.items()
           if getattr(node, "RELATIVE_PYTHON_MODULE", "") == f"custom_nodes.{FOLDER}"}
SETTINGS = CHECKOUT / "web" / "js" / "settings.js"


def flat(tree: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """The leaves of nested dicts, by their path."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: leaf for name, branch in tree.items() for key, leaf in flat(branch, (*path, name)).items()}


def english(schema) -> dict:
    """A node's texts, where the frontend looks for translations; outputs named as their type are the host's to name."""
    named = {str(index): {"name": output.display_name} for index, output in enumerate(schema.outputs)
             if output.display_name not in (None, output.get_io_type())}
    return {"display_name": schema.display_name, "description": schema.description,
            "inputs": {i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs}, "outputs": named}


ENGLISH = flat({name: english(schema) for name, schema in SCHEMAS.items()})
PROSE = [path for path in ENGLISH if path[-1] in ("description", "tooltip")]


@cache
def translations() -> dict:
    return CustomNodeManager().build_translations()


@cache
def translated(language: str) -> dict:
    return flat(translations()[language]["nodeDefs"])


def sentences(language: str):
    """Pairs of an English text and its translation, with the path to it."""
    return [(path, ENGLISH[path], translated(language)[path]) for path in PROSE if path in translated(language)]


def test_these_are_the_languages():
    assert sorted(translations()) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(language):
    found = translated(language)
    assert {"missing": sorted(ENGLISH.keys() - found), "stale": sorted(found.keys() - ENGLISH)} == {
        "missing": [], "stale": []}


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_in_their_language(language):
    foreign = [(path, text) for path, _, text in sentences(language) if not re.search(LETTERS[language], text)]
    assert foreign == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_can_be_shown(language):
    """The frontend reads braces, bars and at signs as instructions."""
    texts = flat(translations()[language]).items()
    assert [(path, text) for path, text in texts if not text or text != text.strip() or set("{}|@") & set(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_acronyms_and_code_stay_as_they_are(language):
    inputs = {path[2] for path in ENGLISH if path[1] == "inputs"}
    kept = re.compile(r"(?<![\w.])-?\d(?:[\d.,]*\d)?(?![\w.]*_)|\b[A-Z]{2,}\w*\b|\b\w+[_]\w+(?:\.pt)?\b|\bmiddle\.0\b")
    changed = [(path, word) for path, text, other in sentences(language) for word in kept.findall(text)
               if word not in inputs and word not in other]
    assert changed == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_choices_are_called_what_the_widget_calls_them(language):
    """A tooltip that says what a choice means names the choice, which the frontend does not translate."""
    choices = {(name, "inputs", i.id, "tooltip"): i.options for name, schema in SCHEMAS.items() for i in schema.inputs
               if i.get_io_type() == "COMBO"}
    explained = re.compile(r"(?:^|[ (,])([\w, -]+?):")
    lost = [(path, choice) for path, text, other in sentences(language) if path in choices
            for choice in choices[path] if choice in ", ".join(explained.findall(text)).split(", ")
            and choice not in other]
    assert lost == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_other_nodes_and_inputs_are_called_by_their_translated_names(language):
    found = translated(language)
    names = {schema.display_name: {found[name, "display_name"]} for name, schema in SCHEMAS.items()}
    for path in ENGLISH:
        if path[1] == "inputs" and "_" in path[2]:
            names.setdefault(path[2], set()).add(found[path[0], "inputs", path[2], "name"])
    lost = [(path, name) for path, text, other in sentences(language) for name, called in names.items()
            if re.search(rf"\b{re.escape(name)}(?!\w)", text) and not any(one in other for one in called)]
    assert lost == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_said_twice_is_translated_once(language):
    meanings: dict[str, set[str]] = {}
    for _, text, other in sentences(language):
        meanings.setdefault(text, set()).add(other)
    assert [texts for texts in meanings.values() if len(texts) > 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_settings_are_translated(language):
    source = SETTINGS.read_text(encoding="utf-8")
    ids = {name.replace(".", "_") for name in re.findall(r'= "(SAG\.[\w.]+)"', source)}
    groups = {name for pair in re.findall(r'category: \["([^"]+)", "([^"]+)"', source) for name in pair}
    assert ids and groups
    found = translations()[language]
    assert {name: sorted(texts) for name, texts in found["settings"].items()} == {
        name: ["name", "tooltip"] for name in ids}
    assert set(found["settingsCategories"]) == groups
    assert all(re.search(LETTERS[language], text) for text in flat(found["settings"]).values())


@cache
def live(language: str) -> dict:
    """Texts of the live view by their English: `live` those that it puts together, `notes` whole ones."""
    return translations()[language]["SAG"]


def values(text: str) -> list[str]:
    """The names of what varies in a text."""
    return re.findall(r"<(\w+)>", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_the_live_view_is_translated_and_no_other(language):
    nameless = {re.sub(r"<\w+>", "<>", english) for english in live(language)["notes"]}
    assert sorted(live(language)) == ["live", "notes"]
    assert set(live(language)["live"]) == in_scripts("say")
    assert nameless == {re.sub(r"<\w+>", "<>", english) for english in in_scripts("later")} | by_the_server()


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_of_the_live_view_are_in_their_language_and_hold_their_values(language):
    written = LETTERS[language] + (f"|{LETTERS['zh']}" if language == "ja" else "")
    texts = [pair for part in live(language).values() for pair in part.items()]
    assert [text for _, text in texts if not re.search(written, re.sub(r"<\w+>", "", text))] == []
    assert [text for english, text in texts if sorted(values(text)) != sorted(values(english))] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_live_view_calls_inputs_and_settings_by_their_translated_names(language):
    def name(key: str) -> str:
        return translated(language)["SAGGuidance", "inputs", key, "name"]

    texts, groups = live(language), translations()[language]["settingsCategories"]
    assert name("scale") in texts["notes"]["scale is 0"]
    assert name("schedule") in texts["notes"]["left out by the schedule"]
    assert name("layer") in texts["live"]["no layer"]
    assert groups["Live view"] in texts["live"]["Live view is off (Settings, Self-Attention Guidance)."]
    assert groups["Self-Attention Guidance"] == texts["live"]["Self-Attention Guidance"]
