"""Every sampler of the host is guided, at every evaluation it makes."""

from __future__ import annotations

import comfy.samplers
import pytest

from tests.host import models
from tests.host.graph import guide, only, sample
from tests.host.observe import network_calls

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the host's own samplers


@pytest.mark.parametrize("sampler_name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_is_guided_at_every_evaluation(sampler_name):
    tiny = models.v_prediction().sized(8, 8)
    guided, trace = guide(tiny.model, scale=0.2)
    with network_calls(tiny.model) as calls:
        out = sample(tiny, guided, sampler_name=sampler_name)
    steps = only(trace).steps
    assert out.isfinite().all()
    assert len(steps) >= 2 and all(step.guided for step in steps)
    assert [c.is_extra for c in calls] == [False, True] * len(steps)
    assert [step.sigma for step in steps] == [c.options["sigmas"].max().item() for c in calls if not c.is_extra]
    assert only(trace).notes == []


@pytest.mark.parametrize(("sampler_name", "evaluations"), [("euler", 3), ("heun", 5), ("dpm_2", 5)])
def test_second_order_samplers_are_guided_between_steps_too(sampler_name, evaluations):
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    sample(tiny, guided, steps=3, sampler_name=sampler_name)
    assert len({step.sigma for step in only(trace).steps}) == (3 if sampler_name == "heun" else evaluations)
    assert [step.guided for step in only(trace).steps] == [True] * evaluations


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_every_scheduler(scheduler):
    tiny = models.sd15().sized(8, 8)
    guided, trace = guide(tiny.model, start_percent=0.0, end_percent=1.0)
    assert sample(tiny, guided, scheduler=scheduler, steps=3).isfinite().all()
    assert [step.guided for step in only(trace).steps] == [True] * len(only(trace).steps)
