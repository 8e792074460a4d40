"""Guidance by a classifier of noisy images, put on a MODEL or a SAMPLER.

As with self-attention guidance, a model carries a wrapper around sampling and a place among the post-CFG functions,
which a run fills for itself; nothing of a run is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...sag_core.classifier_guidance import guide_denoised
from ...sag_core.degrade import Process
from .adm import CLASS_LABEL
from .adm_step import ADM_STEP
from .classifier import Classifier
from .failures import Failure, attempt
from .process import process_of
from .request import tell
from .sampler import guider_of

LABELS = ("from conditioning", "fixed", "random")
"""Sources of the wanted class."""


@dataclass(frozen=True, eq=False)
class ClassifierGuidance:
    """Guidance by a classifier, on any number of runs; it keeps nothing of them.

    Args:
        classifier: what tells how likely the wanted class is.
        scale: strength, 0 is off.
        source: where labels come from, one of `LABELS`.
        label: the class where that is "fixed".
        seed: of the classes where they are "random", one for each sample of a batch.
        report: called with every note for the user, once a run.

    Raises:
        ValueError: the classifier has no such label.
    """

    classifier: Classifier
    scale: float
    source: str
    label: int = 0
    seed: int = 0
    report: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if self.source not in LABELS:
            raise ValueError(f"labels is {self.source!r}; it must be one of {', '.join(LABELS)}")
        if self.source == "fixed":
            self._check(self.label)

    def outer_sample(self, executor, noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor, *args,
                     **kwargs) -> Tensor:
        """Wrap a whole sampling run (host: WrappersMP.OUTER_SAMPLE)."""
        guider = executor.class_obj
        labels = self.begin(guider, noise)
        with torch.inference_mode(False):  # where it fails, every step tells
            attempt(lambda: comfy.model_management.load_models_gpu([self.classifier.patcher]))
        self.install(guider.model_options, labels)
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def post_cfg(self, args: dict) -> Tensor:
        """Holds the place of a run's guidance; without a run it changes nothing."""
        return args["denoised"]

    def begin(self, guider, noise: Tensor) -> Tensor:
        """The wanted class of each sample of a run, once it is sure that the classifier can guide it.

        Raises:
            ValueError: model, size or labels are not the classifier's; the message says what is.
        """
        encoder = self.classifier.config.encoder
        if noise.ndim != 4 or noise.shape[1] != encoder.in_channels:
            raise ValueError(f"the model samples latents of shape {list(noise.shape[1:])}; this classifier knows "
                             f"images of {encoder.in_channels} channels. It guides pixel-space models, such as ADM")
        sampling = guider.model_patcher.get_model_object("model_sampling")
        if process_of(sampling) is not Process.VARIANCE_EXPLODING:
            raise ValueError("the model's noisy images are not clean ones plus noise (it is a flow model, or works in "
                             "another scale), and the classifier knows no others. It guides diffusion models, such as "
                             "ADM")
        self.classifier.config.check_size(*noise.shape[2:])
        return self._labels(guider, noise.shape[0])

    def install(self, options: dict, labels: Tensor) -> None:
        """Enter a run's options, at the place kept among the post-CFG functions, or else last."""
        chain = options.get("sampler_post_cfg_function", [])
        if self.post_cfg not in chain:
            chain = [*chain, self.post_cfg]
        own = _Run(self, labels).guide
        options["sampler_post_cfg_function"] = [own if f == self.post_cfg else f for f in chain]

    def _labels(self, guider, rows: int) -> Tensor:
        if self.source == "random":
            generator = torch.Generator().manual_seed(self.seed)
            return torch.randint(self.classifier.config.num_classes, (rows,), generator=generator)
        label = self.label if self.source == "fixed" else _label_of(getattr(guider, "conds", {}))
        self._check(label)
        return torch.full((rows,), label)

    def _check(self, label: int) -> None:
        count = self.classifier.config.num_classes
        if not 0 <= label < count:
            raise ValueError(f"label is {label}; this classifier has labels 0 to {count - 1}")


