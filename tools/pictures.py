"""The pictures of the help pages and of the example workflows, made by a real ComfyUI: `make pictures`.

Runs in ComfyUI's Python. ARGS names some of them; without, all are made.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence

from PIL import Image

from sag_core.schedule import Curve, Economy, Schedule
from sag_core.trace import AttentionTrace
from tools.figure import bars, chain, columns, enlarge, stack
from tools.graph import Graph, Link, Node
from tools.provision import CHECKOUT, provision, run_command
from tools.quickstart import run_images
from tools.server import ComfyServer
from tools.sheet import GAP, grid, labelled_rows
from training.scenes import SHAPES

HELP = CHECKOUT / "web" / "docs" / "pictures"
EXAMPLES = CHECKOUT / "example_workflows"
MODEL = "shapes32 (embedded)"
# What the examples use: the preset of the embedded model.
SETTINGS = {"scale": 2.0, "blur_sigma": 1.0, "threshold": 1.0, "layer": "input.3"}
STEPS, ENLARGED, JPEG_QUALITY = 25, 4, 80


class Scene(Graph):
    """A graph around the embedded model, that saves its images under names."""

    def __init__(self, seed: int, images: int) -> None:
        super().__init__()
        self.seed = seed
        self.model = self("SAGLoadADM", ckpt_name=MODEL)
        self.no_class = self("SAGClassLabel", label=-1)
        self.latent = self("EmptyChromaRadianceLatentImage", width=32, height=32, batch_size=images)
        self.vae = self("VAELoader", vae_name="pixel_space")

    def guided(self, **inputs: object) -> Node:
        """The model, guided as in the examples but for these inputs."""
        return self("SAGGuidance", model=self.model, **{**SETTINGS, **inputs})

    def sampled(self, model: Node, label: Node | None = None, cfg: float = 1.0) -> Node:
        """The LATENT of a run."""
        return self(
            "KSampler", model=model, positive=label or self.no_class, negative=self.no_class,
            latent_image=self.latent, seed=self.seed, steps=STEPS, cfg=cfg, sampler_name="euler_ancestral",
            scheduler="simple", denoise=1.0)

    def decoded(self, name: str, latent: Node) -> Node:
        """The images of a LATENT, saved under a name."""
        image = self("VAEDecode", samples=latent, vae=self.vae)
        self.save(name, image)
        return image

    def attended(self, name: str, trace: Link, latent: Node, style: str, step: int = -1, **inputs: object) -> Node:
        """What a trace shows, saved under a name."""
        shown = self("SAGMaskPreview", trace=trace, latent=latent, step=step, style=style, **inputs)
        self.save(name, shown)
        return shown


class Studio:
    """Runs scenes on a server; images of the samples' size come back enlarged."""

    def __init__(self, server: ComfyServer, name: str) -> None:
        self.server, self.name = server, name

    def run(self, scene: Graph) -> dict[str, list[Image.Image]]:
        images = run_images(self.server, scene.prompt, self.name)
        return {name: [_fitted(image) for image in some] for name, some in images.items()}

    def trace(self, name: str) -> AttentionTrace:
        """The trace that was saved first under a name."""
        return AttentionTrace.load(self.server.base / "output" / f"{name}_00001_.sag.safetensors")[0]


def guidance(studio: Studio) -> Image.Image:
    """The same seed at several scales."""
    scene, scales = Scene(seed=5, images=3), (0.0, 1.0, 2.0, 4.0)
    for scale in scales:
        scene.decoded(f"scale {scale:g}", scene.sampled(scene.guided(scale=scale)))
    images = studio.run(scene)
    return columns([(f"scale {scale:g}", images[f"scale {scale:g}"]) for scale in scales], across=len(scales))


