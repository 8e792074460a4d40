"""A whole run: by default the paper's step at every evaluation, else what was asked for and not a pass more."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sag_core.degrade import Process
from sag_core.guidance import GuidedStep, Reason, SelfAttentionGuidance, self_attention_guidance
from sag_core.schedule import Curve, Economy, Interval, Schedule
from sag_core.settings import SAGSettings
from sag_core.strategies import MaskOptions

EVERYWHERE = Interval(math.inf, 0.0)
SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]
LEVELS = SIGMAS[:-1]
QUARTER = math.sqrt(0.5 / math.log(2))  # taps 1/4, 1/2, 1/4 at kernel 3


class Network:
    """Some clean prediction: neighbours matter, it is not linear, and its calls are counted."""

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(x)
        return torch.tanh(0.4 * x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(2, -2))


def evaluations(normal, shape=(2, 3, 8, 12), grid=(4, 6), dtype=torch.float64, levels=LEVELS):
    """What a sampler asks: a noisy sample, its clean prediction, that of the whole graph, and a map for every level."""
    network = Network()
    for level in levels:
        x = normal(*shape, dtype=dtype) * level
        yield level, x, network(x), normal(*shape, dtype=dtype), normal(shape[0], *grid, dtype=torch.float32).exp()


def papers_step(base, x, denoised, attn_map, sigma, network, settings=None, process=Process.VARIANCE_EXPLODING, **clip):
    """The step with a run's settings."""
    s = settings or SAGSettings()
    return self_attention_guidance(base, x, denoised, attn_map, sigma, network, s.scale, s.threshold, s.blur_sigma,
                                   blur_kernel=s.blur_kernel, process=process, **clip)


def step(guidance, base, x, denoised, level, network, **clip):
    """An evaluation of a run."""
    sigma = torch.tensor(level).expand(len(x))
    return guidance(guidance.decide(level), base, x, denoised, sigma, network, **clip)


def follow(settings, asked, process=Process.VARIANCE_EXPLODING, interval=EVERYWHERE, sigmas=SIGMAS):
    """The results of a run, None where it is left alone, and how often each evaluation asked the network again."""
    guidance, results, calls = SelfAttentionGuidance(settings, process, interval, sigmas), [], []
    for level, x, denoised, base, attn_map in asked:
        network = Network()
        guidance.observe(attn_map)
        guided = step(guidance, base, x, denoised, level, network)
        results.append(guided if isinstance(guided, GuidedStep) else None)
        calls.append(len(network.seen))
    return results, calls


# -- the paper's step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("process", Process)
@pytest.mark.parametrize("settings", [SAGSettings(), SAGSettings(-2.0, 0.7, 1.4, blur_kernel=5), SAGSettings(0.3, 9.0)],
                         ids=str)
def test_default_is_the_papers_step_at_every_evaluation_bit_for_bit(normal, settings, process, dtype):
    asked = list(evaluations(normal, dtype=dtype, levels=[level / 9 for level in LEVELS]))
    results, calls = follow(settings, asked, process, sigmas=[sigma / 9 for sigma in SIGMAS])
    for guided, (level, x, denoised, base, attn_map) in zip(results, asked, strict=True):
        sigma = torch.full((2,), level)
        expected = papers_step(base, x, denoised, attn_map, sigma, Network(), settings, process)
        assert torch.equal(guided.denoised, expected)
        masked = (attn_map > settings.threshold).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
        assert torch.equal(guided.mask, masked.float())
    assert calls == [1] * len(LEVELS)


def test_default_of_a_video_is_the_papers_step_bit_for_bit(normal):
    asked = list(evaluations(normal, (2, 3, 4, 8, 12), (4, 2, 3)))
    results, _ = follow(SAGSettings(), asked)
    for guided, (level, x, denoised, base, attn_map) in zip(results, asked, strict=True):
        expected = papers_step(base, x, denoised, attn_map, torch.tensor(level), Network())
        assert torch.equal(guided.denoised, expected)
        assert guided.mask.shape == (2, 1, 4, 8, 12)


