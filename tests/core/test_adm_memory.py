"""The peak of a pass, from the architecture, by hand."""

from __future__ import annotations

from sag_core.adm.config import ADMConfig
from sag_core.adm.memory import peak_activations


def config(**fields):
    return ADMConfig(**({"model_channels": 64, "channel_mult": (1,), "num_res_blocks": 1, "attention_downsamples": (),
                         "resblock_updown": False} | fields))


def test_two_levels_by_hand():
    """The decoder's first block of full size, in its first convolution: one skip is left, and there are 64 channels of
    what came before, 128 of the input, of its activation and of the convolution's copy of that, 64 of the result."""
    assert peak_activations(config(channel_mult=(1, 1))) == 64 + 64 + 3 * 128 + 64


def test_one_level_by_hand():
    """The middle block's attention, which holds eight times its channels, with both skips."""
    assert peak_activations(config()) == 2 * 64 + 8 * 64


def test_it_grows_with_width_and_not_with_what_lies_deep():
    assert peak_activations(config(model_channels=128)) == 2 * peak_activations(config())
    deep, deeper = config(channel_mult=(1, 1, 1)), config(channel_mult=(1, 1, 1, 1))
    assert peak_activations(deep) == peak_activations(deeper)
    assert peak_activations(config(num_res_blocks=3)) > peak_activations(config(num_res_blocks=2))