def sampler(studio: Studio) -> Image.Image:
    """The same guider with a sampler, and with that sampler wrapped."""
    scene = Scene(seed=5, images=4)
    plain = scene("KSamplerSelect", sampler_name="euler_ancestral")
    wrapped = scene("SAGSampler", sampler=plain, **SETTINGS)
    common = {
        "noise": scene("RandomNoise", noise_seed=scene.seed),
        "guider": scene("BasicGuider", model=scene.model, conditioning=scene.no_class),
        "sigmas": scene("BasicScheduler", model=scene.model, scheduler="simple", steps=STEPS, denoise=1.0),
        "latent_image": scene.latent,
    }
    for name, one in (("plain", plain), ("wrapped", wrapped)):
        scene.decoded(name, scene("SamplerCustomAdvanced", sampler=one, **common))
    images = studio.run(scene)
    wrap, parts = "SAG Sampler (wrap)", []
    for name, between in (("plain", []), ("wrapped", [wrap])):
        row = grid(images[name], columns=4)
        parts += [chain(["KSamplerSelect", *between, "SamplerCustomAdvanced"], wrap, row.width), row]
    return stack(parts)


def mask_options(studio: Studio) -> Image.Image:
    """One seed, guided by every strategy and with every kind of edge; below each, what was blurred at one step."""
    scene, step = Scene(seed=4, images=1), STEPS // 2
    left = scene("MaskComposite", destination=scene("SolidMask", value=0.0, width=32, height=32),
                 source=scene("SolidMask", value=1.0, width=16, height=32), x=0, y=0, operation="add")
    shown = {name: {"strategy": name} for name in ("self-attention", "global", "high-frequency", "random", "square",
                                                   "inverse")}
    shown |= {"softness 1": {"softness": 1.0}, "quantile 0.8": {"threshold_as": "quantile", "quantile": 0.8}}
    shown |= {f"mask, {how}": {"mask": left, "combine": how} for how in ("intersect", "unite", "replace")}
    for name, inputs in shown.items():
        options = scene("SAGMaskOptions", **{"strategy": "self-attention", **inputs})
        model = scene.guided(mask_options=options)
        latent = scene.sampled(model)
        scene.decoded(name, latent)
        scene.attended(f"{name} mask", model[1], latent, "mask", step)
    scene.decoded("plain", scene.sampled(scene.model))
    images = studio.run(scene)
    cells = [(name, images[name] + images[f"{name} mask"]) for name in shown]
    return columns([("no guidance", images["plain"]), *cells], across=4)


def schedule(studio: Studio) -> Image.Image:
    """The factor of the scale at every step that was guided, above what came of it."""
    scene = Scene(seed=5, images=2)
    shown = {
        "constant": Schedule(),
        "linear": Schedule(scale=Curve("linear")),
        "cosine to 0.5": Schedule(scale=Curve("cosine", 0.5)),
        "0.2 to 0.8": Schedule(percent=(0.2, 0.8)),
        "list": Schedule(scale=Curve("list", values=tuple(float(step % 6 < 3) for step in range(STEPS)))),
        "every 5": Schedule(economy=Economy(every=5)),
        "every 5, boost 3": Schedule(economy=Economy(every=5, boost=3.0)),
    }
    for name, chosen in shown.items():
        start, end = chosen.percent or (0.0, 1.0)
        node = scene("SAGSchedule", interval="percent" if chosen.percent else "as guidance", start=start, end=end,
                     scale_curve=chosen.scale.shape, scale_end=chosen.scale.end,
                     scale_list=", ".join(f"{value:g}" for value in chosen.scale.values), every=chosen.economy.every,
                     boost=chosen.economy.boost or 0.0)
        model = scene.guided(schedule=node)
        latent = scene.sampled(model)
        scene.decoded(name, latent)
        scene("SAGSaveTrace", trace=model[1], latent=latent, filename_prefix=name)
    scene.decoded("plain", scene.sampled(scene.model))
    images = studio.run(scene)
    factors = {name: _factors(chosen, studio.trace(name)) for name, chosen in shown.items()}
    highest = max(max(values) for values in factors.values())
    size = (images["plain"][0].width, 80)
    cells = [("no guidance", [bars([0.0] * STEPS, size, highest), *images["plain"]])]
    cells += [(name, [bars(factors[name], size, highest), *images[name]]) for name in shown]
    return columns(cells, across=4)


