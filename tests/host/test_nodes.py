"""The nodes' public interface: shared workflows depend on every name, type, default and range here."""

from __future__ import annotations

import asyncio
import math

import execution
import pytest

import nodes
from tests.host import models
from tests.host.boot import FOLDER
from tests.host.graph import guide

CATEGORY = "advanced/guidance/SAG"
MODEL = ("model", "MODEL", {})
LAYER = ("layer", "STRING", {"default": "auto", "optional": True, "advanced": True})
TRACE, LATENT = ("trace", "SAG_TRACE", {}), ("latent", "LATENT", {})
ADVANCED = {"optional": True, "advanced": True}
SETTINGS = [
    ("scale", "FLOAT", {"default": 0.5, "min": -10, "max": 10}),
    ("blur_sigma", "FLOAT", {"default": 2.0, "min": 0, "max": 100}),
    ("threshold", "FLOAT", {"default": 1.0, "min": 0, "max": 100}),
    LAYER,
    ("start_percent", "FLOAT", {"default": 0.0, "min": 0, "max": 1, **ADVANCED}),
    ("end_percent", "FLOAT", {"default": 1.0, "min": 0, "max": 1, **ADVANCED}),
    ("blur_kernel", "INT", {"default": 0, "min": 0, **ADVANCED}),
    ("mask_options", "SAG_MASK", {"optional": True}),
    ("schedule", "SAG_SCHEDULE", {"optional": True}),
    ("rescale", "FLOAT", {"default": 0.0, "min": 0, "max": 1, **ADVANCED}),
    ("rescale_to", "COMBO", {"default": "cfg", "options": ["cfg", "branch"], **ADVANCED}),
    ("projection", "FLOAT", {"default": 0.0, "min": 0, "max": 1, **ADVANCED}),
]
STEP = ("step", "INT", {"default": -1, "min": -1, **ADVANCED})
VARIED = ["scale", "blur_sigma", "threshold", "layer", "strategy", "blur_kernel", "start_percent", "end_percent",
          "rescale", "projection"]
OUTPUT_NODES = {"SAGSaveTrace", "SAGFrequencyAnalysis", "SAGMaskOverlap", "SAGVisualize", "SAGCompareGrid",
                "SAGABPairs", "SAGABScore"}
