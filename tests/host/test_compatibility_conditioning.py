"""What rides in the conditioning: regions, control networks, LoRA; on a U-Net and on a transformer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import comfy.cldm.cldm
import comfy.controlnet
import comfy.gligen
import comfy.ldm.flux.controlnet
import comfy.model_patcher
import comfy.ops
import comfy.t2i_adapter.adapter
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from tests.host import models
from tests.host.features import FAMILIES, Case, Row, check, random
from tests.host.graph import call, guide, sample
from tests.host.models import CPU, Tiny

IMAGE = (1, 64, 96, 3)  # whose latent is 8 x 12


def added(first, second):
    return call("ConditioningCombine", conditioning_1=first, conditioning_2=second)[0]


def prompt(tiny, seed=5):
    """Another prompt for a model."""
    return models.text(seed, **tiny.positive[0][1])


# -- regions ---------------------------------------------------------------------------------------------------------


def area(cond):
    return call("ConditioningSetArea", conditioning=cond, width=48, height=32, x=32, y=16, strength=0.8)[0]


def percentage(cond):
    return call("ConditioningSetAreaPercentage", conditioning=cond, width=0.5, height=0.5, x=0.25, y=0.5,
                strength=1.0)[0]


def mask(cond):
    shape = torch.zeros(1, 64, 96)
    shape[:, 16:, 32:80] = 1
    return call("ConditioningSetMask", conditioning=cond, mask=shape, strength=0.6, set_cond_area="default")[0]


def bounds(cond):
    shape = torch.zeros(1, 64, 96)
    shape[:, 16:, 32:80] = 1
    return call("ConditioningSetMask", conditioning=cond, mask=shape, strength=1.0, set_cond_area="mask bounds")[0]


def strength(cond):
    return call("ConditioningSetAreaStrength", conditioning=cond, strength=0.3)[0]


def longer(cond):
    return [[torch.cat([cond[0][0]] * 2, dim=1), cond[0][1]]]


REGIONS = {
    "area": ("ConditioningSetArea", area),
    "area in percent": ("ConditioningSetAreaPercentage", percentage),
    "mask": ("ConditioningSetMask", mask),
    "mask with bounds": ("ConditioningSetMask", bounds),
    "strength": ("ConditioningSetAreaStrength", strength),
    "a longer prompt": ("ConditioningCombine", longer),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regional_prompts(name):
    node_name, restrict = REGIONS[name]
    row = Row(f"regional prompts: {name}", node_name)
    for family, build in FAMILIES.items():
        tiny = build()
        for side in ("negative", "positive"):
            run = check(Case(tiny, {side: added(getattr(tiny, side), restrict(prompt(tiny)))}, {"steps": 1}))
            assert run.branches == {"uncond"}
            row.add(family, run)
    row.check("on either side")


def test_prompts_for_a_part_of_the_sampling():
    row = Row("prompts for a part of the sampling", "ConditioningSetTimestepRange")
    for family, build in FAMILIES.items():
        tiny = build()
        (early,) = call("ConditioningSetTimestepRange", conditioning=tiny.negative, start=0.0, end=0.4)
        (late,) = call("ConditioningSetTimestepRange", conditioning=tiny.positive, start=0.4, end=1.0)
        run = check(Case(tiny, {"negative": early}, {"steps": 4}))
        branches = [step.branch for step in run.steps]
        assert 0 < branches.count("cond") < 4 and branches == sorted(branches, reverse=True)
        row.add(family, run)
        row.add(family, check(Case(tiny, {"positive": added(late, prompt(tiny))}, {"steps": 4})))
    row.check("guides the positive while there is no negative")


# -- control ---------------------------------------------------------------------------------------------------------


def filled(network: nn.Module) -> nn.Module:
    """Random weights; the outputs of control networks are zero as they come."""
    for i, weight in enumerate(network.parameters()):
        weight.data = random(*weight.shape, seed=i) * (max(1, weight[0].numel()) ** -0.5 if weight.ndim else 1)
    return network.eval()


def config_of(tiny: Tiny) -> dict:
    """What a control network takes of its model's configuration."""
    config = copy.deepcopy(tiny.model.model.model_config.unet_config)
    return {name: value for name, value in config.items() if name not in ("out_channels", "dtype")}


def control_net(tiny: Tiny):
    network = comfy.cldm.cldm.ControlNet(**config_of(tiny), hint_channels=3)
    return comfy.controlnet.ControlNet(filled(network), load_device=CPU)


def control_lora(tiny: Tiny):
    own = filled(comfy.cldm.cldm.ControlNet(**config_of(tiny), hint_channels=3)).state_dict()
    shared = tiny.model.model.diffusion_model.state_dict()
    return comfy.controlnet.ControlLora({name: weight for name, weight in own.items() if name not in shared})


def flux_control_net(tiny: Tiny):
    network = comfy.ldm.flux.controlnet.ControlNetFlux(
        **config_of(tiny), out_channels=16, operations=comfy.ops.disable_weight_init, dtype=torch.float32, device=CPU)
    return comfy.controlnet.ControlNet(filled(network), load_device=CPU, extra_conds=["y", "guidance"])


def adapter(tiny: Tiny):
    network = comfy.t2i_adapter.adapter.Adapter([32, 64], nums_rb=2, cin=64 * 3, sk=True, use_conv=False, xl=False)
    return comfy.controlnet.T2IAdapter(filled(network), 3, 8, "nearest-exact", device=CPU)


