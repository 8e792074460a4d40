"""Which preset a pixel model has, and that its layer is one of that model's."""

import pytest

from sag_core.adm.config import ADMConfig
from sag_core.adm.published import PUBLISHED
from sag_core.presets import PRESETS, preset_for_adm

EMBEDDED = ADMConfig(model_channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_downsamples=(2, 4),
                     head_channels=32, norm_groups=8, num_classes=9, null_label=8, image_size=32)

@pytest.mark.parametrize("config, name", [
    (EMBEDDED, "embedded model"), (PUBLISHED["ADM ImageNet 64x64"], "ADM 64"),
    (PUBLISHED["ADM ImageNet 128x128"], "ADM 128, with labels"),
    (PUBLISHED["ADM ImageNet or LSUN 256x256"], "ADM 256, without labels"),
    (PUBLISHED["IDDPM CIFAR-10 32x32"], "IDDPM, DDPM"), (PUBLISHED["DDPM CIFAR-10 32x32"], "IDDPM, DDPM")])
def test_a_pixel_model_has_the_preset_of_its_kind(config, name):
    assert preset_for_adm(config) == name


@pytest.mark.parametrize("config", [config for name, config in PUBLISHED.items() if name.startswith("ADM ImageNet")],
                         ids=lambda config: str(config.image_size))
def test_the_papers_layer_is_the_last_of_its_resolution(config):
    """The layer ablation of the paper: the decoder's last self-attention before the resolution changes."""
    block = int(PRESETS[preset_for_adm(config)].layer.removeprefix("output."))
    per_level = config.num_res_blocks + 1
    level = len(config.channel_mult) - 1 - block // per_level
    assert 2 ** level in config.attention_downsamples
    assert block % per_level == config.num_res_blocks


def test_every_published_model_has_a_preset():
    assert {preset_for_adm(config) for config in PUBLISHED.values()} <= set(PRESETS)
