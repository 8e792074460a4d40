"""Pictures for the help pages of the nodes that look, measure and compare."""

import json
from pathlib import Path

from PIL import Image

from sag_core.preference import ANSWERS_FORMAT, read_key
from tools.figure import columns, enlarge, stack
from tools.graph import Graph, Link, Node
from tools.sheet import GAP
from tools.studio import ENLARGED, SETTINGS, STEPS, Scene, Studio

WIDTH = 584
_OTHER = {"left": "right", "right": "left"}
COARSE_LAYER = "output.0"  # of 8 x 8: patches of 4 x 4 pixels, whose spectra can be seen


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


def visualize(studio: Studio) -> Image.Image:
    """Detail and attention beside the images."""
    scene = Scene(seed=3, images=2)
    run = _recorded(scene, SETTINGS["layer"])
    scene.save("shown", scene("SAGVisualize", **run, style="side by side", threshold=1.0))
    return _narrow(studio.run(scene)["shown"][0])


def frequency_analysis(studio: Studio) -> Image.Image:
    """Spectra of patches."""
    scene = Scene(seed=3, images=4)
    run = _recorded(scene, COARSE_LAYER)
    scene.save("shown", scene("SAGFrequencyAnalysis", **run, thresholds="1.0, 1.3"))
    return _narrow(studio.run(scene)["shown"][0])


def mask_overlap(studio: Studio) -> Image.Image:
    """The table for two images of an object that was put where its mask is, and redrawn."""
    scene = Scene(seed=0, images=2)
    colour = {"width": 32, "height": 32, "batch_size": 2}
    mask = scene("MaskComposite", destination=scene("SolidMask", value=0.0, width=32, height=32),
                 source=scene("SolidMask", value=1.0, width=14, height=14), x=12, y=8, operation="add")
    drawn = scene("ImageCompositeMasked", destination=scene("EmptyImage", **colour, color=0x8A7F5C),
                  source=scene("EmptyImage", **colour, color=0x2E6FA8), x=0, y=0, resize_source=False, mask=mask)
    scene.latent = scene("VAEEncode", pixels=drawn, vae=scene.vae)
    run = _recorded(scene, SETTINGS["layer"], denoise=0.5)
    del run["image"]
    scene.save("shown", scene("SAGMaskOverlap", **run, mask=mask, thresholds="1.0, 1.3"))
    return _narrow(studio.run(scene)["shown"][0])


def compare_grid(studio: Studio) -> Image.Image:
    """Scales from left to right, thresholds from top to bottom."""
    scene = Scene(seed=5, images=1)
    scene.save("shown", scene(
        "SAGCompareGrid", model=scene.model, positive=scene.no_class, negative=scene.no_class,
        latent_image=scene.latent, vae=scene.vae, x_setting="scale", x_values="0, 1, 2, 4", y_setting="threshold",
        y_values="0, 1", seed=scene.seed, steps=STEPS, cfg=1.0, sampler_name="euler_ancestral", scheduler="simple",
        denoise=1.0, cell_size=128, **SETTINGS))
    return _narrow(studio.run(scene)["shown"][0])


def ab_pairs(studio: Studio) -> Image.Image:
    """What judges see: pairs, without a word on which is which."""
    folder = _exported(studio)
    files = [(f"pair {pair}, {side}", folder / f"{pair:04}_{side}.png") for pair in (1, 2) for side in _OTHER]
    return columns([(name, [enlarge(Image.open(file).convert("RGB"), ENLARGED)]) for name, file in files], across=4)


def ab_score(studio: Studio) -> Image.Image:
    """The plot of answers that are made up: three people, who choose the guided image in most pairs."""
    folder = _exported(studio, images=12)
    key_file = folder.with_name(f"{folder.name}.key.json")
    key = read_key(key_file.read_text(encoding="utf-8"))
    for rater, misses in (("first", 1), ("second", 3), ("third", 6)):
        answers = [{"pair": pair, "choice": side if pair > misses else _OTHER[side]}
                   for pair, side in enumerate(key.guided, start=1)]
        text = json.dumps({"format": ANSWERS_FORMAT, "study": key.study, "rater": rater, "answers": answers})
        (folder.parent / f"{rater}.answers.json").write_text(text, encoding="utf-8")
    scene = Scene(seed=0, images=1)
    scene.save("shown", scene("SAGABScore", key=f"{key_file.name} [output]", answers="all to this study"))
    return _narrow(studio.run(scene)["shown"][0])


def _recorded(scene: Scene, layer: str, denoise: float = 1.0) -> dict[str, Node | Link]:
    """A run whose attention is recorded, as inputs of what looks at it."""
    record = scene("SAGRecordAttention", model=scene.model, layer=layer)
    latent = scene.sampled(record, denoise=denoise)
    return {"trace": record[1], "latent": latent, "image": scene("VAEDecode", samples=latent, vae=scene.vae)}


def _exported(studio: Studio, images: int = 2) -> Path:
    """The folder of a study of samples without and with guidance."""
    scene = Scene(seed=5, images=images)
    plain, guided = (scene("VAEDecode", samples=scene.sampled(model), vae=scene.vae)
                     for model in (scene.model, scene.guided()))
    scene("SAGABPairs", plain=plain, guided=guided, filename_prefix=studio.name, seed=0)
    studio.run(scene)
    return next(path for path in (studio.server.base / "output").glob(f"{studio.name}*") if path.is_dir())


def _narrow(image: Image.Image) -> Image.Image:
    """As wide as a help page."""
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
