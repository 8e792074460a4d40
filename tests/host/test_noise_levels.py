"""Whatever noise levels a sampler asks the model at, every setting of the guidance is finite and raises nothing."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch

from tests.host import adm, models
from tests.host.graph import call, guide, only
from tests.host.test_schedule_node import listed, schedule

FAMILIES = {"noise prediction": lambda: models.sd15().sized(8, 8), "flow": lambda: models.flux().sized(8, 8),
            "pixels": lambda: adm.loaded("shapes32 (embedded)")}
SETTINGS = {
    "none": {}, "every": {"every": 3}, "every, boosted": {"every": 2, "boost": 1.5},
    "last direction": {"every": 2, "between": "last direction"},
    "last direction for long": {"every": 100, "between": "last direction"},
    "linear": {"scale_curve": "linear", "blur_curve": "linear"}, "cosine": {"scale_curve": "cosine", "every": 2},
    "list": listed("scale", "1, 2, -1"), "skip": {"skip_below": 0.001}, "stop": {"stop_below": 0.001},
    "interval": {"interval": "sigma", "start": 0.5, "end": 0.0, "scale_curve": "linear"},
    "interval of no width": {"interval": "sigma", "start": 0.0, "end": 0.0, "scale_curve": "cosine"},
    "rescaled": {"settings": {"rescale": 1.0, "projection": 1.0}},
    "rescaled to the branch": {"settings": {"rescale": 1.0, "rescale_to": "branch"}, "every": 2},
}
MASKS = [{"strategy": "inverse", "decay": 0.5}, {"strategy": "square", "threshold_as": "quantile"},
         {"strategy": "high-frequency", "softness": 0.5}, {"strategy": "random", "softness": 0.05}]
SETTINGS |= {" ".join(map(str, options.values())): {"mask": options} for options in MASKS}


def runs(high):
    """Noise levels of runs: of no noise, from the highest, rising, the same, repeated."""
    return [[0.0, 0.0, 0.0], [high, 0.0, 0.0], [high, high / 2, 0.0, 0.0, high / 4, 0.0], [0.0, high / 4, high / 2],
            [high / 2] * 4, [high, high, high / 2, high / 2, 0.0], [high / 8, high / 4, high / 2, high * 0.99],
            [1e-8, 1e-12, 0.0], [0.0]]


def asking(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler that asks the model at every noise level, also the last and 0, and goes on by Euler's method."""
    for sigma, following in zip(sigmas, [*sigmas[1:], sigmas[-1]], strict=True):
        denoised = model(x, sigma * x.new_ones(x.shape[0]), **(extra_args or {}))
        assert denoised.isfinite().all()
        x = x + (x - denoised) / max(float(sigma), 0.1) * float(following - sigma) * 0.1
    return x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("inputs", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_is_finite_at_every_noise_level(build, inputs):
    tiny, inputs = build(), dict(inputs)
    settings, mask = inputs.pop("settings", {}), inputs.pop("mask", None)
    if mask is not None:
        settings = settings | {"mask_options": call("SAGMaskOptions", **mask)[0]}
    model, trace = guide(tiny.model, scale=1.0, schedule=schedule(**inputs), **settings)
    sampling = tiny.model.get_model_object("model_sampling")
    highs = {float(sampling.sigma_max), float(getattr(sampling, "training_sigmas", sampling.sigmas)[-1])}
    for high in highs:
        for sigmas in runs(high):
            out = call("SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=3.0, positive=tiny.positive,
                       negative=tiny.negative, sampler=comfy.samplers.KSAMPLER(asking), sigmas=torch.tensor(sigmas),
                       latent_image={"samples": tiny.latent})[0]["samples"]
            # The host divides the result of a flow model by 1 - sigma.
            assert out.isfinite().all() or sigmas[-1] == 1
            assert not any("finite" in note for note in only(trace).notes)
