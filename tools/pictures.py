"""The pictures of the help pages, of the example workflows and of the README, made by a real ComfyUI: `make pictures`.

Runs in ComfyUI's Python. ARGS names some of them; without, all are made.
"""

import signal
import sys
from collections.abc import Callable

from PIL import Image

from sag_core.schedule import Curve, Economy, Schedule
from sag_core.trace import AttentionTrace
from tools.figure import bars, chain, columns, stack
from tools.pictures_analysis import (
    ab_pairs,
    ab_score,
    compare_grid,
    frequency_analysis,
    load_trace,
    mask_overlap,
    mask_preview,
    record_attention,
    save_trace,
    visualize,
)
from tools.pictures_live import live_view
from tools.pictures_models import (
    adm_sampler,
    class_label,
    classifier_guidance,
    load_adm,
    load_classifier,
    low_res_image,
)
from tools.provision import CHECKOUT, provision, run_command
from tools.server import ComfyServer
from tools.sheet import grid, labelled_rows
from tools.studio import SETTINGS, STEPS, Scene, Studio
from tools.thumbnails import DIAGRAMS, EXAMPLES, RUNS, diagrammed, photographed

HELP = CHECKOUT / "web" / "docs" / "pictures"
JPEG_QUALITY = 80


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
    "SAGLowResImage": low_res_image,
    "SAGADMSampler": adm_sampler,
    "SAGLoadClassifier": load_classifier,
    "SAGClassifierGuidance": classifier_guidance,
    "SAGVisualize": visualize,
    "SAGFrequencyAnalysis": frequency_analysis,
    "SAGMaskOverlap": mask_overlap,
    "SAGCompareGrid": compare_grid,
    "SAGABPairs": ab_pairs,
    "SAGABScore": ab_score,
}

# Of the README, each into docs/.
README: dict[str, Callable[[ComfyServer], None]] = {"live_view": live_view}


def _factors(chosen: Schedule, trace: AttentionTrace) -> list[float]:
    """Of the scale, at every step of a recorded run; 0 where it was not guided."""
    guided = [step.guided for step in trace.recordings[0].steps]
    first, last = guided.index(True), len(guided) - 1 - guided[::-1].index(True)
    return [chosen.scale.factor(step, first, last) * chosen.economy.factor if on else 0.0
            for step, on in enumerate(guided)]


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by way of the `with`, which stops the server
    known = [*DIAGRAMS, *PICTURES, *RUNS, *README]
    chosen = sys.argv[1:] or known
    if unknown := set(chosen) - set(known):
        raise RuntimeError(f"there is no picture {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    HELP.mkdir(exist_ok=True)
    for name in set(chosen) & set(DIAGRAMS):
        diagrammed(name).save(EXAMPLES / f"{name}.jpg", quality=JPEG_QUALITY)
    if set(chosen) <= set(DIAGRAMS):
        return 0
    with ComfyServer(provision()) as server:
        for name in chosen:
            if name in PICTURES:
                PICTURES[name](Studio(server, name)).save(HELP / f"{name}.png", optimize=True)
            elif name in RUNS:
                photographed(server, name).save(EXAMPLES / f"{name}.jpg", quality=JPEG_QUALITY)
            elif name in README:
                README[name](server)
    return 0


if __name__ == "__main__":
    run_command(main)
