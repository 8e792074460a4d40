"""What guidance costs on the embedded model, beside classifier-free guidance: the paper's cost table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.host import call
from benchmarks.measure import network_calls, peak_memory, ratio, seconds, settled
from benchmarks.paper.draw import SIDE, Artist
from benchmarks.paper.tables import BASE
from benchmarks.report import table

STEPS, MIB = 10, 2 ** 20


@settled()
def cost_table(artist: Artist, repeats: int, say: Callable[[str], None]) -> str:
    """Time, memory and calls of the network for a batch, of every kind of guidance."""
    (label,), (no_label,) = (call("SAGClassLabel", label=value) for value in (0, -1))
    guided = call("SAGGuidance", model=artist.model, **BASE)[0]
    runs = {title: partial(_sample, artist, model, cfg, label, no_label) for title, model, cfg in (
        ("none", artist.model, 1.0), ("CFG", artist.model, 2.0), ("SAG", guided, 1.0), ("CFG + SAG", guided, 2.0))}
    network, rows, peaks = artist.model.model.diffusion_model, {}, {}
    for title, run in runs.items():
        with network_calls(network) as called:
            peaks[title] = peak_memory(run, "cpu")  # warms it up as well
        rows[title] = sum(called) // STEPS
    taken = seconds(runs, repeats, "cpu", say)
    body = [[title, str(rows[title]), f"{1e3 * sorted(taken[title])[repeats // 2] / STEPS:.0f}",
             str(ratio(taken, title, "none")), str(ratio(taken, title, "CFG")), f"{peaks[title] / MIB:.1f}"]
            for title in runs]
    return table(["", "images a step", "ms a step", "time over none", "time over CFG", "peak MiB"], body)


def _sample(artist: Artist, model, cfg: float, label, no_label) -> None:
    with torch.inference_mode():
        call("KSampler", model=model, seed=1, steps=STEPS, cfg=cfg, sampler_name="ddim", scheduler="simple",
             positive=label, negative=no_label, denoise=1.0,
             latent_image={"samples": torch.zeros(artist.batch, 3, SIDE, SIDE)})
