"""Masks, and images beside the prompt; on a U-Net and on a transformer."""

from __future__ import annotations

from dataclasses import replace

import comfy.clip_vision
import comfy.supported_models as supported
import torch
from torch.testing import assert_close

from tests.host import models
from tests.host.features import FAMILIES, ORDERS, Case, Row, check, combine, follow, node, random
from tests.host.graph import call, guide
from tests.host.models import Tiny


def latent(tiny: Tiny, soft: bool = False) -> dict:
    """An image with a hole, or with one that has soft edges."""
    hole = torch.zeros(1, 64, 96)
    hole[:, 16:48, 32:80] = 1
    if soft:
        hole = torch.linspace(0, 1, 96).expand(1, 64, 96)
    return call("SetLatentNoiseMask", samples={"samples": random(*tiny.latent.shape)}, mask=hole)[0]


def test_inpainting():
    row = Row("inpainting", "SetLatentNoiseMask")
    for family, build in FAMILIES.items():
        tiny = build()
        image = latent(tiny)
        run = check(Case(tiny, {"latent": image}, {"latent": {"samples": image["samples"]}}))
        kept = torch.ones(8, 12, dtype=torch.bool)
        kept[2:6, 4:10] = False
        assert_close(run.out[..., kept], image["samples"][..., kept], rtol=0, atol=1e-3)
        row.add(family, run)
    row.check("what the mask keeps is kept")


def test_differential_diffusion():
    row = Row("Differential Diffusion", "DifferentialDiffusion")
    for family, build in FAMILIES.items():
        tiny = build()
        common, outs = {"latent": latent(tiny, soft=True), "steps": 4}, []
        other = node("DifferentialDiffusion", strength=1.0)
        row.add(family, check(Case(tiny, common=common, model=other(tiny.model))))
        for first in ORDERS:
            run = follow(tiny, *combine(first, tiny.model, other), **common)
            assert run.is_guided
            outs.append(run.out)
        assert torch.equal(*outs)
    row.check("the same in either order")


def test_inpainting_models():
    """Mask and image are channels beside the sample, which are neither blurred nor noised."""
    row = Row("inpainting models", "InpaintModelConditioning")
    flux = FAMILIES["DiT"]()
    config = flux.model.model.model_config.unet_config | {"in_channels": 96}
    fill = replace(flux, model=models.patcher(supported.FluxInpaint, config))
    for family, tiny in (("U-Net", models.inpaint().sized(8, 12)), ("DiT", fill)):
        image = latent(tiny)
        extra = {"concat_latent_image": image["samples"], "concat_mask": image["noise_mask"].reshape(1, 1, 64, 96)}
        inputs = {side: [[cond[0][0], cond[0][1] | extra]] for side, cond in (
            ("positive", tiny.positive), ("negative", tiny.negative))}
        row.add(family, check(Case(tiny, inputs | {"latent": image}, {"latent": {"samples": image["samples"]}})))
    row.check()


def test_instructions():
    tiny = models.ip2p()
    without = {"positive": models.text(1), "negative": models.text(2)}
    row = Row("instruction models (InstructPix2Pix)", "InstructPixToPixConditioning")
    row.add("U-Net", check(Case(tiny, {"positive": tiny.positive, "negative": tiny.negative}, without)))
    row.check()


def test_reference_images():
    """Their tokens are attended to, and are no part of the map."""
    tiny, image = FAMILIES["DiT"](), {"samples": random(1, 16, 6, 10)}
    inputs = {side: call("ReferenceLatent", conditioning=getattr(tiny, side), latent=image)[0]
              for side in ("positive", "negative")}
    run = check(Case(tiny, inputs))
    assert {tuple(step.attn_map.shape) for step in run.steps} == {(1, 4, 6)}
    row = Row("reference images (Kontext)", "ReferenceLatent")
    row.add("DiT", run)
    row.check()


def test_unclip():
    model = models.patcher(supported.SD21UnclipL, models.TWO_LEVELS | {
        "num_classes": "sequential", "adm_in_channels": 1536})
    tiny = Tiny(model, torch.zeros(1, 4, 8, 12), models.text(1), models.text(2))
    image = comfy.clip_vision.Output()
    image["image_embeds"] = random(1, 768)
    (positive,) = call("unCLIPConditioning", conditioning=tiny.positive, clip_vision_output=image, strength=1.0,
                       noise_augmentation=0.1)
    row = Row("unCLIP", "unCLIPConditioning")
    row.add("U-Net", check(Case(tiny, {"positive": positive})))
    row.check()


def test_batches_with_noise_of_their_own():
    row = Row("batches, each image with noise of its own", "LatentFromBatch")
    for family, build in FAMILIES.items():
        tiny = build()
        size = {"samples": torch.zeros(2, *tiny.latent.shape[1:])}
        guided, trace = guide(tiny.model)
        for batch in ([0, 1], [7, 3]):
            run = follow(tiny, guided, trace, latent=size | {"batch_index": batch})
            assert run.is_guided
            row.add(family, run)
            for i, index in enumerate(batch):
                alone = follow(tiny, guided, trace, latent={"samples": tiny.latent, "batch_index": [index]})
                assert_close(run.out[i:i + 1], alone.out, rtol=0, atol=1e-3 * alone.out.abs().max().item())
                for together, single in zip(run.steps, alone.steps, strict=True):
                    assert_close(together.attn_map[i:i + 1], single.attn_map, rtol=1e-3, atol=1e-3)
    row.check("every image is what it is alone")
