"""When and how strongly: intervals, curves and economy as tables of what happens at each step."""

from __future__ import annotations

import dataclasses
import math

import pytest

from sag_core.progress import Levels
from sag_core.schedule import Curve, Economy, Interval, Plan, Schedule, plan

nan, inf = math.nan, math.inf
SIGMAS = [10.0, 8.0, 6.0, 4.0, 2.0, 0.0]  # five steps
EVERYWHERE = Interval(inf, 0.0)


def factors(curve, steps, first=0, last=None):
    last = steps - 1 if last is None else last
    return [curve.factor(step, first, last) for step in range(steps)]


def plans(schedule, interval=EVERYWHERE, sigmas=SIGMAS, levels=None):
    """What happens at the noise levels of the steps, or at others."""
    return [plan(schedule, interval, sigmas, level) for level in (sigmas[:-1] if levels is None else levels)]


def scales(schedule, **inputs):
    """The factor of the scale at each step; None where there is no guidance, in brackets where no extra pass is run."""
    return [None if p is None else p.scale_factor if p.full else [p.scale_factor] for p in plans(schedule, **inputs)]


# -- curves ----------------------------------------------------------------------------------------------------------

CURVES = [
    (Curve(), [1, 1, 1, 1, 1]),
    (Curve("constant", end=0.3), [1, 1, 1, 1, 1]),
    (Curve("linear"), [1, 0.75, 0.5, 0.25, 0]),
    (Curve("linear", end=0.6), [1, 0.9, 0.8, 0.7, 0.6]),
    (Curve("linear", end=3.0), [1, 1.5, 2, 2.5, 3]),
    (Curve("linear", end=-1.0), [1, 0.5, 0, -0.5, -1]),
    # (1 + cos(pi i / 4)) / 2
    (Curve("cosine"), [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0]),
    (Curve("cosine", end=0.5), [1, (6 + math.sqrt(2)) / 8, 0.75, (6 - math.sqrt(2)) / 8, 0.5]),
    (Curve("list", values=(1.0, 0.0, -2.0, 7.0, 0.5)), [1, 0, -2, 7, 0.5]),
    (Curve("list", end=9.0, values=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)), [1, 2, 3, 4, 5]),
]


@pytest.mark.parametrize(("curve", "expected"), CURVES, ids=lambda value: value.shape if hasattr(value, "end") else "")
def test_curve_over_five_steps_by_hand(curve, expected):
    assert factors(curve, 5) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("curve", "expected"), [
    (Curve("linear"), [1, 1, 1, 0.5, 0, 0]), (Curve("cosine"), [1, 1, 1, 0.5, 0, 0]),
    (Curve("list", values=(6.0, 5.0, 4.0, 3.0, 2.0, 1.0)), [6, 5, 4, 3, 2, 1]),
], ids=lambda value: value.shape if hasattr(value, "end") else "")
def test_linear_and_cosine_go_over_the_guided_steps_and_a_list_over_all(curve, expected):
    assert factors(curve, 6, first=2, last=4) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_single_guided_step_is_the_first(shape):
    assert Curve(shape).factor(3, 3, 3) == 1


@pytest.mark.parametrize(("count", "fits"), [(4, False), (5, True), (6, True), (7, False), (1, False)])
def test_a_list_has_a_value_for_every_step_or_stands_beside_the_sigmas(count, fits):
    curve = Curve("list", values=(1.0,) * count)
    assert curve.fits(5) == fits
    for name, schedule in (("scale", Schedule(scale=curve)), ("blur", Schedule(blur_sigma=curve))):
        assert schedule.misfits(5) == ({} if fits else {name: count})


def test_only_lists_have_a_length():
    assert not Schedule(Interval(1, 0), scale=Curve("linear", values=(1.0, 2.0)), blur_sigma=Curve("cosine")).misfits(5)


@pytest.mark.parametrize(("values", "expected"), [
    ((3.0,), [3, 3, 3, 3, 3]), ((1.0, 0.0), [1, 0.75, 0.5, 0.25, 0]), ((0.0, 4.0, 0.0), [0, 2, 4, 2, 0]),
    (tuple(float(i) for i in range(9)), [0, 2, 4, 6, 8]), ((0.0, 1.0, 2.0, 3.0), [0, 0.75, 1.5, 2.25, 3]),
], ids=len)
def test_a_list_of_another_length_is_spread_over_the_run(values, expected):
    assert scales(Schedule(scale=Curve("list", values=values))) == pytest.approx(expected)