def two_blocks_a_level() -> Tiny:
    """The U-Net that T2I-Adapters are made for."""
    return models.sd15(num_res_blocks=[2, 2], transformer_depth=[1] * 4, transformer_depth_output=[1] * 6).sized(8, 12)


CONTROL = {
    "ControlNet": {"U-Net": (FAMILIES["U-Net"], control_net), "DiT": (FAMILIES["DiT"], flux_control_net)},
    "Control-LoRA": {"U-Net": (FAMILIES["U-Net"], control_lora)},
    "T2I-Adapter": {"U-Net": (two_blocks_a_level, adapter)},
}


@pytest.mark.parametrize("name", CONTROL)
def test_control(name):
    row = Row(name, "ControlNetApplyAdvanced")
    for family, (build, control) in CONTROL[name].items():
        tiny = build()
        for end in (1.0, 0.5):
            positive, negative = call(
                "ControlNetApplyAdvanced", positive=tiny.positive, negative=tiny.negative, control_net=control(tiny),
                image=random(*IMAGE).sigmoid(), strength=0.8, start_percent=0.0, end_percent=end)
            run = check(Case(tiny, {"positive": positive, "negative": negative}))
            assert run.branches == {"uncond"}
            row.add(family, run)
    row.check()


def test_gligen():
    """On the positive; the host gives the negative an empty one."""
    tiny = FAMILIES["U-Net"]()
    blocks = [m for m in tiny.model.model.diffusion_model.modules() if hasattr(m, "attn1")]
    fusers = [filled(comfy.gligen.GatedSelfAttentionDense(block.attn1.to_q.in_features, 16, 4, 8)) for block in blocks]
    network = comfy.gligen.Gligen(fusers, filled(comfy.gligen.PositionNet(16, 16)), 16)
    model = comfy.model_patcher.ModelPatcher(network, load_device=CPU, offload_device=CPU)
    # What GLIGENTextBoxApply makes of an encoded text and its box, in latent pixels.
    boxes = ("position", model, [(random(1, 16), 4, 6, 1, 2)])
    run = check(Case(tiny, {"positive": [[tiny.positive[0][0], {"gligen": boxes}]]}))
    assert run.branches == {"uncond"}
    row = Row("GLIGEN", "GLIGENTextBoxApply")
    row.add("U-Net", run)
    row.check()


# -- LoRA ------------------------------------------------------------------------------------------------------------

PROJECTIONS = {"U-Net": "middle_block.1.transformer_blocks.0.attn1.to_v", "DiT": "single_blocks.0.linear1"}


@pytest.fixture
def lora() -> Callable[[Tiny, str], str]:
    """Writes a LoRA for a model into the host's folder; its name."""
    def write(tiny: Tiny, family: str) -> str:
        path = PROJECTIONS[family]
        rows, columns = tiny.model.model.diffusion_model.get_submodule(path).weight.shape
        folder = Path(folder_paths.get_folder_paths("loras")[0])
        folder.mkdir(parents=True, exist_ok=True)
        save_file({f"diffusion_model.{path}.lora_up.weight": random(rows, 4, seed=6),
                   f"diffusion_model.{path}.lora_down.weight": 0.1 * random(4, columns, seed=7)},
                  folder / f"{family}.safetensors")
        return f"{family}.safetensors"

    return write


def test_lora(lora):
    row = Row("LoRA", "LoraLoaderModelOnly")
    for family, build in FAMILIES.items():
        tiny = build()
        (model,) = call("LoraLoaderModelOnly", model=tiny.model, lora_name=lora(tiny, family), strength_model=0.7)
        row.add(family, check(Case(tiny, model=model)))
    row.check()


def hooked(cond, hooks):
    return call("ConditioningSetProperties", cond_NEW=cond, strength=1.0, set_cond_area="default", hooks=hooks)[0]


def test_lora_hooks(lora):
    """The extra pass is run with the LoRA of its prompt, as strong as it is at that step."""
    row = Row("LoRA hooks with keyframes", "CreateHookLoraModelOnly, SetHookKeyframes")
    for family, build in FAMILIES.items():
        tiny = build()
        name = lora(tiny, family)
        (hooks,) = call("CreateHookLoraModelOnly", lora_name=name, strength_model=0.7)
        (keyframes,) = call("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
        (keyframes,) = call("CreateHookKeyframe", strength_mult=0.3, start_percent=0.5, prev_hook_kf=keyframes)
        (fading,) = call("SetHookKeyframes", hooks=hooks, hook_kf=keyframes)
        for side in ("positive", "negative"):
            row.add(family, check(Case(tiny, {side: hooked(getattr(tiny, side), fading)}, {"steps": 3})))
        # Without keyframes, on both sides, it is an ordinary LoRA.
        (model,) = call("LoraLoaderModelOnly", model=tiny.model, lora_name=name, strength_model=0.7)
        out = sample(tiny, guide(tiny.model)[0], positive=hooked(tiny.positive, hooks),
                     negative=hooked(tiny.negative, hooks))
        expected = sample(tiny, guide(model)[0])
        assert_close(out, expected, rtol=0, atol=1e-3 * expected.abs().max().item())
    row.check("on either prompt; the extra pass has the strength of its step")
