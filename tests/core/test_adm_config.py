"""What an ADM checkpoint is: derived numbers, JSON, and refusals that name the value."""

from __future__ import annotations

import json

import pytest

from sag_core.adm.config import ADMConfig

SMALL = {"model_channels": 64, "channel_mult": (0.5, 1, 4), "num_res_blocks": 1, "attention_downsamples": (2, 4),
         "head_channels": 32}


def test_derived_numbers_by_hand():
    config = ADMConfig(**SMALL)
    assert [config.width(level) for level in range(3)] == [32, 64, 256]
    assert [config.heads(channels) for channels in (32, 64, 256)] == [1, 2, 8]
    assert [ADMConfig(**SMALL, num_heads=4).heads(channels) for channels in (32, 64, 256)] == [4, 4, 4]
    assert config.downsampling == 4
    assert config.out_channels == 6 and ADMConfig(**SMALL, learn_sigma=False).out_channels == 3


@pytest.mark.parametrize("fields", [
    {}, {"num_classes": 9, "null_label": 8}, {"noise_schedule": "cosine", "timesteps": 4000}, {"learn_sigma": False}])
def test_json_round_trip(fields):
    config = ADMConfig(**SMALL, **fields)
    assert ADMConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["channel_mult"] == [0.5, 1, 4]


@pytest.mark.parametrize(("fields", "named"), [
    ({"model_channels": 0}, "model_channels is 0"),
    ({"num_res_blocks": 0}, "num_res_blocks is 0"),
    ({"in_channels": 0}, "in_channels is 0"),
    ({"image_size": -1}, "image_size is -1"),
    ({"timesteps": 0}, "timesteps is 0"),
    ({"channel_mult": ()}, r"channel_mult is \(\)"),
    ({"channel_mult": (float("inf"),)}, "channel_mult is"),
    ({"channel_mult": (1,) * 9}, "channel_mult is"),
    ({"num_res_blocks": 10 ** 9}, "num_res_blocks is 1000000000"),
    ({"timesteps": 10 ** 12}, "timesteps is 1000000000000"),
    ({"num_classes": 2.5}, "num_classes is 2.5"),
    ({"timestep_scale": 0.0}, "timestep_scale is 0.0"),
    ({"norm_groups": 5}, "a level of 32 channels cannot be split into 5 norm_groups"),
    ({"norm_eps": 0.0}, "norm_eps is 0.0"),
    ({"norm_eps": float("nan")}, "norm_eps is nan"),
    ({"embedding_shift": 2}, "embedding_shift is 2"),
    ({"embedding_shift": 1, "model_channels": 2}, "model_channels is 2"),
    ({"noise_schedule": "sigmoid"}, "noise_schedule is 'sigmoid'"),
    ({"null_label": 0}, "null_label is 0; this model has 0 labels"),
    ({"null_label": 9, "num_classes": 9}, "null_label is 9; this model has 9 labels"),
    ({"null_label": -2, "num_classes": 9}, "null_label is -2"),
    ({"head_channels": 48}, "a level of 32 channels .* head_channels 48"),
    ({"num_heads": 3}, "a level of 32 channels .* num_heads 3"),
    ({"head_channels": 0}, "head_channels is 0"),
    ({"num_heads": -4}, "num_heads is -4"),
])
def test_values_out_of_range_are_refused_by_name(fields, named):
    with pytest.raises(ValueError, match=named):
        ADMConfig(**(SMALL | fields))


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", "null", "{}", '{"surprise": 1}', ADMConfig(**SMALL).to_json()[:-1]])
def test_json_that_is_no_configuration_is_refused(text):
    with pytest.raises(ValueError):
        ADMConfig.from_json(text)


@pytest.mark.parametrize(("field", "value"), [
    ("model_channels", "64"), ("channel_mult", 3), ("channel_mult", ["a"]), ("head_channels", 0), ("timesteps", None)])
def test_json_with_a_value_of_the_wrong_kind_is_refused(field, value):
    with pytest.raises(ValueError):
        ADMConfig.from_json(json.dumps(SMALL | {field: value}))
