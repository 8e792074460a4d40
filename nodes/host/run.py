"""One sampling run: what is recorded, guided and told, from its first step to its last.

A run is built when sampling starts and is reachable only from the host's copy of the model's options for that run, so
two graphs, two samplers on one model and two threads never meet in it, and nothing is left when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...sag_core.guide import Guide
from ...sag_core.schedule import Interval
from ...sag_core.strategies import MaskOptions
from ...sag_core.trace import Recording, Step, fingerprint, levels
from .adm_step import ADM_STEP
from .attention import IN_PARTS, Pass
from .capture import SAG_PASS, Capture
from .conds import Twins, combine, guided_branch, sizes
from .evaluation import Evaluation, MainPass, window_of
from .layers import choose_layers, default_layer, find_layers
from .process import process_of
from .sample import Layout
from .view import open_view
from .vision import looking_at

if TYPE_CHECKING:
    from .patch import Patch


class Run:
    """A sampling run of a patched model; a context manager that leaves nothing behind."""

    def __init__(self, patch: Patch, guider, layout: Layout, sigmas: Tensor):
        self.patch, self.guider, self.layout = patch, guider, layout
        self.recording = Recording(layout.size, patch.threshold,
                                   plain=patch.settings is None or patch.settings.mask.is_plain)
        layers = self._layers()
        self.capture = Capture(layers)
        self.label = ", ".join(layers)
        self.guidance = self._guidance(sigmas.tolist())
        self.evaluation: Evaluation | None = None
        self.wanted = self.asked = False
        self.last_denoised: Tensor | None = None
        self.twins = Twins()
        self.view = open_view(self, max(len(sigmas) - 1, 0))

    def _layers(self) -> dict[str, str]:
        """The chosen layers; `auto` where the model lost them since the node ran, none where it never had any."""
        layers = find_layers(self.guider.model_patcher.get_model_object("diffusion_model"))
        if not layers:
            kind = type(self.guider.model_patcher.model).__name__
            self.note(f"{kind} has no self-attention that can be recorded; it is sampled without guidance")
            return {}
        try:
            names = choose_layers(self.patch.layer, layers)
        except ValueError as error:
            names = [default_layer(layers)]
            self.note(f"{error}; {names[0]} is used instead")
        return {name: layers[name] for name in names}

    def _guidance(self, sigmas: list[float]) -> Guide | None:
        settings = self.patch.settings
        if settings is None:
            return None
        sampling = self.guider.model_patcher.get_model_object("model_sampling")
        schedule = settings.schedule
        percent = schedule.percent or (settings.start_percent, settings.end_percent)
        interval = schedule.interval or Interval(*map(sampling.percent_to_sigma, percent))
        settings = replace(settings, mask=self._seeing(settings.mask))
        return Guide(settings, process_of(sampling), interval, sigmas)

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
                return look(denoised)
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

    def install(self, options: dict) -> None:
        """Enter the host's options of a run, which the host throws away after it.

        Where a node has kept a place among the post-CFG functions, the guidance takes it; else it comes last.
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
        if self.patch.post_cfg not in chain:
            chain = [*chain, self.patch.post_cfg]
        options["sampler_post_cfg_function"] = [self.guide if f == self.patch.post_cfg else f for f in chain]

    def watch(self, callback: Callable | None) -> Callable:
        """A sampler callback that remembers the latest clean prediction, which some samplers put out as a LATENT."""
        def watched(step: int, denoised: Tensor, x: Tensor, total_steps: int) -> None:
            self.last_denoised = denoised
            if callback is not None:
                callback(step, denoised, x, total_steps)

        return watched

    def finish(self, samples: Tensor) -> None:
        """Hand the recording over, with what the run put out, so that the trace knows its LATENT."""
        self.recording.steps[:] = [step.cpu() for step in self.recording.steps]
        outputs = [samples]
        if self.last_denoised is not None:
            outputs.append(self.guider.model_patcher.model.process_latent_out(self.last_denoised.cpu()))
        outputs = [self.layout.picture(output) for output in outputs]
        dtype = comfy.model_management.intermediate_dtype()
        self.recording.results = {fingerprint(t) for output in outputs for t in (output, output.to(dtype))}
        if self.capture.layers and not self.recording.steps:
            self.note("no self-attention was seen in this run, so nothing was recorded or guided")
        elif self.wanted and not self.asked:
            self.note("no step was guided: nothing asked for the guidance after the model was run")
        elif self.wanted and not any(step.guided for step in self.recording.steps):
            self.note("no step was guided: nowhere was there anything to blur, or it would have changed too little")
        self.patch.trace.add(self.recording, self.note)

    def note(self, text: str) -> None:
        """Tell the user something, once a run."""
        if text not in self.recording.notes:
            self.recording.notes.append(text)
            self.patch.tell(text)

    # -- wrappers, from the outermost call to the innermost --------------------------------------------------------

    def predict_noise(self, executor, x: Tensor, *args, **kwargs) -> Tensor:
        """One evaluation of the guided model."""
        outer, self.evaluation = self.evaluation, Evaluation(x)
        try:
            out = executor(x, *args, **kwargs)
            main = self._record(self.evaluation)
            if self.view is not None:
                self.view.show(out, main)
        finally:
            self.evaluation = outer
        return out

    def calc_cond_batch(self, executor, model, conds: list, x: Tensor, sigma: Tensor, model_options: dict) -> list:
        """The first call of an evaluation is the main pass; later ones are other guidances' and SAG's own."""
        options, evaluation = model_options.get("transformer_options", {}), self.evaluation
        if evaluation is None or SAG_PASS in options:  # asked for past the guider, or by this pack
            return executor(model, conds, x, sigma, model_options)
        window = window_of(options, x, evaluation)
        taken = not evaluation.expects(window)
        if not taken and window is None and x.shape != evaluation.x.shape:
            self.note(IN_PARTS)
            taken = True
        branch = None if taken else guided_branch(conds, getattr(self.guider, "conds", {}), sigma)
        if branch is None:
            return executor(model, conds, x, sigma, model_options)
        index, name = branch
        conds = [self.twins.tell_apart(cond) for cond in conds]
        self.capture.current = seen = Pass(index, x.shape[0], sizes(conds[index], x))
        try:
            out = executor(model, conds, x, sigma, model_options)
        finally:
            self.capture.current = None
        for problem in seen.problems:
            self.note(problem)
        attn_map = None if seen.in_parts else combine(seen.maps, conds[index], x, sigma)
        evaluation.add(MainPass(index, name, conds[index], float(sigma.max()), out[index], attn_map, window))
        return out

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
        if main is None or main.attn_map is None or not self._wants(main):
            return args["denoised"]
        self.asked = True
        x, denoised, conds = self.evaluation.x, main.denoised, main.conds
        if main.window is not None:
            denoised, conds = args[f"{main.name}_denoised"], args[main.name]

        def predict(degraded: Tensor) -> Tensor:
            # Its own uuids, so that caching nodes do not take this pass for the one it repeats; its own place among
            # the conds, so that nodes that tell the branches apart see which one it is.
            own = [cond | {"uuid": self.twins.of(cond["uuid"], SAG_PASS)} for cond in conds]
            alone = [None] * main.index + [own]
            degraded_x = self.layout.replace(x, degraded)
            out = comfy.samplers.calc_cond_batch(args["model"], alone, degraded_x, args["sigma"],
                                                 _marked(args["model_options"]))
            return self.layout.picture(out[main.index])

        picture = self.layout.picture
        step = args["model_options"].get("transformer_options", {}).get(ADM_STEP)
        guided = self.guidance(picture(args["denoised"]), picture(x), picture(denoised), args["sigma"], main.sigma,
                               predict, clip=None if step is None else step.clip)
        if guided is None:
            return args["denoised"]
        mask = None if guided.mask is None or self.recording.plain else levels(guided.mask[:, 0])
        self.recording.steps[-1] = replace(self.recording.steps[-1], guided=True, mask=mask)
        return self.layout.replace(args["denoised"], guided.denoised)

    def _record(self, evaluation: Evaluation) -> MainPass | None:
        """The evaluation's main pass, its step added to the trace when it is first asked for."""
        if evaluation.closed:
            return evaluation.main
        main = evaluation.close(self.layout)
        if main is None:
            return None
        wanted = self._wants(main)
        if main.attn_map is not None:
            step = Step(main.sigma, main.attn_map.float(), self.label, main.name, guided=False)
            self.recording.steps.append(step)
            if self.guidance is not None:
                self.guidance.observe(main.attn_map.float())
            self.wanted = self.wanted or wanted
        elif wanted:
            self.note("some steps gave no attention map and were not guided")
        return main

    def _wants(self, main: MainPass) -> bool:
        return self.guidance is not None and self.guidance.plan(main.sigma) is not None


def _marked(model_options: dict) -> dict:
    """Model options of the extra pass."""
    options = model_options.get("transformer_options", {}) | {SAG_PASS: True}
    owners = options.get("patches_replace", {}).get("attn1")
    if owners:
        # The host's own SAG keeps the attention of whatever pass comes last, and would take its mask from this one.
        # What it puts in the place of the layer's attention computes the same.
        others = {key: owner for key, owner in owners.items()
                  if not getattr(owner, "__qualname__", "").startswith("SelfAttentionGuidance.")}
        options["patches_replace"] = options["patches_replace"] | {"attn1": others}
    return model_options | {"transformer_options": options}
