"""A way to sample the embedded model: everything that decides what is drawn, and nothing that does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Way:
    """How a set of samples is drawn.

    Args:
        labels: "none" for unconditional samples, "all" for as many of every class.
        guidance: inputs of SAGGuidance; empty for none.
        mask: inputs of SAGMaskOptions; empty for the paper's masks.
        schedule: inputs of SAGSchedule; empty for every step.
        classifier: scale of classifier guidance towards the batch's label; 0 for none.
        respacing: timesteps of the authors' sampler, "ddim25" or a number of ancestral steps.
    """

    labels: str = "none"
    guidance: Mapping[str, float | str] = field(default_factory=dict)
    mask: Mapping[str, float | str] = field(default_factory=dict)
    schedule: Mapping[str, float | str] = field(default_factory=dict)
    classifier: float = 0.0
    respacing: str = "ddim25"

    @property
    def description(self) -> dict:
        """The way as plain JSON."""
        return asdict(self)

    @property
    def name(self) -> str:
        """A short name that only this way has, for its folder."""
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