def test_evaluations_between_steps_are_guided_at_their_own_noise_level(normal):
    asked = list(evaluations(normal, levels=[8.0, 5.7, 4.0, 4.0, 2.8]))
    results, calls = follow(SAGSettings(), asked)
    assert calls == [1] * 5
    level, x, denoised, base, attn_map = asked[1]
    expected = papers_step(base, x, denoised, attn_map, torch.tensor(level), Network())
    assert torch.equal(results[1].denoised, expected)


def test_what_is_degraded_is_clamped_and_the_noise_stays_the_models_own(normal):
    """The authors' order: eps from the prediction as it is, x0 clamped, blurred, and noised with that eps."""
    ((level, x, denoised, base, attn_map),) = evaluations(normal, levels=[4.0])
    denoised, sigma, network = 3 * denoised, torch.full((2,), 4.0), Network()
    expected = papers_step(base, x, denoised, attn_map, sigma, network, clip=(-1, 1))
    eps = (x - denoised) / level
    mask = (attn_map > 1).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    degraded = torch.where(mask, blurred(denoised.clamp(-1, 1), 2.0), denoised.clamp(-1, 1))
    assert_close(network.seen[0], degraded + level * eps)
    assert_close(expected, base + 0.5 * (degraded - Network()(degraded + level * eps)))
    guidance = SelfAttentionGuidance(SAGSettings(), Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
    guidance.observe(attn_map)
    assert torch.equal(step(guidance, base, x, denoised, level, Network(), clip=(-1, 1)).denoised, expected)
    assert not torch.allclose(step(guidance, base, x, denoised, level, Network()).denoised, expected)


# -- what goes beyond it, restated -----------------------------------------------------------------------------------


def blurred(x, sigma):
    """Convolution with a kernel of radius ceil(4 sigma), on an image bounced off its edges as often as it takes."""
    radius = math.ceil(4 * sigma)
    if radius == 0:
        return x
    line = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2 / (2 * sigma ** 2))
    kernel = torch.outer(line, line) / line.sum() ** 2

    def bounced(side):
        steps = [abs(i) % (2 * side - 2) for i in range(-radius, side + radius)]
        return [i if i < side else 2 * side - 2 - i for i in steps]

    rows, columns = (bounced(side) for side in x.shape[-2:])
    return F.conv2d(x[:, :, rows][:, :, :, columns], kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def restated(asked, scale, scales, blurs, every=1, reuse=False, decay=0.0, soft=0.0, rescale=0.0, to="cfg",
             projection=0.0):
    """The results of a run in the plainest words; factors of scale and blur are given for every step."""
    results, average, last = [], None, None
    for i, (level, x, denoised, base, attn_map) in enumerate(asked):
        attn_map = attn_map.double()
        average = attn_map if average is None else decay * average + (1 - decay) * attn_map
        if i % every == 0:
            mask = (average > 1).double()
            if soft:
                t = ((average - 1) / soft + 0.5).clamp(0, 1)
                mask = 3 * t ** 2 - 2 * t ** 3
            mask = mask.kron(torch.ones(1, 2, 2, dtype=torch.float64))[:, None]
            low = mask * blurred(denoised, 2.0 * blurs[i]) + (1 - mask) * denoised
            last = (low - Network()(x + low - denoised)) / level  # a difference of noise predictions
        elif not reuse:
            results.append(None)
            continue
        added = scale * scales[i] * last * level
        reference = base if to == "cfg" else denoised
        rows = []
        for d, b, r in zip(added, base, reference, strict=True):
            d = d - projection * (d * b).sum() / (b * b).sum() * b
            guided = b + d
            rows.append((1 - rescale) * guided + rescale * guided * r.std() / guided.std())
        results.append(torch.stack(rows))
    return results


CONSTANT, ALL_STEPS = Curve(), Economy()


def settings_of(scale=1.5, scale_curve=CONSTANT, blur_curve=CONSTANT, economy=ALL_STEPS, softness=0.0, decay=0.0,
                **fields):
    return SAGSettings(scale, mask=MaskOptions(softness=softness, decay=decay),
                       schedule=Schedule(scale=scale_curve, blur_sigma=blur_curve, economy=economy), **fields)


ONES, HALVED = [1.0] * 5, [1, 0.875, 0.75, 0.625, 0.5]
LIST, UP = Curve("list", values=(1.0, -0.5, 2.0, 0.25, 3.0)), Curve("linear", 3.0)
BEYOND = {
    "decay": (settings_of(decay=0.7), {"decay": 0.7}),
    "soft edge": (settings_of(softness=0.8), {"soft": 0.8}),
    "soft edge of a running average": (settings_of(softness=0.8, decay=0.3), {"soft": 0.8, "decay": 0.3}),
    "scale by a list": (settings_of(scale_curve=LIST), {"scales": LIST.values}),
    "scale halved over the run": (settings_of(scale_curve=Curve("linear", 0.5)), {"scales": HALVED}),
    "blur growing": (settings_of(blur_curve=UP), {"blurs": [1, 1.5, 2, 2.5, 3]}),
    "both": (settings_of(scale_curve=LIST, blur_curve=UP), {"scales": LIST.values, "blurs": [1, 1.5, 2, 2.5, 3]}),
    "every second": (settings_of(economy=Economy(2)), {"scales": [2] * 5, "every": 2}),
    "every third, boosted": (settings_of(economy=Economy(3, 1.2)), {"scales": [1.2] * 5, "every": 3}),
    "last direction": (settings_of(economy=Economy(2, reuse=True)), {"every": 2, "reuse": True}),
    "last direction along a list": (settings_of(scale_curve=LIST, economy=Economy(3, reuse=True)),
                                    {"scales": LIST.values, "every": 3, "reuse": True}),
    "projection": (settings_of(projection=1.0), {"projection": 1.0}),
    "some projection": (settings_of(projection=0.4), {"projection": 0.4}),
    "rescale": (settings_of(rescale=1.0), {"rescale": 1.0}),
    "rescale to the branch": (settings_of(rescale=0.7, rescale_to="branch"), {"rescale": 0.7, "to": "branch"}),
    "rescale of the last direction, projected": (
        settings_of(rescale=0.7, projection=0.5, economy=Economy(2, reuse=True)),
        {"rescale": 0.7, "projection": 0.5, "every": 2, "reuse": True}),
}


@pytest.mark.parametrize(("settings", "words"), BEYOND.values(), ids=BEYOND)
def test_a_whole_run_equals_its_restatement(normal, settings, words):
    asked = list(evaluations(normal))
    results, _ = follow(settings, asked)
    expected = restated(asked, settings.scale, **{"scales": ONES, "blurs": ONES, **words})
    for guided, wanted in zip(results, expected, strict=True):
        assert (guided is None) == (wanted is None)
        if wanted is not None:
            # Maps are float32, and soft masks with them.
            assert_close(guided.denoised, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{"rescale_to": "branch"}, {"rescale": 0.0, "projection": 0.0}], ids=str)
