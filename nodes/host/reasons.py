"""Reasons why steps go without guidance, in sentences that say what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum, auto

from ...sag_core.guidance import Reason


class Missed(Enum):
    """Reason of the host why an evaluation that was to be guided was not."""

    NO_MAP = auto()
    NOT_ASKED = auto()  # by the guider
    FAILED = auto()  # an error of the extra pass


# What the user has chosen, or has been told already.
_EXPECTED = (Reason.SCALE, Reason.OUTSIDE, Reason.LEFT_OUT, Reason.FACTOR, Reason.NO_BLUR, Reason.STOPPED,
             Reason.OVERFLOW, Missed.FAILED, Missed.NO_MAP)


def tell_why(note: Callable[[str], None], reasons: Counter[Reason | Missed]) -> None:
    """Tell the user why no step of a run was guided, where that is not simply what was asked for.

    Args:
        note: tells a text.
        reasons: of the evaluations.
    """
    unexpected = [reason for reason, _ in reasons.most_common() if reason not in _EXPECTED]
    chosen = [reason for reason in (Reason.FACTOR, Reason.NO_BLUR, Reason.LEFT_OUT) if reason in reasons]
    if Reason.PREDICTION in unexpected:
        unexpected = [Reason.PREDICTION]  # what the sampler makes of it spoils the attention of later steps
    if len(unexpected) > 1:
        note("no step was guided, for more than one reason; the live view on the node counts them")
        return
    reason = next(iter(unexpected + chosen), None)
    if reason is Missed.NOT_ASKED:
        note("no step was guided: nothing asked for the guidance after the model was run")
    elif reason is Reason.ATTENTION:
        note("no step was guided: the layer's attention is not finite (NaN); choose another layer, or run the model in "
             "a wider precision")
    elif reason is Reason.PREDICTION:
        note("no step was guided: the model's own prediction is not finite (NaN), with or without guidance; run it in "
             "a wider precision")
    elif reason is Reason.NO_MASK:
        note("no step was guided: the mask is empty; lower the threshold, or check your own mask")
    elif reason is Reason.SKIPPED:
        note("no step was guided: blurring changes the prediction by less than skip_below; lower skip_below, or raise "
             "blur_sigma")
    elif reason is Reason.FACTOR:
        note("no step was guided: the schedule multiplies scale or blur by 0 at every step")
    elif reason is Reason.NO_BLUR:
        note("no step was guided: blur_sigma is 0, which blurs nothing")
    elif reason is Reason.LEFT_OUT:
        note("no step was guided: the steps of this run are those that every leaves out; lower every")


def tell_some(note: Callable[[str], None], reasons: Counter[Reason | Missed]) -> None:
    """Tell the user what kept some steps of a guided run from being guided, where nobody asked for that."""
    if Reason.PREDICTION in reasons:
        note("some steps were not guided: the model's own prediction is not finite (NaN)")
    elif Reason.ATTENTION in reasons:
        note("some steps were not guided: the layer's attention is not finite (NaN)")
