"""Request of a node for every run of a model or a sampler, as data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ...sag_core.settings import SAGSettings
from ...sag_core.trace import AttentionTrace
from ..live.film import Audience


@dataclass(frozen=True, eq=False)
class Request:
    """Request of a node for a run.

    Args:
        settings: how to guide, None to record alone.
        layer: whose attention.
        threshold: above which a token counts as attended to.
        trace: where to record.
        report: called with every note for the user, once a run.
        audience: called when a run starts, for who watches it; None where nobody does.
    """

    settings: SAGSettings | None
    layer: str
    threshold: float
    trace: AttentionTrace
    report: Callable[[str], None]
    audience: Callable[[], Audience | None] | None = None

    def tell(self, text: str) -> None:
        """Tell the user something, in the log and on the node."""
        tell(self.report, text)


def tell(report: Callable[[str], None], text: str) -> None:
    """Tell the user something in the log, and on the node by its `report`."""
    logging.warning("SAG: %s", text)
    report(text)