def test_corrections_of_amount_zero_are_bit_identical(normal, fields):
    asked = list(evaluations(normal, dtype=torch.float32))
    for one, other in zip(follow(SAGSettings(), asked)[0], follow(SAGSettings(**fields), asked)[0], strict=True):
        assert torch.equal(one.denoised, other.denoised)


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_rescale_goes_to_whom_it_is_asked_to(normal, amount):
    asked = list(evaluations(normal))
    for to in ("cfg", "branch"):
        plain = follow(SAGSettings(2.0), asked)[0]
        results = follow(SAGSettings(2.0, rescale=amount, rescale_to=to), asked)[0]
        for guided, unscaled, (_, _, denoised, base, _) in zip(results, plain, asked, strict=True):
            own, wanted = (t.std(dim=(1, 2, 3)) for t in (unscaled.denoised, base if to == "cfg" else denoised))
            assert_close(guided.denoised.std(dim=(1, 2, 3)), (1 - amount) * own + amount * wanted)


# -- masks over a run ------------------------------------------------------------------------------------------------


def masks(settings, maps, levels=LEVELS, interval=EVERYWHERE):
    """The masks of a run over samples of the size of their maps."""
    x = torch.rand(len(maps[0]), 2, *maps[0].shape[1:])
    asked = [(level, x, x, x, attn_map) for level, attn_map in zip(levels, maps, strict=True)]
    results, _ = follow(settings, asked, interval=interval)
    return [None if guided is None else guided.mask[:, 0].tolist() for guided in results]


