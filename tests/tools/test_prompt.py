"""Edits of prompts, on the workflow the quickstart runs."""

import copy
import json

import pytest

from tools.prompt import find_node, links, with_input, without_node
from tools.provision import CHECKOUT

QUICKSTART = json.loads((CHECKOUT / "example_workflows/api/quickstart.json").read_text(encoding="utf-8"))


def chain():
    """loader -> guidance -> (model) sampler -> save; guidance -> (trace) preview -> save."""
    return {
        "loader": {"class_type": "Loader", "inputs": {}},
        "guidance": {"class_type": "Guidance", "inputs": {"scale": 0.5, "model": ["loader", 2]}},
        "sampler": {"class_type": "Sampler", "inputs": {"model": ["guidance", 0], "steps": 4}},
        "save": {"class_type": "Save", "inputs": {"images": ["sampler", 0], "prefix": "a"}},
        "preview": {"class_type": "Preview", "inputs": {"trace": ["guidance", 1], "latent": ["sampler", 0]}},
        "save mask": {"class_type": "Save", "inputs": {"images": ["preview", 0], "prefix": "b"}},
    }


def test_consumers_of_the_model_are_linked_to_its_source_and_dependents_of_the_trace_are_dropped():
    assert without_node(chain(), "guidance", passes={0: "model"}) == {
        "loader": {"class_type": "Loader", "inputs": {}},
        "sampler": {"class_type": "Sampler", "inputs": {"model": ["loader", 2], "steps": 4}},
        "save": {"class_type": "Save", "inputs": {"images": ["sampler", 0], "prefix": "a"}},
    }


def test_with_no_output_passed_everything_downstream_is_dropped():
    assert set(without_node(chain(), "guidance", passes={})) == {"loader"}


def test_taking_out_a_chain_of_two_equals_never_having_had_it():
    twice = chain()
    twice["second"] = {"class_type": "Guidance", "inputs": {"model": ["guidance", 0]}}
    twice["sampler"]["inputs"]["model"] = ["second", 0]
    once = without_node(twice, "second", passes={0: "model"})
    assert once == chain()


def test_the_given_prompt_is_not_changed():
    before = chain()
    kept = copy.deepcopy(before)
    without_node(before, "guidance", passes={0: "model"})
    with_input(before, "sampler", "steps", 9)
    assert before == kept


def test_with_input_changes_one_input_of_one_node():
    expected = chain()
    expected["sampler"]["inputs"]["steps"] = 9
    assert with_input(chain(), "sampler", "steps", 9) == expected


def test_find_node_tells_equal_classes_apart_by_an_input():
    assert find_node(chain(), "Save", prefix="b") == "save mask"


@pytest.mark.parametrize(("class_type", "count"), [("Save", 2), ("Absent", 0)])
def test_find_node_wants_exactly_one(class_type, count):
    with pytest.raises(LookupError, match=f"has {count} {class_type} nodes"):
        find_node(chain(), class_type)


def test_lists_of_numbers_are_values_not_links():
    assert links({"inputs": {"size": [3, 4], "model": ["1", 0], "name": "x"}}) == {"model": ("1", 0)}


def test_the_quickstart_without_guidance_still_samples_and_holds_no_dangling_link():
    plain = without_node(QUICKSTART, find_node(QUICKSTART, "SAGGuidance"), passes={0: "model"})
    assert links(plain[find_node(plain, "KSampler")])["model"] == (find_node(plain, "SAGLoadADM"), 0)
    assert not [node for node in plain.values() if node["class_type"] in ("SAGGuidance", "SAGMaskPreview")]
    assert {source for node in plain.values() for source, _ in links(node).values()} <= set(plain)