@pytest.mark.parametrize(("fields", "message"), [
    ({"shape": "sine"}, "curve is 'sine'; it must be one of constant, linear, cosine, list"),
    *[({"shape": "linear", "end": value}, f"end is {value}") for value in (nan, inf, -inf)],
    *[({"shape": "list", "values": (1.0, value)}, f"list holds {value}") for value in (nan, inf, -inf)],
    ({"shape": "list"}, "list without values"),
], ids=str)
def test_bad_curves_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Curve(**fields)


def test_a_negative_factor_of_the_blur_is_refused():
    """There is no blur of a negative reach, and a run should not find that out half way."""
    Schedule(scale=Curve("list", values=(1.0, -1.0)), blur_sigma=Curve("list", values=(1.0, 0.0)))
    for curve in (Curve("list", values=(1.0, -1.0)), Curve("linear", end=-0.5)):
        with pytest.raises(ValueError, match="blur"):
            Schedule(blur_sigma=curve)


# -- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "expected"), [
    (Interval(8.0, 4.0), [None, 1, 1, 1, None]), (Interval(7.9, 4.1), [None, None, 1, None, None]),
    (Interval(10.0, 2.0), [1] * 5), (Interval(6.0, 6.0), [None, None, 1, None, None]),
    (Interval(5.9, 4.1), [None] * 5), (Interval(inf, 0.0), [1] * 5), (Interval(1.9, 0.0), [None] * 5),
])
def test_both_ends_of_the_interval_are_guided(interval, expected):
    assert scales(Schedule(), interval=interval) == expected


def test_the_ends_of_the_interval_are_met_up_to_rounding():
    """The noise levels of a run are float32, the interval's are not."""
    for off in (1 - 5e-7, 1 + 5e-7):
        assert scales(Schedule(), interval=Interval(8.0 * off, 4.0 * off)) == [None, 1, 1, 1, None]


def test_an_evaluation_between_steps_is_guided_where_its_own_noise_level_is_in_the_interval():
    # Those of the first and the last guided step reach outside.
    levels = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    assert scales(Schedule(), interval=Interval(8.0, 4.0), levels=levels) == [None, 1, 1, 1, 1, 1, None]
    assert scales(Schedule(), interval=Interval(9.5, 3.5), levels=[9.6, 9.5, 3.5, 3.4]) == [None, 1, 1, None]


@pytest.mark.parametrize(("fields", "message"), [
    ({"interval": Interval(1.0, 2.0)}, "from sigma 1.0 to 2.0"),
    ({"interval": Interval(1.0, -0.5)}, "from sigma 1.0 to -0.5"),
    ({"interval": Interval(nan, 0.0)}, "from sigma nan to 0.0"),
    ({"interval": Interval(1.0, nan)}, "from sigma 1.0 to nan"),
    *[({"percent": (start, end)}, f"from {start} to {end}; as percent") for start, end in (
        (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1), (nan, 1.0), (0.0, nan), (5.0, 2.0))],
], ids=str)
def test_bad_intervals_are_refused_by_their_ends(fields, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**fields)


@pytest.mark.parametrize("fields", [
    {"interval": Interval(2.0, 2.0)}, {"interval": Interval(inf, 0.0)}, {"percent": (0.0, 0.0)},
    {"percent": (1.0, 1.0)}, {"percent": (0.0, 1.0)},
], ids=str)
def test_intervals_at_the_ends_of_their_range_are_taken(fields):
    assert Schedule(**fields)


# -- steps -----------------------------------------------------------------------------------------------------------

NUMBERED = Schedule(scale=Curve("list", values=(0.0, 1.0, 2.0, 3.0, 4.0)))  # the number of the step


@pytest.mark.parametrize(("level", "step"), [
    (10.0, 0), (8.0, 1), (6.0, 2), (4.0, 3), (2.0, 4),
    # dpm_2 and others evaluate in the middle of a step; the last one ends at 0
    (math.sqrt(80), 0), (9.0, 0), (7.0, 1), (2.1, 3), (1.0, 4), (1e-3, 4), (0.0, 4),
    # with churn a step starts above its noise level
    (11.0, 0), (1e9, 0),
    # float32 arithmetic of samplers that go by logarithms
    (8.0 * (1 - 5e-7), 1), (8.0 * (1 + 5e-7), 1), (2.0 * (1 - 5e-7), 4), (2.0 * (1 + 5e-7), 4),
])
def test_an_evaluation_belongs_to_the_step_that_it_is_part_of(level, step):
    assert plan(NUMBERED, EVERYWHERE, SIGMAS, level).scale_factor == step


