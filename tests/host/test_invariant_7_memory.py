"""Memory of recording is linear in tokens, and the extra pass is the only cost that shows."""

from __future__ import annotations

import pytest

from tests.host import models
from tests.host.graph import guide, only, record, sample
from tests.host.observe import allocations

HEADS, FLOAT = 4, 4


@pytest.fixture
def tiny():
    # Attention in the middle block alone: its 4,096 tokens are all that this CPU has to attend to.
    return models.sd15(transformer_depth=[0, 0], transformer_depth_output=[0] * 4)


def largest_of_recording(tiny) -> int:
    """Bytes of the largest storage that a run with recording makes and a run without does not."""
    recorded, trace = record(tiny.model)
    sample(tiny, steps=1)
    plain = allocations(lambda: sample(tiny, steps=1))
    with_recording = allocations(lambda: sample(tiny, recorded, steps=1))
    assert not plain - with_recording
    assert len(only(trace).steps) == 1
    return max(with_recording - plain)


def test_invariant_7_recording_allocates_linearly(tiny):
    few, many = (largest_of_recording(tiny.sized(side, side)) for side in (64, 128))
    tokens = 64 * 64
    assert many <= 4 * few
    assert many <= HEADS * tokens ** 2 * FLOAT / 10


def test_invariant_7_guidance_allocates_no_more_at_once_than_the_passes_themselves(tiny):
    tiny = tiny.sized(96, 96)
    guided, _ = guide(tiny.model)
    plain = allocations(lambda: sample(tiny, steps=1))
    assert max(allocations(lambda: sample(tiny, guided, steps=1))) <= max(plain)


def test_invariant_7_a_step_of_the_trace_is_one_number_a_token(tiny):
    tiny = tiny.sized(64, 48, batch=2)
    recorded, trace = record(tiny.model)
    sample(tiny, recorded, steps=1)
    (step,) = only(trace).steps
    assert step.attn_map.shape == (2, 32, 24)
    assert step.attn_map.untyped_storage().nbytes() == 2 * 32 * 24 * FLOAT