# The running average of the first token by hand, and whether it is above 1: a half of the past, then nine tenths.
TOKEN = [2.0, 0.2, 0.4, 4.0, 0.0]
AVERAGES = {0.0: [2, 0.2, 0.4, 4, 0], 0.5: [2, 1.1, 0.75, 2.375, 1.1875],
            0.9: [2, 1.82, 1.678, 1.9102, 1.71918]}


@pytest.mark.parametrize("decay", AVERAGES)
def test_decay_is_a_running_average_by_hand(decay):
    maps = [torch.tensor([[[first, 2 - first]]]) for first in TOKEN]
    expected = [[[[float(average > 1), float(2 - average > 1)]]] for average in AVERAGES[decay]]
    assert masks(settings_of(decay=decay), maps) == expected


def test_running_average_knows_of_the_steps_that_are_not_guided():
    maps = [torch.tensor([[[first, 2 - first]]]) for first in TOKEN]
    seen = masks(settings_of(decay=0.9), maps, interval=Interval(0.6, 0.0))
    assert seen == [None] * 4 + [[[[1, 0]]]]  # this step's map alone would be the other way round


def test_running_average_starts_again_where_the_grid_changes():
    """Nodes that shrink the first steps give them smaller grids."""
    guidance = SelfAttentionGuidance(settings_of(decay=0.9), Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
    x = torch.rand(1, 2, 2, 4)
    guidance.observe(torch.tensor([[[2.0, 0.0]]]))
    guidance.observe(torch.tensor([[[0.0, 0.0, 2.0, 2.0]]]))
    assert step(guidance, x, x, x, 4.0, Network()).mask[0, 0].tolist() == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("strategy", ["random", "square"])
def test_drawn_masks_are_others_at_every_step_and_the_same_in_every_run(normal, strategy):
    attn_map = normal(1, 16, 16, dtype=torch.float32).exp()
    settings = SAGSettings(threshold=3.0, mask=MaskOptions(strategy, seed=5))
    first, again = (masks(settings, [attn_map] * 5) for _ in range(2))
    assert first == again
    assert len({str(mask) for mask in first}) == 5


def test_mask_of_a_step_does_not_depend_on_which_steps_are_guided(normal):
    maps = [normal(1, 16, 16, dtype=torch.float32).exp() for _ in LEVELS]
    for options in (MaskOptions(), MaskOptions("random"), MaskOptions("square"), MaskOptions(decay=0.6)):
        everywhere = masks(SAGSettings(mask=options), maps)
        late = masks(SAGSettings(mask=options), maps, interval=Interval(2.0, 0.5))
        economic = masks(SAGSettings(mask=options, schedule=Schedule(economy=Economy(2))), maps)
        assert late == [None, None, *everywhere[2:]]
        assert economic == [mask if i % 2 == 0 else None for i, mask in enumerate(everywhere)]


def test_mask_is_what_was_blurred(normal):
    """Soft, of any strategy and with a mask of the user's: the degraded sample gives it away."""
    asked = list(evaluations(normal))
    own = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(0))
    for options in (MaskOptions("inverse", softness=0.5, own_mask=own), MaskOptions(own_mask=own, combine="replace"),
                    MaskOptions("square", own_mask=own, combine="unite"), MaskOptions("high-frequency")):
        settings = SAGSettings(mask=options)
        guidance = SelfAttentionGuidance(settings, Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
        for level, x, denoised, base, attn_map in asked:
            network = Network()
            guidance.observe(attn_map)
            guided = step(guidance, base, x, denoised, level, network)
            expected = x + guided.mask.double() * (blurred(denoised, 2.0) - denoised)
            assert_close(network.seen[0], expected, rtol=1e-9, atol=1e-9)


# -- passes ----------------------------------------------------------------------------------------------------------

PASSES = {
    "all": (Schedule(), EVERYWHERE, [1, 1, 1, 1, 1]),
    "interval": (Schedule(), Interval(4.0, 1.0), [0, 1, 1, 1, 0]),
    "every second": (Schedule(economy=Economy(2)), EVERYWHERE, [1, 0, 1, 0, 1]),
    "every second of an interval": (Schedule(economy=Economy(2)), Interval(4.0, 1.0), [0, 1, 0, 1, 0]),
    "every third, last direction": (Schedule(economy=Economy(3, reuse=True)), EVERYWHERE, [1, 0, 0, 1, 0]),
    "list with zeros": (Schedule(scale=Curve("list", values=(0.0, 1.0, 0.0, -1.0, 0.0))), EVERYWHERE, [0, 1, 0, 1, 0]),
    "list of zeros": (Schedule(scale=Curve("list", values=(0.0,) * 5)), EVERYWHERE, [0] * 5),
    "down to zero": (Schedule(scale=Curve("cosine", 0.0)), EVERYWHERE, [1, 1, 1, 1, 0]),
    "boost of zero": (Schedule(economy=Economy(1, 0.0)), EVERYWHERE, [0] * 5),
    "empty interval": (Schedule(), Interval(0.4, 0.1), [0] * 5),
}


@pytest.mark.parametrize(("schedule", "interval", "passes"), PASSES.values(), ids=PASSES)
def test_network_is_asked_exactly_where_the_schedule_says(normal, schedule, interval, passes):
    results, calls = follow(SAGSettings(schedule=schedule), list(evaluations(normal)), interval=interval)
    assert calls == passes
    reused = schedule.economy.reuse
    assert [guided is not None for guided in results] == [bool(count) or reused for count in passes]
    assert [guided is not None and guided.mask is not None for guided in results] == [bool(count) for count in passes]


def planned(settings, interval=EVERYWHERE, levels=LEVELS):
    guidance = SelfAttentionGuidance(settings, Process.VARIANCE_EXPLODING, interval, SIGMAS)
    return [guidance.decide(level).guides for level in levels]


def test_nothing_is_planned_where_guidance_is_off():
    assert planned(SAGSettings()) == [True] * 5
    assert planned(SAGSettings(scale=0)) == [False] * 5
    assert planned(SAGSettings(), Interval(4.0, 1.0)) == [False, True, True, True, False]
    assert planned(settings_of(scale_curve=Curve("linear"))) == [True] * 4 + [False]
    assert planned(settings_of(economy=Economy(2))) == [True, False, True, False, True]


NOTHING_BLURRED = {
    "threshold": SAGSettings(threshold=100), "quantile": SAGSettings(mask=MaskOptions(quantile=1.0)),
    "own mask": SAGSettings(mask=MaskOptions(own_mask=torch.zeros(1, 4, 4))),
    "own mask that replaces": SAGSettings(mask=MaskOptions("global", own_mask=torch.zeros(1, 4, 4), combine="replace")),
    "inverse of everything": SAGSettings(threshold=0, mask=MaskOptions("inverse")),
    "random": SAGSettings(threshold=100, mask=MaskOptions("random")),
    "square": SAGSettings(threshold=100, mask=MaskOptions("square")),
    "blur 0": SAGSettings(blur_sigma=0.0),
    "blur of a list of zeros": settings_of(blur_curve=Curve("list", values=(0.0,) * 5)),
}


@pytest.mark.parametrize("settings", NOTHING_BLURRED.values(), ids=NOTHING_BLURRED)
def test_where_nothing_is_blurred_no_pass_is_spent(normal, settings):
    results, calls = follow(settings, list(evaluations(normal)))
    assert calls == [0] * 5 and results == [None] * 5


def test_a_sample_in_which_nothing_is_blurred_stays_as_it_is_beside_others(normal):
    asked = [(*others, torch.stack([attn_map[0].clamp(max=1), attn_map[1]]))
             for *others, attn_map in evaluations(normal, dtype=torch.float32)]
    for guided, (_, _, _, base, _) in zip(follow(SAGSettings(2.0), asked)[0], asked, strict=True):
        assert torch.equal(guided.denoised[0], base[0]) and not torch.equal(guided.denoised[1], base[1])


# One line of four pixels, all of it blurred by hand: [0, 0, 4, 0] -> [0, 1, 2, 2], a change of 3 beside a size of 4.
LINE_OF_4, ALL = torch.tensor([[[[0.0, 0.0, 4.0, 0.0]]]]), torch.ones(1, 1, 4) * 2
NOISE, OF_THE_GRAPH = 16.0, 2 * LINE_OF_4  # what the sample and the graph's own prediction are


def line(economy, answers, scale=1.0, levels=LEVELS, **fields):
    """A run over that line, in which the network answers so much less than it was shown: added values, and calls."""
    settings = SAGSettings(scale, QUARTER, blur_kernel=3, schedule=Schedule(economy=economy), **fields)
    guidance = SelfAttentionGuidance(settings, Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
    added, calls = [], 0

    for level, answer in zip(levels, answers, strict=True):
        def predict(degraded_x, answer=answer):
            nonlocal calls
            calls += 1
            return degraded_x - NOISE - answer

        guidance.observe(ALL)
        guided = step(guidance, OF_THE_GRAPH, LINE_OF_4 + NOISE, LINE_OF_4, level, predict)
        guided = guided.denoised if isinstance(guided, GuidedStep) else None
        added.append(None if guided is None else (guided - OF_THE_GRAPH).flatten()[0].item())
    return added, calls


def test_last_direction_is_used_again_at_the_new_noise_level_by_hand():
    # 8 of noise at sigma 8 is 4 at 4; the third step asks again, and 6 at 2 is 3 at 1.
    added, calls = line(Economy(2, reuse=True), [8.0, math.nan, 6.0, math.nan, 1.0], scale=0.5)
    assert added == [4.0, 2.0, 3.0, 1.5, 0.5] and calls == 3


def test_every_second_step_with_twice_the_scale_by_hand():
    added, calls = line(Economy(2), [8.0, math.nan, 6.0, math.nan, 1.0], scale=0.5)
    assert added == [8.0, None, 6.0, None, 1.0] and calls == 3


@pytest.mark.parametrize(("skip_below", "calls"), [(0.0, 5), (0.7499, 5), (0.7501, 0), (1.0, 0)])
def test_steps_are_skipped_where_the_blur_changes_less_than_a_share_of_the_prediction(skip_below, calls):
    added, counted = line(Economy(skip_below=skip_below), [1.0] * 5)
    assert counted == calls and added == ([1.0] * 5 if calls else [None] * 5)


# What is added is 2 a in each of four pixels, a size of 4 a beside one of 8: a share of a / 2.
@pytest.mark.parametrize(("stop_below", "guided"), [(0.0, 5), (0.0095, 4), (0.0255, 3), (0.255, 1), (0.9, 1)])
def test_guiding_ends_after_the_first_step_that_adds_less_than_a_share_of_the_prediction(stop_below, guided):
    added, calls = line(Economy(stop_below=stop_below), [0.5, 0.1, 0.05, 0.01, 0.9], scale=2.0)
    assert calls == guided
    assert added == pytest.approx([1.0, 0.2, 0.1, 0.02, 1.8][:guided] + [None] * (5 - guided), abs=1e-5)


def test_guiding_that_has_ended_plans_nothing_more_and_reuses_nothing():
    added, calls = line(Economy(2, reuse=True, stop_below=0.3), [0.5, math.nan, 0.9, math.nan, 0.9])
    # 0.5 in each of four pixels is an eighth of what it is added to.
    assert (calls, added) == (1, [0.5, None, None, None, None])


def test_a_new_run_starts_anew():
    """What one run has seen, stopped at or kept is not the next one's."""
    economy = Economy(2, reuse=True, stop_below=0.3)
    assert line(economy, [0.5] * 5) == line(economy, [0.5] * 5)


@pytest.mark.parametrize("levels", [
    [8.0, 0.0, 2.0, 0.0, 0.0], [0.0] * 5, [0.0, 0.5, 8.0, 8.0, 0.0], [1e-45, 8.0, 1.0, 0.0, 4.0],
    [0.0, 1e-300, 1e300, 1.0, 1e-300],
], ids=str)
def test_a_last_direction_is_finite_whatever_the_noise_levels_are(levels):
    economy = Economy(1000, reuse=True)
    added, _ = line(economy, [8.0] * 5, levels=levels)
    assert all(value is not None and math.isfinite(value) for value in added)


def test_a_last_direction_of_no_noise_is_asked_for_anew():
    added, calls = line(Economy(2, reuse=True), [8.0, 6.0, 4.0], levels=[0.0, 0.0, 0.0])
    assert (added, calls) == ([8.0, 6.0, 4.0], 3)


# -- what is not finite ----------------------------------------------------------------------------------------------


def spoiled(normal, attn_map=False, denoised=False, rows=slice(None), steps=(0, 1, 2, 3, 4)):
    """Evaluations with NaN in them."""
    for i, (level, x, clean, base, seen) in enumerate(evaluations(normal, dtype=torch.float32)):
        if i in steps and attn_map:
            seen[rows, 0, 0] = math.nan
        if i in steps and denoised:
            clean[rows, 0, 0, 0] = math.inf
        yield level, x, clean, base, seen


STRATEGIES = {"plain": MaskOptions(), "inverse": MaskOptions("inverse"), "soft": MaskOptions(softness=0.5),
              "quantile": MaskOptions(quantile=0.5), "decay": MaskOptions(decay=0.5), "square": MaskOptions("square"),
              "own": MaskOptions(own_mask=torch.ones(1, 4, 4), combine="replace")}


@pytest.mark.parametrize("options", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize(("spoil", "reason"), [("attn_map", Reason.ATTENTION), ("denoised", Reason.PREDICTION)])
def test_what_is_not_finite_is_no_map_and_no_prediction(normal, options, spoil, reason):
    settings = SAGSettings(mask=options)
    results, calls = follow(settings, spoiled(normal, **{spoil: True}, steps=[0, 2]))
    assert [guided is not None for guided in results] == [False, True, False, True, True]
    assert calls == [0, 1, 0, 1, 1]
    assert all(guided is None or guided.denoised.isfinite().all() for guided in results)
    guidance = SelfAttentionGuidance(settings, Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
    for level, x, denoised, base, attn_map in spoiled(normal, **{spoil: True}):
        guidance.observe(attn_map)
        assert step(guidance, base, x, denoised, level, Network()) is reason


@pytest.mark.parametrize("options", STRATEGIES.values(), ids=STRATEGIES)
def test_a_map_that_is_not_finite_is_not_the_other_samples_concern(normal, options):
    settings = SAGSettings(mask=options)
    results, _ = follow(settings, spoiled(normal, attn_map=True, rows=slice(0, 1)))
    for guided in results:
        assert guided.denoised.isfinite().all() and not guided.mask[0].any() and guided.mask[1].any()


REASONS = {
    "scale": (SAGSettings(scale=0), EVERYWHERE, Reason.SCALE),
    "interval": (SAGSettings(), Interval(0.4, 0.1), Reason.OUTSIDE),
    "list of zeros": (settings_of(scale_curve=Curve("list", values=(0.0,) * 5)), EVERYWHERE, Reason.FACTOR),
    "no blur": (SAGSettings(blur_sigma=0.0), EVERYWHERE, Reason.NO_BLUR),
    "threshold": (SAGSettings(threshold=100), EVERYWHERE, Reason.NO_MASK),
    "skipped": (settings_of(economy=Economy(skip_below=1.0)), EVERYWHERE, Reason.SKIPPED),
}


@pytest.mark.parametrize(("settings", "interval", "reason"), REASONS.values(), ids=REASONS)
def test_a_step_that_is_left_alone_has_its_reason(normal, settings, interval, reason):
    guidance = SelfAttentionGuidance(settings, Process.VARIANCE_EXPLODING, interval, SIGMAS)
    for level, x, denoised, base, attn_map in evaluations(normal):
        guidance.observe(attn_map)
        assert guidance.decide(level).reason in (reason, None)
        assert step(guidance, base, x, denoised, level, Network()) is reason


def test_reasons_within_a_run(normal):
    stopping = settings_of(economy=Economy(2, stop_below=1e6))
    guidance = SelfAttentionGuidance(stopping, Process.VARIANCE_EXPLODING, Interval(4.0, 0.0), SIGMAS)
    reasons = []
    for level, x, denoised, base, attn_map in evaluations(normal):
        guidance.observe(attn_map)
        reasons.append(guidance.decide(level).reason)
        step(guidance, base, x, denoised, level, Network())
    assert reasons == [Reason.OUTSIDE, None, Reason.STOPPED, Reason.STOPPED, Reason.STOPPED]
    guidance = SelfAttentionGuidance(settings_of(economy=Economy(2)), Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
    assert [guidance.decide(level).reason for level in LEVELS] == [None, Reason.LEFT_OUT] * 2 + [None]


def test_an_extra_pass_that_overflows_leaves_its_images_alone(normal):
    def overflow(rows):
        def predict(x):
            x = x.clone()
            x[rows] = math.nan
            return x

        return predict

    guidance = SelfAttentionGuidance(SAGSettings(), Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
    level, x, denoised, base, attn_map = next(evaluations(normal))
    guidance.observe(attn_map)
    assert step(guidance, base, x, denoised, level, overflow(slice(None))) is Reason.OVERFLOW
    guided = step(guidance, base, x, denoised, level, overflow(0))
    assert guided.overflowed and torch.equal(guided.denoised[0], base[0])
    whole = step(guidance, base, x, denoised, level, lambda x: x)
    assert not whole.overflowed and torch.equal(guided.denoised[1], whole.denoised[1])


@pytest.mark.parametrize("to", ["cfg", "branch"])
def test_images_that_are_left_alone_are_not_corrected(normal, to):
    schedule = Schedule(economy=Economy(2, reuse=True))
    settings = SAGSettings(rescale=0.7, rescale_to=to, projection=0.5, schedule=schedule)
    guidance = SelfAttentionGuidance(settings, Process.VARIANCE_EXPLODING, EVERYWHERE, SIGMAS)
    for level, x, denoised, base, attn_map in list(evaluations(normal))[:2]:  # the second uses the direction again
        guidance.observe(attn_map)
        first_is_lost = torch.tensor([math.nan, 1.0]).view(2, 1, 1, 1)
        guided = step(guidance, base, x, denoised, level, lambda x, lost=first_is_lost: x * lost)
        assert torch.equal(guided.denoised[0], base[0]) and not torch.equal(guided.denoised[1], base[1])


# -- refused before sampling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "message"), [
    *[({name: value}, f"{name} is {value};") for name in ("rescale", "projection")
      for value in (-0.1, 1.1, math.nan, math.inf)],
    ({"rescale_to": "base"}, "rescale_to is 'base'; it must be one of cfg, branch"),
], ids=str)
def test_corrections_out_of_range_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        SAGSettings(**fields)