@dataclass(eq=False)
class _Run:
    """A run that is guided: to these labels, [B]."""

    guidance: ClassifierGuidance
    labels: Tensor
    told: set[str] = field(default_factory=set)

    def guide(self, args: dict) -> Tensor:
        """Post-CFG function: the graph's result so far, guided; the authors' sampler is handed the gradient instead."""
        denoised, sigma, x = args["denoised"], args["sigma"], args["input"]
        classifier, scale = self.guidance.classifier, self.guidance.scale
        if scale == 0:
            return denoised
        sigma = sigma.expand(x.shape[0])
        preserving = x / (1 + sigma ** 2).sqrt().view(-1, 1, 1, 1)
        slope = attempt(lambda: classifier.gradient(preserving, sigma, self.labels, scale))
        if isinstance(slope, Failure):
            if slope.out_of_memory:
                self.note("the classifier ran out of memory, so it did not guide some steps; a smaller batch helps")
            else:
                self.note(f"the classifier failed, so it did not guide some steps: {slope.text}")
            return denoised
        sound = slope.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)
        if not sound.all():
            self.note("the classifier's gradient is not finite (NaN), so it did not guide some steps; a wider "
                      "precision helps")
            slope = torch.where(sound, slope, 0)
        step = args["model_options"].get("transformer_options", {}).get(ADM_STEP)
        if step is None:
            return guide_denoised(denoised, slope, sigma)
        step.add_gradient(slope)
        return denoised

    def note(self, text: str) -> None:
        """Tell the user something, once a run."""
        if text not in self.told:
            self.told.add(text)
            tell(self.guidance.report, text)


def _label_of(conds: Mapping[str, list]) -> int:
    """The one class label of a run's positive conditioning."""
    labels = {cond.get(CLASS_LABEL) for cond in conds.get("positive", [])}
    if len(labels) != 1 or labels <= {None, -1}:
        found = "none" if labels <= {None, -1} else f"several: {sorted(map(str, labels))}"
        raise ValueError(f"the classifier's label is to come from the positive conditioning, which has {found}. "
                         "Connect one Class Label node to it, or set labels to 'fixed'")
    return int(labels.pop())


def guide_model(model, guidance: ClassifierGuidance):
    """A clone of a MODEL that is guided by a classifier."""
    model = model.clone()
    comfy.patcher_extension.add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, "sag_classifier", guidance.outer_sample, model.model_options, is_model_options=True)
    model.set_model_sampler_post_cfg_function(guidance.post_cfg)
    # The host keeps what belongs to a model on the device along with it.
    others = model.get_additional_models_with_key("sag_classifier")
    model.set_additional_models("sag_classifier", [*others, guidance.classifier.patcher])
    return model


@dataclass(frozen=True, eq=False)
class _Guided:
    """A function that samples, guided by a classifier."""

    sampler_function: object
    guidance: ClassifierGuidance

    @property
    def __name__(self) -> str:
        """Name in the host's log."""
        return getattr(self.sampler_function, "__name__", "sampler")

    def __call__(self, model, noise: Tensor, sigmas: Tensor, extra_args: dict, callback=None, disable=None,
                 **options) -> Tensor:
        guider = guider_of(model)
        if guider is None:
            raise ValueError("another node hides the guider from the sampler; put the classifier's guidance on the "
                             "model instead")
        labels = self.guidance.begin(guider, noise)
        with torch.inference_mode(False):  # together, so that neither makes room for the other
            attempt(lambda: comfy.model_management.load_models_gpu(
                [guider.model_patcher, self.guidance.classifier.patcher]))
        model_options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        self.guidance.install(model_options, labels)
        return self.sampler_function(model, noise, sigmas, extra_args=extra_args | {"model_options": model_options},
                                     callback=callback, disable=disable, **options)


def guide_sampler(sampler, guidance: ClassifierGuidance):
    """A SAMPLER that is guided by a classifier, whatever the model.

    Raises:
        ValueError: the sampler does not consist of a function that could be wrapped.
    """
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        raise ValueError(f"the sampler is a {type(sampler).__name__}, which cannot be wrapped; put the classifier's "
                         "guidance on the model instead")
    guided = comfy.samplers.KSAMPLER(_Guided(sampler.sampler_function, guidance), sampler.extra_options,
                                     sampler.inpaint_options)
    guided.max_denoise = sampler.max_denoise  # for the wrapped sampler to say
    return guided


def missing(name: str) -> ExecutionBlocker:
    """Returns a stand-in for an output whose input is not connected: the host tells whoever uses it."""
    return ExecutionBlocker(f"Classifier Guidance has no {name} to give: connect one to its {name} input")