def preset(studio: Studio) -> Image.Image:
    """The same seed without guidance, with the defaults, and with what the preset recommends."""
    scene = Scene(seed=5, images=4)
    recommended = scene("SAGPreset", model=scene.model, preset="auto")
    names = ("scale", "blur_sigma", "threshold", "layer", "blur_kernel")
    models = {
        "no guidance": scene.model,
        "the node's defaults": scene("SAGGuidance", model=scene.model, scale=0.5, blur_sigma=2.0, threshold=1.0),
        "the preset": scene.guided(**{name: recommended[index] for index, name in enumerate(names)}),
    }
    for name, model in models.items():
        scene.decoded(name, scene.sampled(model))
    images = studio.run(scene)
    return labelled_rows([(name, images[name]) for name in models])


def record_attention(studio: Studio) -> Image.Image:
    """What several layers attend to, in the mean over the steps."""
    scene, layers = Scene(seed=3, images=2), ("input.3", "middle.0", "output.0")
    for layer in layers:
        model = scene("SAGRecordAttention", model=scene.model, layer=layer)
        latent = scene.sampled(model)
        scene.attended(layer, model[1], latent, "heatmap")
    scene.decoded("sample", scene.sampled(scene.model))
    images = studio.run(scene)
    return columns([(name, images[name]) for name in ("sample", *layers)], across=4)


def mask_preview(studio: Studio) -> Image.Image:
    """One run in every style."""
    scene = Scene(seed=3, images=1)
    model = scene.guided()
    latent = scene.sampled(model)
    image = scene.decoded("sample", latent)
    styles = ("heatmap", "mask", "overlay", "sheet")
    for style in styles:
        scene.attended(style, model[1], latent, style, image=image)
    images = studio.run(scene)
    (sheet,) = images.pop("sheet")
    row = columns([(name, images[name]) for name in ("sample", *styles[:3])], across=4)
    width = row.width - 2 * GAP
    scaled = sheet.resize((width, round(sheet.height * width / sheet.width)), Image.Resampling.BOX)
    return stack([row, columns([("sheet: every step", [scaled])], across=1)])


def save_trace(studio: Studio) -> Image.Image:
    """Maps of some steps, as they are in the file."""
    scene, steps = Scene(seed=3, images=2), (0, 8, 16, 24)
    model = scene.guided()
    latent = scene.sampled(model)
    for step in steps:
        scene.attended(f"step {step}", model[1], latent, "heatmap", step)
    images = studio.run(scene)
    return columns([(f"step {step}", images[f"step {step}"]) for step in steps], across=4)


def load_trace(studio: Studio) -> Image.Image:
    """A run of another graph, shown from its file."""
    saving = Scene(seed=3, images=2)
    model = saving.guided()
    latent = saving.sampled(model)
    saving("SAGSaveTrace", trace=model[1], latent=latent, filename_prefix="kept")
    saving.decoded("unused", latent)
    studio.run(saving)
    scene = Graph()
    loaded = scene("SAGLoadTrace", trace_name="kept_00001_.sag.safetensors [output]")
    image = scene("VAEDecode", samples=loaded[1], vae=scene("VAELoader", vae_name="pixel_space"))
    scene.save("latent, decoded", image)
    for name, style, step in (("trace, mean", "overlay", -1), ("trace, step 0", "overlay", 0),
                              ("trace, step 24", "overlay", 24)):
        scene.save(name, scene("SAGMaskPreview", trace=loaded, latent=loaded[1], step=step, style=style, image=image))
    return columns(list(studio.run(scene).items()), across=4)


def load_adm(studio: Studio) -> Image.Image:
    """What the embedded model draws."""
    scene = Scene(seed=0, images=8)
    scene.decoded("samples", scene.sampled(scene.model))
    return grid(studio.run(scene)["samples"], columns=4)


def class_label(studio: Studio) -> Image.Image:
    """Samples of every class of the embedded model, with classifier-free guidance."""
    scene = Scene(seed=3, images=2)
    names = [f"{label} {name}" for label, name in enumerate(SHAPES)]
    for label, name in enumerate(names):
        scene.decoded(name, scene.sampled(scene.model, scene("SAGClassLabel", label=label), cfg=2.0))
    return columns(list(studio.run(scene).items()), across=4)


