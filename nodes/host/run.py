"""One sampling run: what is recorded, guided and told, from its first step to its last.

A run is built when sampling starts and is reachable only from the host's copy of the model's options for that run, so
two graphs, two samplers on one model and two threads never meet in it, and nothing is left when it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...sag_core.corrections import clamp_guided
from ...sag_core.guidance import GuidedStep, Reason, SelfAttentionGuidance
from ...sag_core.schedule import Interval
from ...sag_core.strategies import MaskOptions
from ...sag_core.trace import Recording, Step, fingerprint, levels
from .adm_step import ADM_STEP
from .attention import IN_PARTS, Pass
from .capture import SAG_PASS, Capture
from .conds import Twins, combine, guided_branch, own_copies, sizes
from .evaluation import Evaluation, Kept, MainPass, window_of
from .failures import Failure, attempt
from .layers import choose_layers, default_layer, find_layers
from .pixels import image_range, unclamped
from .process import levels_of, process_of
from .reasons import Missed, tell_some, tell_why
from .request import Request
from .sample import Layout
from .view import Subject, open_view
from .vision import looking_at

T = TypeVar("T")


class Run:
    """A sampling run of a patched model; a context manager that leaves nothing behind."""

    def __init__(self, request: Request, guider, layout: Layout, sigmas: Tensor):
        self.request, self.guider, self.layout = request, guider, layout
        self.recording = Recording(layout.size, request.threshold,
                                   plain=request.settings is None or request.settings.mask.is_plain)
        layers = self._layers()
        self.capture = Capture(layers)
        self.label = ", ".join(layers)
        self.guidance = self._guidance(sigmas.tolist())
        self.evaluation: Evaluation | None = None
        self.heard = False
        """True once a layer ran or a problem was met, so that a run without maps has been explained."""
        self.reasons: Counter[Reason | Missed] = Counter()
        self.last_denoised: Tensor | None = None
        self.twins = Twins()
        latent_format = guider.model_patcher.model.latent_format
        self.view = open_view(Subject(request, self.recording, layout, latent_format, self.label,
                                      max(len(sigmas) - 1, 0), self.note))

    def _layers(self) -> dict[str, str]:
        """The chosen layers; `auto` where the model lost them since the node ran, none where it never had any."""
        layers = find_layers(self.guider.model_patcher.get_model_object("diffusion_model"))
        if not layers:
            kind = type(self.guider.model_patcher.model).__name__
            self.note(f"{kind} has no self-attention that can be recorded; it is sampled without guidance")
            return {}
        try:
            names = choose_layers(self.request.layer, layers)
        except ValueError as error:
            names = [default_layer(layers)]
            self.note(f"{error}; {names[0]} is used instead")
        return {name: layers[name] for name in names}

    def _guidance(self, sigmas: list[float]) -> SelfAttentionGuidance | None:
        settings = self.request.settings
        if settings is None:
            return None
        sampling = self.guider.model_patcher.get_model_object("model_sampling")
        schedule = settings.schedule
        percent = schedule.percent or (settings.start_percent, settings.end_percent)
        interval = schedule.interval or Interval(*map(sampling.percent_to_sigma, percent))
        for name, values in schedule.misfits(len(sigmas) - 1).items():
            self.note(f"{name}_list has {values} values and this run {len(sigmas) - 1} steps; they are spread over all "
                      "steps from noise to image")
        settings = replace(settings, mask=self._seeing(settings.mask))
        return SelfAttentionGuidance(settings, process_of(sampling), interval, sigmas, levels_of(sampling))

    def _seeing(self, mask: MaskOptions) -> MaskOptions:
        """Mask options whose vision model can look at this model's clean predictions; without one, as they are."""
        if mask.strategy != "DINO":
            return mask
        try:
            if len(self.layout.size) == 3 and self.layout.size[0] > 1:
                raise ValueError("a vision model looks at images, not at videos")
            look = looking_at(mask.vision, self.guider.model_patcher.model.latent_format)
        except ValueError as error:
            self.note(f"{error}; the model's own self-attention is used instead")
            return replace(mask, strategy="self-attention")

        def seen(denoised: Tensor) -> Tensor | None:
            try:
                found = look(denoised)
                if not found.isfinite().all():
                    raise ValueError("its attention is not finite (NaN)")
                return found
            except (LookupError, RuntimeError, TypeError, ValueError) as error:
                self.note(f"the vision model failed: {type(error).__name__}: {error}; "
                          "the model's own self-attention is used instead")
                return None

        return replace(mask, vision=seen)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if self.view is not None:
            self.view.close("finished" if kind is None else kind.__name__)
        self.evaluation = self.last_denoised = self.guidance = None

    def install(self, options: dict, place: Callable) -> None:
        """Enter the host's options of a run, which the host throws away after it.

        Args:
            options: model options.
            place: post-CFG function whose place the guidance takes; where it is not there, guidance comes last.
        """
        if not self.capture.layers:
            return
        for kind, wrapper in ((WrappersMP.PREDICT_NOISE, self.predict_noise),
                              (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
                              (WrappersMP.APPLY_MODEL, self.apply_model)):
            comfy.patcher_extension.add_wrapper_with_key(kind, "sag", wrapper, options, is_model_options=True)
        if self.guidance is None:
            return
        chain = options.get("sampler_post_cfg_function", [])
        options["sampler_pre_cfg_function"] = [self.keep_prediction, *options.get("sampler_pre_cfg_function", [])]
        if place not in chain:
            chain = [*chain, place]
        options["sampler_post_cfg_function"] = [
            self.keep_cfg, *(self.guide if function == place else function for function in chain)]

    def watch(self, callback: Callable | None) -> Callable:
        """A sampler callback that remembers the latest clean prediction, which some samplers put out as a LATENT."""
        def watched(step: int, denoised: Tensor, x: Tensor, total_steps: int) -> None:
            self.last_denoised = denoised
            if callback is not None:
                callback(step, denoised, x, total_steps)

        return watched

    def finish(self, samples: Tensor) -> None:
        """Hand the recording over, with what the run put out, so that the trace knows its LATENT."""
        steps = [step.cpu() for step in self.recording.steps]
        outputs = [samples]
        if self.last_denoised is not None:
            outputs.append(self.guider.model_patcher.model.process_latent_out(self.last_denoised.cpu()))
        outputs = [self.layout.picture(output) for output in outputs]
        dtype = comfy.model_management.intermediate_dtype()
        self.recording.results = {fingerprint(t) for output in outputs for t in (output, output.to(dtype))}
        if self.capture.layers and not steps:
            if self.heard:
                self.note("no self-attention was seen in this run, so nothing was recorded or guided")
            else:
                self.note(f"layer {self.label} was not run by this model, so nothing was recorded or guided; choose "
                          "another layer")
        elif self.guidance is not None:
            guided = any(step.guided for step in steps)
            (tell_some if guided else tell_why)(self.note, self.reasons)
        # What is not finite is no map; the live view has shown it, and nothing else could use it.
        self.recording.steps[:] = [step for step in steps if step.attn_map.isfinite().all()]
        if self.guidance is None and len(self.recording.steps) < len(steps):
            self.note("the layer's attention is not finite (NaN) at some steps, which are not kept; choose another "
                      "layer, or run the model in a wider precision")
        self.request.trace.add(self.recording, self.note)

    def note(self, text: str) -> None:
        """Tell the user something, once a run."""
        if text not in self.recording.notes:
            self.recording.notes.append(text)
            self.request.tell(text)

    # -- wrappers, from the outermost call to the innermost --------------------------------------------------------

    def predict_noise(self, executor, x: Tensor, *args, **kwargs) -> Tensor:
        """One evaluation of the guided model."""
        outer, self.evaluation = self.evaluation, Evaluation(x)
        try:
            out = executor(x, *args, **kwargs)
            main = self._record(self.evaluation)
            reason = None if self.guidance is None else self._reason(self.evaluation)
            if reason is not None:
                self.reasons[reason] += 1
            if self.view is not None:
                self.view.show(out, main, reason)
        finally:
            self.evaluation = outer
        return out

    def calc_cond_batch(self, executor, model, conds: list, x: Tensor, sigma: Tensor, model_options: dict) -> list:
        """The first call of an evaluation is the main pass; later ones are other guidances' and SAG's own."""
        options, evaluation = model_options.get("transformer_options", {}), self.evaluation
        if evaluation is None or SAG_PASS in options:  # asked for past the guider, or by this pack
            return executor(model, conds, x, sigma, model_options)
        window = window_of(options, x, evaluation)
        if not evaluation.expects(window):
            return executor(model, conds, x, sigma, model_options)
        if window is None and x.shape != evaluation.x.shape:
            self.heard = True
            self.note(IN_PARTS)
            return executor(model, conds, x, sigma, model_options)
        branch = guided_branch(conds, getattr(self.guider, "conds", {}), sigma)
        if branch is None:
            return executor(model, conds, x, sigma, model_options)
        index, name = branch
        conds = [self.twins.tell_apart(cond) for cond in conds]
        level, kept, limits = float(sigma.max()), None, None
        if evaluation.decision is None and self.guidance is not None:
            evaluation.decision = self.guidance.decide(level)
        if evaluation.guides:
            # Predictions that the host puts together from windows are clamped before anybody sees them.
            limits = image_range(model, options) if window is None else None
            kept = self._attempt(lambda: (
                Kept(x.clone(), sigma.clone(), own_copies(conds[index])) if window is None
                else Kept(evaluation.own_x(), sigma, [])))  # the rest when the host has put the windows together
        self.capture.current = seen = Pass(index, x.shape[0], sizes(conds[index], x))
        try:
            out = executor(model, conds, x, sigma, model_options if limits is None else unclamped(model_options))
        finally:
            self.capture.current = None
        if kept is not None and window is None:
            # What is clamped for others is another tensor already.
            kept = self._attempt(lambda: replace(
                kept, denoised=out[index].clone() if limits is None else out[index], limits=limits))
        self.heard = self.heard or bool(seen.problems or seen.maps)
        for problem in seen.problems:
            self.note(problem)
        attn_map = self._combined(seen, conds[index], x, sigma)
        evaluation.add(MainPass(index, name, level, attn_map, kept, window, seen.observers))
        return out if limits is None else [prediction.clamp(*limits) for prediction in out]

    def _combined(self, seen: Pass, conds: list, x: Tensor, sigma: Tensor) -> Tensor | None:
        """The branch's map of a pass; None where it cannot be had."""
        if seen.in_parts:
            return None
        try:
            return combine(seen.maps, conds, x, sigma)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            self.note(f"the attention maps could not be put together: {error}")
            return None

    def keep_prediction(self, args: dict) -> list:
        """Pre-CFG function, before any other: the branch's prediction that the host has put together from windows."""
        main = None if self.evaluation is None else self._record(self.evaluation)
        if main is not None and main.kept is not None and main.kept.denoised is None:
            conds, out = args["conds"][main.index], args["conds_out"][main.index]
            self.evaluation.keep(self._attempt(lambda: Kept(
                main.kept.x, args["sigma"].clone(), own_copies(conds), out.clone())))
        return args["conds_out"]

    def keep_cfg(self, args: dict) -> Tensor:
        """Post-CFG function, before any other: the result of CFG, where guidance is clamped within it."""
        main = None if self.evaluation is None else self._record(self.evaluation)
        if main is not None and main.kept is not None and main.kept.limits is not None:
            self.evaluation.cfg = self._attempt(args["denoised"].clone)
        return args["denoised"]

    def apply_model(self, executor, x: Tensor, t: Tensor, c_concat=None, c_crossattn=None, control=None,
                    transformer_options: dict | None = None, **kwargs) -> Tensor:
        """One call of the network; the main pass may take several."""
        options = transformer_options or {}
        current = self.capture.current
        if current is not None and tuple(x.shape[2:]) in current.sizes:
            layout = Layout(kwargs.get("latent_shapes") or [x.shape])
            with self.capture.listen(executor.class_obj.diffusion_model, layout.size, kwargs, options) as options:
                return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if current is not None:
            current.refuse_parts()
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def guide(self, args: dict) -> Tensor:
        """Post-CFG function: the graph's result so far, guided."""
        main = None if self.evaluation is None else self._record(self.evaluation)
        if main is None or main.attn_map is None or main.kept is None:
            return args["denoised"]
        guided = self._guided(args, main)
        if not isinstance(guided, GuidedStep):
            self.evaluation.outcome = guided
            return args["denoised"]
        self.evaluation.outcome = None
        mask = None if guided.mask is None or self.recording.plain else levels(guided.mask[:, 0])
        self.recording.steps[-1] = replace(self.recording.steps[-1], guided=True, mask=mask)
        return self.layout.replace(args["denoised"], guided.denoised)

    def _guided(self, args: dict, main: MainPass) -> GuidedStep | Reason | Missed:
        """The guided evaluation, or why there is none; what went wrong the user is told."""
        picture, kept = self.layout.picture, main.kept
        if kept.denoised is None:  # windows, under a guider that asks no pre-CFG function
            kept = Kept(kept.x, args["sigma"], args[main.name], args[f"{main.name}_denoised"])

        def predict(degraded: Tensor) -> Tensor:
            # Its own uuids, so that caching nodes do not take this pass for the one it repeats; its own place among
            # the conds, so that nodes that tell the branches apart see which one it is.
            own = [cond | {"uuid": self.twins.of(cond["uuid"], SAG_PASS)} for cond in kept.conds]
            alone = [None] * main.index + [own]
            degraded_x = self.layout.replace(kept.x, degraded)
            out = comfy.samplers.calc_cond_batch(args["model"], alone, degraded_x, kept.sigma,
                                                 _marked(model_options, main.observers))
            return self.layout.picture(out[main.index])

        model_options = args["model_options"] if kept.limits is None else unclamped(args["model_options"])
        base, denoised, cfg = picture(args["denoised"]), picture(kept.denoised), self.evaluation.cfg
        step = args["model_options"].get("transformer_options", {}).get(ADM_STEP)

        def work() -> GuidedStep | Reason:
            guided = self.guidance(self.evaluation.decision, base, picture(kept.x), denoised, kept.sigma, predict,
                                   clip=kept.limits if step is None else step.clip)
            if not isinstance(guided, GuidedStep) or kept.limits is None:
                return guided
            image = clamp_guided(base, guided.denoised, denoised, base if cfg is None else picture(cfg), kept.limits)
            return replace(guided, denoised=image)

        guided = self._attempt(work)
        if guided is Reason.OVERFLOW or isinstance(guided, GuidedStep) and guided.overflowed:
            self.note("the extra pass gave values that are not finite (NaN), so some steps were not guided; a smaller "
                      "blur_sigma or a wider precision helps")
        return Missed.FAILED if guided is None else guided

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """Returns the result of some of the guidance's own work; None where it fails, which the user is told."""
        result = attempt(work)
        if not isinstance(result, Failure):
            return result
        if result.out_of_memory:
            self.note("the extra pass ran out of memory, so some steps were not guided; a smaller image or batch helps")
        else:
            self.note(f"the extra pass failed, so some steps were not guided: {result.text}")
        return None

    def _record(self, evaluation: Evaluation) -> MainPass | None:
        """The evaluation's main pass, its step added to the trace when it is first asked for."""
        if evaluation.closed:
            return evaluation.main
        main = self._attempt(lambda: evaluation.close(self.layout))
        if main is None:
            return None
        if main.attn_map is not None:
            step = Step(main.sigma, main.attn_map.float(), self.label, main.name, guided=False)
            self.recording.steps.append(step)
            if self.guidance is not None:
                self.guidance.observe(main.attn_map.float())
        elif evaluation.guides:
            self.note("some steps gave no attention map and were not guided")
        return main

    def _reason(self, evaluation: Evaluation) -> Reason | Missed | None:
        """Returns why an evaluation that is over went without guidance; None where it was guided."""
        decision, main = evaluation.decision, evaluation.main
        if self.guidance.settings.scale == 0:
            return Reason.SCALE
        if main is None or main.attn_map is None:
            return Missed.NO_MAP
        if decision.guides and main.kept is None:
            return Missed.FAILED
        return decision.reason if not decision.guides else evaluation.outcome


def _marked(model_options: dict, observers: Mapping[object, Tensor]) -> dict:
    """Model options of the extra pass.

    Some nodes, such as the host's own SAG, own a layer's attention only to see it, and keep that of the last pass they
    see. In this pass their layers attend by themselves, which computes the same.
    """
    options = model_options.get("transformer_options", {}) | {SAG_PASS: True}
    owners = options.get("patches_replace", {}).get("attn1")
    if owners:
        acting = {key: owner for key, owner in owners.items() if not (key in observers and bool(observers[key]))}
        options["patches_replace"] = options["patches_replace"] | {"attn1": acting}
    return model_options | {"transformer_options": options}