# id: (name, inputs, outputs)
CONTRACT = {
    "SAGGuidance": ("Self-Attention Guidance (SAG)", [MODEL, *SETTINGS], ["MODEL", "SAG_TRACE"]),
    "SAGSampler": ("SAG Sampler (wrap)", [("sampler", "SAMPLER", {}), *SETTINGS], ["SAMPLER", "SAG_TRACE"]),
    "SAGMaskOptions": ("SAG Mask Options", [
        ("strategy", "COMBO", {"default": "self-attention", "options": [
            "self-attention", "global", "high-frequency", "random", "square", "inverse", "DINO"]}),
        ("threshold_as", "COMBO", {"default": "absolute", "options": ["absolute", "quantile"], **ADVANCED}),
        ("quantile", "FLOAT", {"default": 0.5, "min": 0, "max": 1, **ADVANCED}),
        ("softness", "FLOAT", {"default": 0.0, "min": 0, **ADVANCED}),
        ("decay", "FLOAT", {"default": 0.0, "min": 0, "max": 0.99, **ADVANCED}),
        ("seed", "INT", {"default": 0, "min": 0, **ADVANCED}),
        ("mask", "MASK", {"optional": True}),
        ("combine", "COMBO", {"default": "intersect", "options": ["replace", "intersect", "unite"], "optional": True}),
        ("clip_vision", "CLIP_VISION", {"optional": True}),
    ], ["SAG_MASK"]),
    "SAGSchedule": ("SAG Schedule", [
        ("interval", "COMBO", {"default": "as guidance", "options": ["as guidance", "percent", "sigma"]}),
        ("start", "FLOAT", {"default": 0.0, "min": 0}),
        ("end", "FLOAT", {"default": 1.0, "min": 0}),
        ("scale_curve", "COMBO", {"default": "constant", "options": ["constant", "linear", "cosine", "list"]}),
        ("scale_end", "FLOAT", {"default": 0.0, **ADVANCED}),
        ("scale_list", "STRING,FLOATS,SIGMAS", ADVANCED),
        ("blur_curve", "COMBO", {"default": "constant", "options": ["constant", "linear", "cosine", "list"],
                                 **ADVANCED}),
        ("blur_end", "FLOAT", {"default": 0.0, "min": 0, **ADVANCED}),
        ("blur_list", "STRING,FLOATS,SIGMAS", ADVANCED),
        ("every", "INT", {"default": 1, "min": 1, "optional": True}),
        ("boost", "FLOAT", {"default": 0.0, "min": 0, **ADVANCED}),
        ("between", "COMBO", {"default": "nothing", "options": ["nothing", "last direction"], **ADVANCED}),
        ("skip_below", "FLOAT", {"default": 0.0, "min": 0, "max": 1, **ADVANCED}),
        ("stop_below", "FLOAT", {"default": 0.0, "min": 0, "max": 1, **ADVANCED}),
    ], ["SAG_SCHEDULE"]),
    "SAGPreset": ("SAG Preset", [MODEL, ("preset", "COMBO", {"default": "auto"})],
                  ["FLOAT", "FLOAT", "FLOAT", "STRING", "INT", "STRING"]),
    "SAGRecordAttention": ("Record Self-Attention", [MODEL, LAYER], ["MODEL", "SAG_TRACE"]),
    "SAGMaskPreview": ("Self-Attention Mask", [
        TRACE, LATENT, ("step", "INT", {"default": -1, "min": -1}),
        ("style", "COMBO", {"options": ["heatmap", "mask", "overlay", "sheet"]}),
        ("image", "IMAGE", {"optional": True}),
    ], ["IMAGE", "MASK"]),
    "SAGSaveTrace": ("Save Attention Trace", [
        TRACE, LATENT, ("filename_prefix", "STRING", {"default": "sag_trace"})], []),
    "SAGLoadTrace": ("Load Attention Trace", [("trace_name", "COMBO", {})], ["SAG_TRACE", "LATENT"]),
    "SAGLoadADM": ("Load ADM / IDDPM Checkpoint", [
        ("ckpt_name", "COMBO", {}),
        ("noise_schedule", "COMBO", {"default": "auto", "options": ["auto", "linear", "cosine"], **ADVANCED}),
        ("timesteps", "INT", {"default": 0, "min": 0, **ADVANCED}),
        ("rescale_timesteps", "COMBO", {"default": "auto", "options": ["auto", "yes", "no"], **ADVANCED}),
        ("num_heads", "INT", {"default": 0, "min": 0, **ADVANCED}),
        ("num_head_channels", "INT", {"default": 0, "min": 0, **ADVANCED}),
        ("attention_order", "COMBO", {
            "default": "auto", "options": ["auto", "heads first", "q, k, v first"], **ADVANCED}),
        ("authors_map", "BOOLEAN", {"default": False, **ADVANCED}),
    ], ["MODEL", "STRING"]),
    "SAGLowResImage": ("Low-Resolution Image", [
        ("conditioning", "CONDITIONING", {}), ("image", "IMAGE", {})], ["CONDITIONING"]),
    "SAGLoadClassifier": ("Load Noisy Classifier", [
        ("classifier_name", "COMBO", {}),
        ("noise_schedule", "COMBO", {"default": "auto", "options": ["auto", "linear", "cosine"], **ADVANCED}),
        ("timesteps", "INT", {"default": 0, "min": 0, **ADVANCED}),
    ], ["SAG_CLASSIFIER", "STRING"]),
    "SAGClassifierGuidance": ("Classifier Guidance", [
        ("classifier", "SAG_CLASSIFIER", {}), ("scale", "FLOAT", {"default": 1.0}),
        ("labels", "COMBO", {"default": "from conditioning", "options": ["from conditioning", "fixed", "random"]}),
        ("label", "INT", {"default": 0, "min": 0}), ("seed", "INT", {"default": 0, "min": 0}),
        ("model", "MODEL", {"optional": True}), ("sampler", "SAMPLER", {"optional": True}),
    ], ["MODEL", "SAMPLER"]),
    "SAGFrequencyAnalysis": ("Attention Frequency Analysis", [
        TRACE, LATENT, ("image", "IMAGE", {}), ("thresholds", "STRING", {"default": "1.0, 1.3"}), STEP,
    ], ["IMAGE", "STRING", "FLOAT"]),
    "SAGMaskOverlap": ("Attention Mask Overlap", [
        TRACE, LATENT, ("mask", "MASK", {}), ("thresholds", "STRING", {"default": "1.0, 1.3"}),
        ("draws", "INT", {"default": 100, "min": 1, **ADVANCED}), ("seed", "INT", {"default": 0, "min": 0, **ADVANCED}),
        STEP,
    ], ["IMAGE", "STRING", "FLOAT", "FLOAT"]),
    "SAGVisualize": ("Visualize Self-Attention", [
        TRACE, LATENT, ("image", "IMAGE", {}),
        ("style", "COMBO", {"options": ["side by side", "film strip", "animation"]}),
        ("threshold", "FLOAT", {"default": 1.0, "min": 0, "max": 100}), ("mask", "MASK", {"optional": True}), STEP,
        ("frames", "INT", {"default": 12, "min": 1, **ADVANCED}), ("fps", "FLOAT", {"default": 4.0, **ADVANCED}),
    ], ["IMAGE"]),
    "SAGCompareGrid": ("SAG Compare Grid", [
        MODEL, ("positive", "CONDITIONING", {}), ("negative", "CONDITIONING", {}), ("latent_image", "LATENT", {}),
        ("vae", "VAE", {}), ("x_setting", "COMBO", {"default": "scale", "options": VARIED}),
        ("x_values", "STRING", {"default": "0, 0.5, 1, 2"}),
        ("y_setting", "COMBO", {"default": "none", "options": ["none", *VARIED]}),
        ("y_values", "STRING", {"default": ""}), ("seed", "INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
        ("steps", "INT", {"default": 20, "min": 1}), ("cfg", "FLOAT", {"default": 8.0, "min": 0, "max": 100}),
        ("sampler_name", "COMBO", {}), ("scheduler", "COMBO", {}),
        ("denoise", "FLOAT", {"default": 1.0, "min": 0, "max": 1}), *SETTINGS,
        ("difference_to", "COMBO", {"default": "unguided", "options": ["unguided", "first cell"], "optional": True}),
        ("cell_size", "INT", {"default": 256, "min": 32, **ADVANCED}),
    ], ["IMAGE", "IMAGE", "IMAGE", "STRING"]),
    "SAGABPairs": ("Export Blinded Pairs", [
        ("plain", "IMAGE", {}), ("guided", "IMAGE", {}), ("filename_prefix", "STRING", {"default": "sag_pairs"}),
        ("seed", "INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
        ("question", "STRING", {"default": "Which image looks better?", "optional": True}),
    ], ["STRING", "STRING"]),
    "SAGABScore": ("Score Blinded Pairs", [
        ("key", "COMBO", {}), ("answers", "COMBO", {"default": "all to this study"}),
    ], ["IMAGE", "STRING", "FLOAT", "FLOAT", "FLOAT"]),
    "SAGClassLabel": ("Class Label", [("label", "INT", {"default": 0, "min": -1})], ["CONDITIONING"]),
}


@pytest.mark.parametrize("node_id", CONTRACT)
def test_schema_is_the_contract(node_id):
    name, inputs, outputs = CONTRACT[node_id]
    schema = nodes.NODE_CLASS_MAPPINGS[node_id].define_schema()
    assert (schema.node_id, schema.display_name, schema.category) == (node_id, name, CATEGORY)
    assert [(i.id, i.get_io_type()) for i in schema.inputs] == [(i, kind) for i, kind, _ in inputs]
    assert [o.get_io_type() for o in schema.outputs] == outputs
    for given, (_, _, expected) in zip(schema.inputs, inputs, strict=True):
        assert {key: getattr(given, key) for key in expected if key != "advanced"} == {
            key: value for key, value in expected.items() if key != "advanced"}
        assert bool(given.optional) == expected.get("optional", False)
        assert bool(given.as_dict().get("advanced")) == expected.get("advanced", False)
        assert given.tooltip
    assert schema.description and (schema.is_output_node is True) == (node_id in OUTPUT_NODES)


@pytest.mark.parametrize("node_id", CONTRACT)
def test_the_interface_that_the_frontend_reads_can_be_built(node_id):
    info = nodes.NODE_CLASS_MAPPINGS[node_id].GET_NODE_INFO_V1()
    assert info["name"] == node_id
    assert info["python_module"] == f"custom_nodes.{FOLDER}"


def test_numbers_can_be_chosen_finely():
    inputs = nodes.NODE_CLASS_MAPPINGS["SAGGuidance"].define_schema().inputs
    assert all(i.step <= 0.01 for i in inputs if i.id in ("scale", "start_percent", "end_percent"))


GOOD = {"scale": 0.5, "blur_sigma": 2.0, "threshold": 1.0}
BAD = [
    ({"scale": math.nan}, "scale is nan"), ({"scale": math.inf}, "scale is inf"), ({"scale": -10.5}, "scale is -10.5"),
    ({"blur_sigma": math.nan}, "blur_sigma is nan"), ({"blur_sigma": -1.0}, "blur_sigma is -1.0"),
    ({"blur_sigma": math.inf}, "blur_sigma is inf"), ({"threshold": math.nan}, "threshold is nan"),
    ({"threshold": 101.0}, "threshold is 101.0"), ({"blur_kernel": 4}, "blur_kernel is 4"),
    ({"blur_kernel": -3}, "blur_kernel is -3"), ({"start_percent": 1.5}, "start_percent is 1.5"),
    ({"end_percent": math.nan}, "end_percent is nan"),
    ({"start_percent": 0.8, "end_percent": 0.2}, "start_percent is 0.8, after end_percent 0.2"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_numbers_are_refused_by_name_when_queued_and_when_run(wrong, message):
    node = nodes.NODE_CLASS_MAPPINGS["SAGGuidance"]
    assert message in node.validate_inputs(**(GOOD | wrong))
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        guide(models.sd15().model, **(GOOD | wrong))


@pytest.mark.parametrize("fine", [
    {}, {"scale": -10.0}, {"scale": 10.0}, {"blur_sigma": 0.0}, {"threshold": 0.0}, {"blur_kernel": 31},
    {"start_percent": 0.5, "end_percent": 0.5}, {"scale": None}, {"blur_sigma": None, "threshold": None},
], ids=str)
def test_good_and_linked_numbers_are_accepted(fine):
    assert nodes.NODE_CLASS_MAPPINGS["SAGGuidance"].validate_inputs(**(GOOD | fine)) is True


def queue(scale=0.5, **changes):
    """What the host itself says to a graph with the node: (accepted, errors)."""
    prompt = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "a", "weight_dtype": "default"}},
              "2": {"class_type": "SAGGuidance", "inputs": {"model": ["1", 0], **GOOD, "scale": scale, **changes}}}
    accepted, errors, _ = asyncio.run(execution.validate_inputs("prompt", prompt, "2", {"1": (True, [], "1")}))
    return accepted, str(errors)


def test_the_host_refuses_a_graph_with_bad_numbers_and_says_why():
    assert queue() == (True, "[]")
    for changes, message in (({"scale": math.nan}, "scale is nan"), ({"blur_kernel": 4}, "blur_kernel is 4"),
                             ({"start_percent": 0.9, "end_percent": 0.1}, "start_percent is 0.9"),
                             ({"scale": 11}, "scale is 11")):
        accepted, errors = queue(**changes)
        assert not accepted and message in errors


def test_the_input_model_is_not_changed_and_every_call_gives_its_own_trace():
    tiny = models.sd15()
    first, first_trace = guide(tiny.model)
    second, second_trace = guide(tiny.model)
    assert first is not tiny.model and first is not second and first_trace is not second_trace
    assert first.model is tiny.model.model
    assert "sampler_post_cfg_function" not in tiny.model.model_options


def test_nodes_do_not_take_the_ids_of_the_hosts_own():
    ours = {name for name, node in nodes.NODE_CLASS_MAPPINGS.items()
            if getattr(node, "RELATIVE_PYTHON_MODULE", "") == f"custom_nodes.{FOLDER}"}
    assert set(CONTRACT) <= ours and all(name.startswith("SAG") for name in ours)
    assert "SelfAttentionGuidance" in nodes.NODE_CLASS_MAPPINGS
