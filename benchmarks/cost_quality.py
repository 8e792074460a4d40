"""What saving steps costs in quality, on the embedded model: `make bench-quality`. Resumes where it was stopped.

Every setting draws the same seeds without labels. Quality is the Frechet distance to fresh scenes in the features of a
small classifier of them; it is taken for each set of seeds, and its band is the bootstrap's over all samples.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.features import FEATURES, scene_net
from benchmarks.host import call, environment, first_option, running
from benchmarks.metrics.frechet import Moments, frechet_distance
from benchmarks.plot import Point, scatter
from benchmarks.progress import say
from benchmarks.report import write
from training.scenes import draw

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "output" / "cost_quality"
STEPS, BATCH, SAMPLER = 20, 64, "ddim"
# Of a few that were tried on other seeds, the scale at which this sampler gains most; twice as much does harm.
BASE = {"scale": 4.0, "blur_sigma": 1.0, "threshold": 1.0}


@dataclass(frozen=True)
class Setting:
    """A way to guide.

    Args:
        title: for people.
        guided: whether at all.
        inputs: of SAGGuidance, where they are not those of `BASE`.
        schedule: inputs of SAGSchedule.
    """

    title: str
    guided: bool = True
    inputs: dict = field(default_factory=dict)
    schedule: dict = field(default_factory=dict)


def _part(start: float, end: float, **more) -> dict:
    return {"interval": "percent", "start": start, "end": end, **more}


NONE, FULL = "none", "full"
SETTINGS = {
    NONE: Setting("no guidance", guided=False),
    FULL: Setting("SAG, every step"),
    "every 2": Setting("every 2nd step, scale x 2", schedule={"every": 2}),
    "every 5": Setting("every 5th step, scale x 5", schedule={"every": 5}),
    "every 5 half": Setting("every 5th step, scale x 2.5", schedule={"every": 5, "boost": 2.5}),
    "every 5 reuse": Setting("every 5th step, direction reused", schedule={"every": 5, "between": "last direction"}),
    "first fifth": Setting("first fifth of the steps", schedule=_part(0.0, 0.18)),
    "middle fifth": Setting("middle fifth of the steps", schedule=_part(0.41, 0.59)),
    "last fifth": Setting("last fifth of the steps", schedule=_part(0.81, 1.0)),
}


def features_of(setting: Setting, seeds: int, net, model) -> tuple[Tensor, int]:
    """Features of the samples of one set of seeds, and the calls of the network that they took."""
    if setting.guided:
        schedule = {"interval": "as guidance", "start": 0.0, "end": 1.0, "scale_curve": "constant", **setting.schedule}
        (schedule,) = call("SAGSchedule", **schedule)
        model, _ = call("SAGGuidance", model=model, schedule=schedule, **(BASE | setting.inputs))
    (label,) = call("SAGClassLabel", label=-1)
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    hook = model.model.diffusion_model.register_forward_hook(count)
    try:
        with torch.inference_mode():
            (latent,) = call("KSampler", model=model, seed=seeds, steps=STEPS, cfg=1.0, sampler_name=SAMPLER,
                             scheduler="simple", positive=label, negative=label, denoise=1.0,
                             latent_image={"samples": torch.zeros(BATCH, 3, 32, 32)})
            return net.features(latent["samples"].float().clamp(-1, 1)).clone(), calls
    finally:
        hook.remove()


def gather(batches: range, say) -> dict[str, dict]:
    """Features [N, 64] and network calls by setting; what earlier runs have drawn is read, not drawn again."""
    net = scene_net(say)
    embedded = call("SAGLoadADM", ckpt_name=first_option("SAGLoadADM"))[0]
    found = {name: {"features": [], "calls": 0} for name in SETTINGS}
    for seeds in batches:  # a set of seeds for every setting, so that stopping early leaves a fair table
        for name, setting in SETTINGS.items():
            path = RESULTS / f"{name.replace(' ', '-')}-{seeds}.json"
            if path.exists():
                kept = json.loads(path.read_text("utf-8"))
            else:
                features, calls = features_of(setting, seeds, net, embedded)
                kept = {"features": features.tolist(), "calls": calls}
                path.write_text(json.dumps(kept), "utf-8")
                say(f"batch {seeds + 1} of {batches.stop}: {setting.title}, {calls} calls")
            found[name]["features"].append(torch.tensor(kept["features"]))
            found[name]["calls"] = kept["calls"]
    return found


def report(found: dict[str, dict], net, resamples: int = 200) -> tuple[str, list[Point]]:
    """The table, and the points of the figure."""
    real = Moments.of(torch.cat([net.features(draw(500, torch.Generator().manual_seed(3_000_000 + i)).image)
                                 for i in range(8)]))
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.cat(kept["features"]) for name, kept in found.items()}
    count = len(drawn[NONE])
    # The same places in every setting: they share their seeds, so differences are surer than values.
    places = [torch.randint(count, (count,), generator=generator) for _ in range(resamples)]
    values = {name: frechet_distance(real, Moments.of(f)) for name, f in drawn.items()}
    spread = {name: torch.tensor([frechet_distance(real, Moments.of(f[at])) for at in places])
              for name, f in drawn.items()}
    extra = {name: found[name]["calls"] / found[NONE]["calls"] - 1 for name in found}
    rows = ["| | extra passes | FID | 90 % band | share of SAG's gain | 90 % band |", "|---|---|---|---|---|---|"]
    points = []
    for name, setting in SETTINGS.items():
        low, high = (spread[name].quantile(q).item() for q in (0.05, 0.95))
        shares = (spread[NONE] - spread[name]) / (spread[NONE] - spread[FULL])
        share = (values[NONE] - values[name]) / (values[NONE] - values[FULL])
        gain = ["-", "-"] if name == NONE else [
            f"{share:.0%}", f"{shares.quantile(0.05):.0%} to {shares.quantile(0.95):.0%}"]
        rows.append(f"| {setting.title} | {extra[name]:.0%} | {values[name]:.3f} | {low:.3f} to {high:.3f} | "
                    f"{gain[0]} | {gain[1]} |")
        points.append(Point(100 * extra[name], values[name], low, high, setting.title))
    fresh = draw(count, torch.Generator().manual_seed(4_000_000)).image
    noise = frechet_distance(real, Moments.of(net.features(fresh)))
    text = (f"{environment('cpu')}\n\n{count} samples of a setting, {STEPS} steps of {SAMPLER}, no labels, "
            f"features {FEATURES}; as many fresh scenes are at {noise:.3f}.\n\n" + "\n".join(rows))
    return text, points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=8, help=f"of {BATCH} samples for every setting")
    parser.add_argument("--first", type=int, default=0, help="leave so many batches out, to look at later ones alone")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md and the figure "
                                                             "beside it")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    with running("cpu"):
        found = gather(range(args.first, args.batches), say)
        text, points = report(found, scene_net(say))
    print(text)
    figure = scatter(points, "extra model passes, % of those without guidance", "FID (lower is better), 90 % bands")
    figure.save(RESULTS / "cost_quality.png")
    if args.write:
        figure.save(HERE / "cost_quality.png")
        write(HERE / "README.md", "quality", f"{text}\n\n![The table as a figure](cost_quality.png)")


if __name__ == "__main__":
    main()