def test_scale_and_blur_have_curves_of_their_own():
    schedule = Schedule(scale=Curve("linear"), blur_sigma=Curve("linear", end=3.0))
    assert plans(schedule) == [Plan(1.0, 1.0), Plan(0.75, 1.5), Plan(0.5, 2.0), Plan(0.25, 2.5), Plan(0.0, 3.0)]


def test_curves_start_and_end_with_the_interval():
    schedule = Schedule(scale=Curve("linear", end=0.5))
    assert scales(schedule, interval=Interval(8.0, 4.0)) == [None, 1.0, 0.75, 0.5, None]
    # Between steps they stand still. Ends between two steps count as they are: 8 is a tenth of the way from 8.5 to 3.5.
    levels = [8.4, 7.0, 5.0, 4.0, 3.6]
    assert scales(schedule, interval=Interval(8.5, 3.5), levels=levels) == pytest.approx([1, 0.95, 0.75, 0.55, 0.55])


def test_an_interval_between_two_steps_guides_what_is_evaluated_there():
    schedule = Schedule(scale=Curve("linear"), economy=Economy(every=3))
    assert scales(schedule, interval=Interval(7.5, 6.5), levels=[8.0, 7.0, 6.0]) == [None, 3.0, None]


@pytest.mark.parametrize("sigmas", [[5.0], [5.0, 0.0], [5.0, 5.0]], ids=str)
def test_runs_of_a_step_or_none(sigmas):
    assert plan(Schedule(scale=Curve("linear")), EVERYWHERE, sigmas, 5.0) == Plan(1.0, 1.0)


@pytest.mark.parametrize("sigmas", [[5.0] * 4, [5.0, 5.0, 3.0, 3.0, 1.0, 1.0, 0.0]], ids=str)
def test_of_steps_that_start_at_the_same_level_the_first_counts(sigmas):
    every = Schedule(economy=Economy(every=2))
    assert plan(every, EVERYWHERE, sigmas, 5.0) is not None
    numbered = Schedule(scale=Curve("list", values=tuple(float(step) for step in range(len(sigmas)))))
    assert plan(numbered, EVERYWHERE, sigmas, sigmas[2]).scale_factor == (0 if sigmas[2] == 5 else 2)


# -- runs of a part of the process -----------------------------------------------------------------------------------

EVEN = Levels(lambda percent: 10.0 * (1 - percent), 10.0, 1e-3)
WHOLE = [10.0 - i for i in range(10)] + [0.0]
# Even in the seventh root, as Karras et al. space them.
KARRAS = [(10 ** (1 / 7) + i / 9 * (1e-3 ** (1 / 7) - 10 ** (1 / 7))) ** 7 for i in range(10)] + [0.0]
PARTS = {
    "linear": Schedule(scale=Curve("linear"), blur_sigma=Curve("linear", 2.0)),
    "cosine": Schedule(scale=Curve("cosine")),
    "every 3": Schedule(economy=Economy(every=3)), "every 4, reused": Schedule(economy=Economy(4, reuse=True)),
    "list": Schedule(scale=Curve("list", values=tuple(float(i) for i in range(10)))),
    "list beside the sigmas": Schedule(scale=Curve("list", values=tuple(float(i) for i in range(11)))),
    "list of another length": Schedule(scale=Curve("list", values=tuple(i * i / 9 for i in range(15)))),
}


@pytest.mark.parametrize("interval", [EVERYWHERE, Interval(8.3, 0.0), Interval(8.0, 2.0), Interval(3.7, 1.1)], ids=str)
@pytest.mark.parametrize("sigmas", [WHOLE, KARRAS], ids=["even", "Karras"])
@pytest.mark.parametrize("schedule", PARTS.values(), ids=PARTS)
def test_a_run_in_two_parts_is_guided_as_one(schedule, sigmas, interval):
    expected = [plan(schedule, interval, sigmas, sigma, EVEN) for sigma in sigmas[:-1]]
    for at in range(3, 8):
        parts = sigmas[:at + 1], sigmas[at:]
        found = [plan(schedule, interval, part, sigma, EVEN) for part in parts for sigma in part[:-1]]
        assert [p and (pytest.approx(p.scale_factor), pytest.approx(p.blur_factor), p.full) for p in found] == [
            p and (p.scale_factor, p.blur_factor, p.full) for p in expected]
        # Some samplers evaluate at the level of the next step, which is then the other run's.
        last, next_one = (plan(schedule, interval, part, sigmas[at], EVEN) for part in parts)
        assert last == next_one or last.scale_factor == pytest.approx(next_one.scale_factor)