PICTURES: dict[str, Callable[[Studio], Image.Image]] = {
    "SAGGuidance": guidance,
    "SAGSampler": sampler,
    "SAGMaskOptions": mask_options,
    "SAGSchedule": schedule,
    "SAGPreset": preset,
    "SAGRecordAttention": record_attention,
    "SAGMaskPreview": mask_preview,
    "SAGSaveTrace": save_trace,
    "SAGLoadTrace": load_trace,
    "SAGLoadADM": load_adm,
    "SAGClassLabel": class_label,
}

# Rows of what an example saves, by filename prefix, for its thumbnail; where there is one, it needs no label.
EXAMPLE_ROWS: dict[str, Sequence[tuple[str, str]]] = {
    "quickstart": [("", "SAG_quickstart")],
    "inpaint_sag": [("picture", "SAG_inpaint_picture"), ("inpainted", "SAG_inpaint"),
                    ("blurred, only inside the mask", "SAG_inpaint_mask")],
    "schedule_sag": [("samples", "SAG_schedule"), ("attention, step after step", "SAG_schedule_steps")],
    "blur_guidance_or_sag": [("blur guidance", "SAG_blur_guidance"), ("self-attention guidance", "SAG_self_attention")],
    "economical_sag": [("no guidance", "SAG_none"), ("every step", "SAG_every_step"),
                       ("the first fifth of the steps", "SAG_first_fifth")],
}


def thumbnail(studio: Studio) -> Image.Image:
    """The images an example saves, run as it is."""
    prompt = json.loads((EXAMPLES / "api" / f"{studio.name}.json").read_text(encoding="utf-8"))
    images = run_images(studio.server, prompt, studio.name)
    rows = EXAMPLE_ROWS[studio.name]
    if len(rows) == 1:
        return grid(images[rows[0][1]], columns=4)
    across = 4 * images[rows[0][1]][0].width + 3 * GAP
    return labelled_rows([(label, _row(images[prefix], across)) for label, prefix in rows])


def _factors(chosen: Schedule, trace: AttentionTrace) -> list[float]:
    """Of the scale, at every step of a recorded run; 0 where it was not guided."""
    guided = [step.guided for step in trace.recordings[0].steps]
    first, last = guided.index(True), len(guided) - 1 - guided[::-1].index(True)
    return [chosen.scale.factor(step, first, last) * chosen.economy.factor if on else 0.0
            for step, on in enumerate(guided)]


def _row(images: Sequence[Image.Image], width: int) -> list[Image.Image]:
    """The first four images, or the one there is, as wide as they."""
    if len(images) > 1:
        return list(images[:4])
    height = round(images[0].height * width / images[0].width)
    return [images[0].resize((width, height), Image.Resampling.BOX)]


def _fitted(image: Image.Image) -> Image.Image:
    """Samples enlarged, and what is legible already brought to the same size."""
    if image.width != image.height:
        return image
    side = 32 * ENLARGED
    return enlarge(image, ENLARGED) if image.width < side else image.resize((side, side), Image.Resampling.NEAREST)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by way of the `with`, which stops the server
    chosen = sys.argv[1:] or [*PICTURES, *EXAMPLE_ROWS]
    if unknown := set(chosen) - {*PICTURES, *EXAMPLE_ROWS}:
        raise RuntimeError(f"there is no picture {', '.join(sorted(unknown))}; there are "
                           f"{', '.join([*PICTURES, *EXAMPLE_ROWS])}")
    HELP.mkdir(exist_ok=True)
    with ComfyServer(provision()) as server:
        for name in chosen:
            studio = Studio(server, name)
            if name in PICTURES:
                PICTURES[name](studio).save(HELP / f"{name}.png", optimize=True)
            else:
                thumbnail(studio).save(EXAMPLES / f"{name}.jpg", quality=JPEG_QUALITY)
    return 0


if __name__ == "__main__":
    run_command(main)
