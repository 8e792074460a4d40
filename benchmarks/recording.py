"""One attention call by itself: how it is computed, and what it takes to learn what was attended to.

Queries, keys and values are those of a level of SD 1.5's U-Net at full width, eight heads, for the two rows of a batch
that classifier-free guidance makes. ComfyUI's SAG computes the attention anew and keeps its probabilities; this pack
leaves the call alone and sums the probabilities of the guided row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.measure import Run, Spread, peak_memory, seconds, settled
from sag_core.attention import column_mass, split_heads

HEADS, HEAD_WIDTH, ROWS = 8, 40, 2
ATTENTION, PACK, BUILTIN_CALL = "attention", "pack", "builtin"


@dataclass(frozen=True)
class Recording:
    """What recording costs at one number of tokens.

    Args:
        tokens: queries, and keys.
        taken: milliseconds of the plain attention, with this pack's recording, and as ComfyUI's SAG computes it.
        pack: bytes that this pack's recording allocates at its peak.
        builtin: bytes that ComfyUI's SAG holds at its peak beyond what plain attention does.
    """

    tokens: int
    taken: dict[str, Spread]
    pack: int
    builtin: int

    @property
    def smaller(self) -> float:
        """How many times less memory this pack takes."""
        return self.builtin / self.pack


@settled()
def measure_recording(tokens: int, device: str, repeats: int, say: Callable[[str], None]) -> Recording:
    """Attend to so many tokens in each of the three ways."""
    runs = _runs(tokens, device)
    peaks = {name: peak_memory(run, device) for name, run in runs.items()}  # warms up as well
    # Recording is over before attention begins, so that adding it may leave the peak as it was: count it by itself.
    alone = peak_memory(_runs(tokens, device, attend=False)[PACK], device)
    taken = seconds(runs, repeats, device, say)
    milliseconds = {name: Spread.of([1e3 * value for value in values]) for name, values in taken.items()}
    return Recording(tokens, milliseconds, alone, peaks[BUILTIN_CALL] - peaks[ATTENTION])


def _runs(tokens: int, device: str, attend: bool = True) -> dict[str, Run]:
    from comfy.ldm.modules.attention import optimized_attention
    from comfy_extras.nodes_sag import attention_basic_with_sim

    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.float16
    q, k, v = (torch.randn(ROWS, tokens, HEADS * HEAD_WIDTH, device=device, dtype=dtype) for _ in range(3))

    def attention() -> None:
        optimized_attention(q, k, v, HEADS)

    def pack() -> None:
        column_mass(*(split_heads(t, HEADS)[1:] for t in (q, k)))
        if attend:
            attention()

    def builtin() -> None:
        attention_basic_with_sim(q, k, v, HEADS)

    return {ATTENTION: attention, PACK: pack, BUILTIN_CALL: builtin}