@pytest.mark.parametrize("sigmas", [WHOLE, KARRAS], ids=["even", "Karras"])
def test_a_run_in_three_parts_is_guided_as_one(sigmas):
    for schedule in PARTS.values():
        expected = [plan(schedule, EVERYWHERE, sigmas, sigma, EVEN) for sigma in sigmas[:-1]]
        found = [plan(schedule, EVERYWHERE, part, sigma, EVEN)
                 for part in (sigmas[:4], sigmas[3:7], sigmas[6:]) for sigma in part[:-1]]
        assert [p is None for p in found] == [p is None for p in expected]
        for one, other in zip(found, expected, strict=True):
            assert one is None or one.scale_factor == pytest.approx(other.scale_factor)


def test_curves_follow_the_noise_level_however_steps_are_spaced():
    schedule = Schedule(scale=Curve("linear", 3.0))
    for sigmas in (WHOLE, KARRAS, [10.0, 7.0, 0.1, 0.0], [7.0, 6.9, 2.0], [1.0, 3.0, 7.0]):
        assert [plan(schedule, EVERYWHERE, sigmas, sigma, EVEN).scale_factor for sigma in sigmas if sigma] == (
            pytest.approx([3 - sigma / 5 for sigma in sigmas if sigma]))


@pytest.mark.parametrize("sigmas", [
    [], [0.0], [5.0], [0.0, 5.0], [10.0, 10.0], [4.0, 4.0, 4.0], [1.0, 3.0, 9.0], [0.0, 3.0, 10.0],
    [3.0, 9.0, 3.0, 0.0], [1e-30, 1e-38, 0.0], [1e9, 20.0, 0.0],
], ids=str)
@pytest.mark.parametrize("levels", [None, EVEN], ids=["unknown model", "model"])
def test_whatever_a_run_is_its_plans_are_finite(sigmas, levels):
    for schedule in PARTS.values():
        for sigma in {*sigmas, 0.0, 1e-38, 2.5, 10.0, 1e9}:
            found = plan(schedule, EVERYWHERE, sigmas, sigma, levels)
            assert found is None or math.isfinite(found.scale_factor) and math.isfinite(found.blur_factor)


# -- economy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("economy", "expected"), [
    (Economy(), [1, 1, 1, 1, 1]),
    (Economy(every=2), [2, None, 2, None, 2]),
    (Economy(every=3), [3, None, None, 3, None]),
    (Economy(every=9), [9, None, None, None, None]),
    (Economy(every=2, boost=1.5), [1.5, None, 1.5, None, 1.5]),
    (Economy(every=2, boost=0.0), [0, None, 0, None, 0]),
    (Economy(boost=3.0), [3, 3, 3, 3, 3]),
    (Economy(every=2, reuse=True), [1, [1], 1, [1], 1]),
    (Economy(every=3, reuse=True), [1, [1], [1], 1, [1]]),
    (Economy(every=2, boost=1.5, reuse=True), [1.5, [1.5], 1.5, [1.5], 1.5]),
], ids=str)
def test_every_nth_step_by_hand(economy, expected):
    assert scales(Schedule(economy=economy)) == expected


def test_every_nth_is_counted_from_the_first_guided_step():
    assert scales(Schedule(economy=Economy(every=2)), interval=Interval(8.0, 0.0)) == [None, 2, None, 2, None]


def test_every_nth_of_a_curve_is_the_curve_there():
    schedule = Schedule(scale=Curve("linear"), economy=Economy(every=2))
    assert scales(schedule) == [2, None, 1, None, 0]
    assert scales(dataclasses.replace(schedule, economy=Economy(2, reuse=True))) == [1, [0.75], 0.5, [0.25], 0]


def test_all_evaluations_of_a_step_are_guided_or_none():
    levels = [10.0, 9.0, 8.0, 7.0, 6.0, 5.0]
    assert scales(Schedule(economy=Economy(every=2)), levels=levels) == [2, 2, None, None, 2, 2]


@pytest.mark.parametrize(("fields", "message"), [
    ({"every": 0}, "every is 0"), ({"every": -2}, "every is -2"),
    *[({name: value}, f"{name} is {value}") for name in ("boost", "skip_below", "stop_below")
      for value in (-0.1, nan, inf)],
], ids=str)
def test_bad_economy_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Economy(**fields)


def test_schedules_do_not_change():
    for frozen, name in ((Schedule(), "percent"), (Curve(), "end"), (Economy(), "every"), (Interval(1, 0), "sigma_end"),
                         (Plan(1, 1), "full")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, 1)
