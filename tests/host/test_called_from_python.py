"""Packs that bundle nodes call others' nodes from Python: without a graph, an executor, a server or inference mode."""

from __future__ import annotations

import asyncio
import inspect

import pytest
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer

from benchmarks.host import pack_module
from tests.host.embedded import load, recorded
from tests.host.graph import call
from tests.host.test_study import answer

NODES = {node.define_schema().node_id: node
         for node in asyncio.run(pack_module("extension").SAGExtension().get_node_list())}
WAYS = {"execute": lambda node, inputs: node.execute(**inputs),
        "FUNCTION": lambda node, inputs: getattr(node(), node.FUNCTION)(**inputs)}
# Of these, what every input is given by itself is not enough, or takes long.
NEEDS_A_MODEL, NEEDS_TWO_IMAGES, SAMPLES = "SAGClassifierGuidance", "SAGABPairs", "SAGCompareGrid"


@pytest.fixture(autouse=True)
def _as_python_does():
    """Out of the mode that the host's executor runs nodes in."""
    with torch.inference_mode(False):
        assert getattr(PromptServer, "instance", None) is None and get_executing_context() is None
        yield


@pytest.fixture(scope="module")
def linked():
    """What can be linked to an input, by its type."""
    with torch.inference_mode(False):
        model, no_class, vae = load()
        run = recorded(images=1, steps=1)
        classifier, _ = call("SAGLoadClassifier", classifier_name="shapes32_classifier (embedded)")
        return {"MODEL": model, "CONDITIONING": no_class, "VAE": vae, "SAG_TRACE": run.trace, "LATENT": run.latent,
                "IMAGE": run.image, "MASK": torch.ones(1, 32, 32), "SAG_CLASSIFIER": classifier,
                "SAMPLER": call("KSamplerSelect", sampler_name="euler")[0]}


@pytest.fixture
def files(linked, output_folder):
    """A file in the host's folders for every node that loads one."""
    image = linked["IMAGE"]
    call("SAGSaveTrace", trace=linked["SAG_TRACE"], latent=linked["LATENT"], filename_prefix="maps")
    _, key = call("SAGABPairs", plain=image, guided=1 - image, filename_prefix="pairs", seed=1)
    answer(output_folder, key, "Ada", lambda pair: "guided")


def inputs_of(node, linked, defaults: bool) -> dict:
    """The required inputs; those with a default in the schema are left out, or given it."""
    inputs = {}
    for one in node.define_schema().inputs:
        if one.optional:
            continue
        default, options = getattr(one, "default", None), getattr(one, "options", None)
        if default is None and options is None:
            inputs[one.id] = linked[one.get_io_type()]  # a new type of input has to be added to `linked`
        elif default is None or defaults:
            inputs[one.id] = options[0] if default is None else default
    name = node.define_schema().node_id
    own = {NEEDS_A_MODEL: {"model": linked["MODEL"]}, NEEDS_TWO_IMAGES: {"guided": 1 - linked["IMAGE"]},
           SAMPLES: {"steps": 1, "x_values": "0, 1"}}
    return inputs | own.get(name, {})


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("defaults", [False, True], ids=["links alone", "required inputs"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NODES)
def test_every_node_runs_when_called_from_python(linked, name, way, defaults):
    node = NODES[name]
    result = WAYS[way](node, inputs_of(node, linked, defaults)).result or ()
    assert len(result) == len(node.define_schema().outputs)


@pytest.mark.parametrize("name", NODES)
def test_what_is_left_out_in_python_is_what_the_graph_shows(name):
    node = NODES[name]
    parameters = inspect.signature(node.execute).parameters
    expected = {one.id: one.as_dict().get("default") for one in node.define_schema().inputs}
    if inspect.Parameter.VAR_KEYWORD in {parameter.kind for parameter in parameters.values()}:
        settings = pack_module("settings").settings_of()
        shared = {one.id for one in pack_module("settings").settings_inputs()} - {"mask_options", "schedule"}
        assert {key: getattr(settings, key) for key in shared} == {key: expected[key] for key in shared}
        expected = {key: value for key, value in expected.items() if key in parameters}
    empty = inspect.Parameter.empty
    found = {key: None if parameters[key].default is empty else parameters[key].default for key in expected}
    first = {one.id: one.options[0] for one in node.define_schema().inputs if getattr(one, "options", None)}
    assert found == {key: first.get(key) if value is None and found[key] is not None else value
                     for key, value in expected.items()}


def test_guidance_added_from_python_guides_and_keeps_its_notes_to_the_log(linked, caplog):
    """Nothing is shown on a node, for there is none; what a user should know is in the log."""
    model, trace = NODES["SAGGuidance"].execute(model=linked["MODEL"], scale=0.5, layer="input.3").result
    call("KSampler", model=model, seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
         positive=linked["CONDITIONING"], negative=linked["CONDITIONING"], latent_image=linked["LATENT"])
    assert [step.guided for step in trace.recordings[-1].steps] == [True]
    assert not [record for record in caplog.records if "SAG" in record.getMessage()]
