"""OpenAI's samplers as a SAMPLER of the host, and their respacing as its SIGMAS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_patcher
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.k_diffusion.sampling import default_noise_sampler, trange
from torch import Tensor

from ...sag_core.adm.diffusion import SamplerSettings, Transition, ancestral_step, ddim_step, transitions
from ...sag_core.adm.respacing import space_timesteps
from .adm_step import ADM_STEP, ADMStep
from .request import tell
from .sampler import guider_of


@dataclass(frozen=True, eq=False)
class _Plan:
    """Request of a sampler node for every run.

    Args:
        settings: what the user chose.
        report: called with what the user should know.
        process: noise levels of the respaced process, falling.
    """

    settings: SamplerSettings
    report: Callable[[str], None]
    process: tuple[float, ...]


class _Sampler(comfy.samplers.KSAMPLER):
    def __init__(self, plan: _Plan):
        super().__init__(sample_adm, {"plan": plan})
        self.noisiest = plan.process[0]

    def max_denoise(self, model_wrap, sigmas: Tensor) -> bool:
        """Returns whether the first sample is noise alone: at the first level of the process, the noisiest or not."""
        return super().max_denoise(model_wrap, sigmas) or float(sigmas[0]) >= self.noisiest * (1 - 1e-5)


def adm_sampler(model, settings: SamplerSettings, report: Callable[[str], None]):
    """The SAMPLER, and the SIGMAS of the timesteps it is to take on this model.

    Raises:
        ValueError: the model has no such process, or not so many steps; the message says which.
    """
    levels = _training_levels(model.get_model_object("model_sampling"))
    kept = levels[space_timesteps(len(levels), settings.respacing)].flip(0)
    if settings.start_step >= len(kept):
        raise ValueError(f"start_step is {settings.start_step}; respacing {settings.respacing!r} takes {len(kept)} "
                         f"steps, so it must be below {len(kept)}")
    if settings.variance == "learned" and not _learns_variance(model.model):
        raise ValueError("variance is learned, but this model predicts none; choose auto, large or small")
    sigmas = torch.cat([kept[settings.start_step:], levels.new_zeros(1)])
    return _Sampler(_Plan(settings, report, tuple(kept.tolist()))), sigmas


def sample_adm(model, x: Tensor, sigmas: Tensor, extra_args: dict | None = None, callback: Callable | None = None,
               disable: bool | None = None, noise_sampler: Callable | None = None, *, plan: _Plan) -> Tensor:
    """Ancestral and DDIM sampling as in OpenAI's guided-diffusion; called as k-diffusion's samplers are.

    Noise is k-diffusion's: `noise_sampler(sigma, sigma_next)` once for every step that adds any, by default of a
    generator that is seeded with `extra_args["seed"]`.

    Raises:
        ValueError: the model's noisy sample is not a clean one plus noise, or the noise levels rise.
    """
    settings, args = plan.settings, dict(extra_args or {})
    guider = guider_of(model)
    if guider is None:
        raise ValueError("another node hides the model from the sampler; connect the sampler without that node")
    host_model = guider.inner_model
    if not isinstance(host_model.model_sampling, comfy.model_sampling.EPS):
        raise ValueError(_NOT_DIFFUSION)
    noise_sampler = noise_sampler or default_noise_sampler(x, seed=args.get("seed"))
    seen = ADMStep(x.shape, getattr(host_model, "image_range", None) if settings.clip else None)
    args["model_options"] = _with_step(args.get("model_options", {}), seen)
    variance, mask = _variance(settings, host_model), args.get("denoise_mask")
    run, batch = transitions(sigmas.tolist(), plan.process), x.new_ones(x.shape[0])
    for i in trange(len(run), disable=disable):
        seen.clear()
        denoised = model(x, sigmas[i] * batch, **args)
        if seen.clip is not None:
            denoised = denoised.clamp(*seen.clip)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        if seen.gradient is not None and mask is not None:
            seen.gradient = seen.gradient * mask  # what is kept of an image is not the classifier's to change
        if variance == "learned" and seen.log_variance_fraction is None:
            variance = "large"
            tell(plan.report, "the model's variance was not seen for the whole image at once; the process's own "
                              "(large) is used instead")
        noise = None
        if run[i].sigma_next > 0 and (variance is not None or settings.eta > 0):
            noise = noise_sampler(sigmas[i], sigmas[i + 1])
        x = _advance(x * run[i].alpha_bar ** 0.5, denoised, run[i], seen, settings, variance, noise)
        x = x / run[i].alpha_bar_next ** 0.5
    return x


def _advance(x: Tensor, denoised: Tensor, step: Transition, seen: ADMStep, settings: SamplerSettings,
             variance: str | None, noise: Tensor | None) -> Tensor:
    """The next sample of a variance-preserving one; without a kind of variance by DDIM."""
    if variance is None:
        return ddim_step(x, denoised, step, settings.eta, noise, seen.gradient)
    return ancestral_step(x, denoised, step, step.variance(variance, seen.log_variance_fraction), noise, seen.gradient)


def _variance(settings: SamplerSettings, host_model) -> str | None:
    """The kind of variance of a run's steps; None for DDIM, which has none of the model's."""
    if settings.is_ddim:
        return None
    if settings.variance != "auto":
        return settings.variance
    if _learns_variance(host_model):
        return "learned"
    # Published: DDPM's and IDDPM's pixel models sample with beta, latent diffusion with the posterior's.
    return "small" if getattr(host_model, "image_range", None) is None else "large"


_NOT_DIFFUSION = ("the authors' sampler is for models of a diffusion process (Stable Diffusion, ADM), and this one is "
                  "not, or is a flow model. Use another sampler, with SAG Sampler or Self-Attention Guidance")


def _training_levels(sampling) -> Tensor:
    """Noise levels of all timesteps of the training process, rising.

    Raises:
        ValueError: there is no such process.
    """
    if not (isinstance(sampling, comfy.model_sampling.EPS)
            and isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)):
        raise ValueError(_NOT_DIFFUSION)
    return getattr(sampling, "training_sigmas", sampling.sigmas).cpu()


def _learns_variance(host_model) -> bool:
    config = getattr(host_model, "adm_config", None)
    return config is not None and config.learn_sigma


def _with_step(model_options: dict, step: ADMStep) -> dict:
    """Model options of the run that carry its step, and leave those of other runs as they are."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    options.setdefault("transformer_options", {})[ADM_STEP] = step
    return options
