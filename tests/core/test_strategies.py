"""What is blurred: every strategy on maps small enough to be masked by hand."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sag_core.strategies import STRATEGIES, MaskOptions, fit_mask, make_mask, smooth_step

NAMES = ("self-attention", "global", "high-frequency", "random", "square", "inverse", "DINO")
DRAWN = ("random", "square")
nan, inf = math.nan, math.inf

# Two samples of mean 1 on a grid of 2 x 3 tokens; the second attends to one of them, over and over.
EVEN = [[0.4, 0.6, 0.8], [1.0, 1.4, 1.8]]
PEAKED = [[0.1, 0.2, 0.3], [0.4, 0.5, 4.5]]
MAPS = torch.tensor([EVEN, PEAKED])
ABOVE_1 = [[[0, 0, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 1]]]


def seen(denoised):
    """A vision model that attends to other places than the guided one."""
    return torch.tensor([[[4.0, 0.0], [0.0, 0.0]]]).expand(len(denoised), -1, -1)


def options(strategy="self-attention", **fields):
    return MaskOptions(strategy, vision=seen if strategy == "DINO" else None, **fields)


def tokens(chosen, attn_map=MAPS, threshold=1.0, denoised=None, step=0):
    """The mask with one pixel for every token, without its dimension of channels."""
    denoised = torch.zeros(len(attn_map), 4, *attn_map.shape[1:]) if denoised is None else denoised
    mask = make_mask(chosen, attn_map, threshold, denoised, step)
    assert mask.dtype == torch.float32
    assert mask.shape == (len(denoised), 1, *denoised.shape[2:])
    return mask[:, 0]


def test_there_are_these_strategies():
    assert tuple(STRATEGIES) == NAMES


# -- what the strategies choose --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "expected"), [
    ("self-attention", ABOVE_1),
    ("inverse", [[[1, 1, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]]]),
    ("global", [[[1, 1, 1], [1, 1, 1]]] * 2),
])
def test_mask_of_each_sample_by_hand(strategy, expected):
    assert tokens(options(strategy)).tolist() == expected


@pytest.mark.parametrize("strategy", ["self-attention", "inverse"])
def test_attention_equal_to_the_threshold_does_not_count(strategy):
    attended = torch.tensor(ABOVE_1)
    expected = attended if strategy == "self-attention" else 1 - attended
    assert tokens(options(strategy), threshold=1.0).tolist() == expected.tolist()  # a token of EVEN is exactly 1


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize(("grid", "size", "owners"), [
    ((2, 3), (4, 6), ([0, 0, 1, 1], [0, 0, 1, 1, 2, 2])),
    ((2, 3), (3, 5), ([0, 0, 1], [0, 0, 1, 1, 2])),
    ((2, 3), (2, 7), ([0, 1], [0, 0, 0, 1, 1, 2, 2])),
], ids=["patches", "patches over the edge", "stretched"])
def test_every_pixel_takes_the_mask_of_its_token(strategy, grid, size, owners, normal):
    chosen = options(strategy)
    if strategy == "DINO":  # its grid is that of the vision model
        chosen = MaskOptions(strategy, vision=lambda denoised: MAPS)
    denoised = normal(2, 4, *size, dtype=torch.float32)
    mask = make_mask(chosen, MAPS, 1.0, denoised)[:, 0]
    rows, columns = owners
    first = [owners.index(token) for owners, count in zip(owners, grid, strict=True) for token in range(count)]
    on_tokens = mask[:, first[:2]][:, :, first[2:]]
    assert torch.equal(mask, on_tokens[:, rows][:, :, columns])
    assert set(mask.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("strategy", ["high-frequency", *DRAWN])
@pytest.mark.parametrize(("threshold", "counts"), [(0.0, [6, 6]), (0.35, [6, 3]), (1.0, [2, 1]), (5.0, [0, 0])])
def test_others_take_the_area_of_the_attention_mask_in_every_sample(strategy, threshold, counts, normal):
    if strategy == "square" and counts == [6, 3]:
        counts = [6, 2]  # 2 x 3 tokens, both sides shrunk by sqrt(1/2) and rounded: 1 x 2
    mask = tokens(options(strategy), threshold=threshold, denoised=normal(2, 4, 2, 3, dtype=torch.float32))
    assert mask.sum(dim=(1, 2)).tolist() == counts


def test_dino_asks_the_vision_model_and_thresholds_its_map():
    asked = []

    def vision(denoised):
        asked.append(denoised)
        return torch.tensor([[[0.5, 1.5]]])

    denoised = torch.rand(1, 4, 2, 4)
    mask = make_mask(MaskOptions("DINO", vision=vision), MAPS[:1], 1.0, denoised)
    assert mask[0, 0].tolist() == [[0, 0, 1, 1]] * 2
    assert len(asked) == 1 and torch.equal(asked[0], denoised)


def detail(denoised, patch):
    """How far x0 is from its blur of sigma 1, in the mean over channels and over the pixels of each token; float64."""
    offset = torch.arange(-4, 5, dtype=torch.float64)
    line = torch.exp(-offset ** 2 / 2)
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(denoised.shape[1], 1, -1, -1)
    blurred = F.conv2d(F.pad(denoised.double(), (4,) * 4, mode="reflect"), kernel, groups=denoised.shape[1])
    far = (denoised - blurred).abs().mean(dim=1)
    height, width = far.shape[1:]
    score = torch.zeros(len(far), -(-height // patch), -(-width // patch), dtype=torch.float64)
    for i in range(score.shape[1]):
        for j in range(score.shape[2]):
            own = far[:, i * patch:(i + 1) * patch, j * patch:(j + 1) * patch]
            score[:, i, j] = own.mean(dim=(1, 2))
    return score


@pytest.mark.parametrize("size", [(16, 24), (15, 21), (13, 17)], ids=str)
def test_high_frequency_takes_the_tokens_with_most_detail(normal, size):
    """Each token's own pixels, where the last ones hang over the edge as well."""
    denoised = normal(2, 3, *size)
    score = detail(denoised, 4)
    attn_map = normal(2, *score.shape[1:]).exp().float()
    mask = make_mask(options("high-frequency"), attn_map, 1.0, denoised)[:, 0, ::4, ::4]
    for chosen, own, attended in zip(mask, score, attn_map > 1, strict=True):
        assert set(own.flatten().topk(int(attended.sum())).indices.tolist()) == set(
            chosen.flatten().nonzero().flatten().tolist())


def test_high_frequency_of_flat_images_with_texture_in_one_place():
    denoised = torch.full((2, 4, 8, 12), 0.5)
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)
    denoised[0, :, 4:, :4] += checks
    denoised[1, :, :4, 8:] += checks
    mask = tokens(options("high-frequency"), torch.tensor([[[6.0, 0, 0], [0, 0, 0]]] * 2), denoised=denoised)
    assert mask[:, ::4, ::4].tolist() == [[[0, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 0]]]


def test_high_frequency_looks_at_the_frames_of_a_video(normal):
    denoised = torch.zeros(1, 2, 3, 8, 8)
    denoised[0, :, 1, 4:, :4] = torch.tensor([1.0, -1.0]).repeat(4, 2)
    attn_map = torch.zeros(1, 3, 2, 2)
    attn_map[0, 0, 0, 0] = 12.0
    mask = make_mask(options("high-frequency"), attn_map, 1.0, denoised)
    expected = torch.zeros(1, 1, 3, 8, 8)
    expected[:, :, 1, 4:, :4] = 1
    assert torch.equal(mask, expected)


# -- places drawn at random ------------------------------------------------------------------------------------------


@pytest.fixture
def attn_map(normal):
    """Three samples on 8 x 12 tokens."""
    return normal(3, 8, 12, dtype=torch.float32).exp()


@pytest.mark.parametrize("strategy", DRAWN)
def test_places_are_the_same_whenever_they_are_drawn_again(strategy, attn_map):
    chosen = options(strategy, seed=7)
    mask = tokens(chosen, attn_map, step=3)
    torch.manual_seed(1)
    random.seed(1)
    assert torch.equal(tokens(options(strategy, seed=7), attn_map, step=3), mask)


@pytest.mark.parametrize("strategy", DRAWN)
def test_drawing_places_does_not_disturb_the_samplers_noise(strategy, attn_map):
    before = torch.get_rng_state()
    tokens(options(strategy), attn_map)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("strategy", DRAWN)
def test_places_are_others_in_every_sample_at_every_step_and_with_every_seed(strategy, attn_map):
    same = attn_map[:1].expand(3, -1, -1)
    masks = [tokens(options(strategy, seed=seed), same, 4.0, step=step) for seed in (0, 1000) for step in range(3)]
    different = {mask.numpy().tobytes() for batch in masks for mask in batch}
    assert len(different) == 18 if strategy == "random" else len(different) >= 14  # small rectangles meet by chance


@pytest.mark.parametrize("strategy", DRAWN)
def test_runs_with_other_seeds_do_not_repeat_each_others_masks(strategy, attn_map):
    """Seed 1 is not seed 0 a step later."""
    assert not torch.equal(tokens(options(strategy, seed=1), attn_map, step=0),
                           tokens(options(strategy, seed=0), attn_map, step=1))


@pytest.mark.parametrize("strategy", DRAWN)
def test_drawn_places_have_nothing_to_do_with_where_attention_is(strategy, attn_map):
    moved = attn_map.flip(-1)
    assert torch.equal(tokens(options(strategy), attn_map), tokens(options(strategy), moved))


def test_random_tokens_are_anywhere_equally_often(attn_map):
    mean = torch.stack([tokens(options("random"), attn_map, 2.0, step=step) for step in range(400)]).mean(dim=0)
    share = (attn_map > 2).float().mean(dim=(1, 2))[:, None, None]
    # Five standard deviations of a mean of 400 draws.
    assert ((mean - share).abs() < 5 * (share * (1 - share) / 400).sqrt()).all()


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (16, 16), (4, 16), (2, 30), (3, 5), (1, 9)], ids=str)
@pytest.mark.parametrize("attended", [1, 2, 5, 9])
def test_square_is_one_rectangle_of_the_grids_proportions_with_about_the_area(shape, attended):
    attn_map = torch.zeros(1, *shape)
    attn_map.view(-1)[:attended] = 2.0
    exact = [side * math.sqrt(attended / math.prod(shape)) for side in shape]
    for step in range(8):
        mask = tokens(options("square"), attn_map, step=step)[0]
        places = [mask.any(dim=dim).nonzero().flatten() for dim in (1, 0)]
        sides = [len(place) for place in places]
        assert all(place[-1] - place[0] + 1 == len(place) for place in places)  # without gaps
        assert mask.sum() == math.prod(sides)
        # Rounded to whole tokens, of which there is at least one.
        assert math.prod(side - 0.5 for side in exact) <= mask.sum() <= max(1, math.prod(side + 0.5 for side in exact))
        if min(exact) >= 0.5:
            assert all(abs(side - wanted) <= 0.5 for side, wanted in zip(sides, exact, strict=True))


def test_square_is_anywhere():
    attn_map = torch.zeros(1, 8, 12)
    attn_map.view(-1)[:24] = 2.0  # a quarter: 4 x 6
    corners = {tuple(tokens(options("square"), attn_map, step=step)[0].nonzero()[0].tolist()) for step in range(600)}
    assert corners == {(top, left) for top in range(5) for left in range(7)}


def test_square_is_one_in_every_frame_with_the_frames_own_area():
    attn_map = torch.zeros(1, 3, 8, 12)
    attn_map[0, 0].view(-1)[:24] = 2.0
    attn_map[0, 2] = 2.0
    mask = make_mask(options("square"), attn_map, 1.0, torch.zeros(1, 4, 3, 8, 12))
    assert mask.sum(dim=(1, 3, 4)).tolist() == [[24, 0, 96]]


def test_random_tokens_of_a_video_are_as_many_as_are_attended_to():
    attn_map = torch.zeros(2, 3, 4, 4)
    attn_map[0, 0, 0, 0] = attn_map[1, 2] = 2.0
    mask = make_mask(options("random"), attn_map, 1.0, torch.zeros(2, 4, 3, 4, 4))
    assert mask.sum(dim=(1, 2, 3, 4)).tolist() == [1, 16]


# -- edges and thresholds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y"), [
    (-3.0, 0.0), (0.0, 0.0), (0.25, 0.15625), (0.5, 0.5), (0.75, 0.84375), (1.0, 1.0), (3.0, 1.0)])
def test_smooth_step_by_hand(x, y):
    assert smooth_step(torch.tensor(x)).item() == y


# Width 0.4 around the threshold 1.
SOFT = {0.0: 0.0, 0.8: 0.0, 0.9: 0.15625, 1.0: 0.5, 1.1: 0.84375, 1.2: 1.0, 7.0: 1.0}


@pytest.mark.parametrize(("strategy", "sign"), [("self-attention", 1), ("inverse", -1)])
def test_soft_edge_is_a_smooth_step_around_the_threshold_as_wide_as_asked(strategy, sign):
    attn_map = torch.tensor([[list(SOFT)]])
    expected = torch.tensor([[list(SOFT.values())]])
    mask = tokens(options(strategy, softness=0.4), attn_map)
    assert_close(mask, expected if sign > 0 else 1 - expected, rtol=1e-5, atol=1e-5)


def test_soft_edge_becomes_the_hard_one_as_it_narrows(attn_map):
    assert torch.equal(tokens(options(softness=1e-6), attn_map), tokens(options(), attn_map))


@pytest.mark.parametrize("strategy", ["high-frequency", *DRAWN])
def test_a_soft_edge_does_not_change_the_area_of_others(strategy, attn_map, normal):
    denoised = normal(3, 4, 8, 12, dtype=torch.float32)
    hard, soft = (tokens(options(strategy, softness=s), attn_map, denoised=denoised) for s in (0.0, 0.7))
    assert torch.equal(hard, soft)


# Share of the six tokens that is left alone, and those that are not, of both samples alike.
QUANTILES = [(0.0, [0, 1, 2, 3, 4, 5]), (1 / 3, [2, 3, 4, 5]), (0.5, [3, 4, 5]), (5 / 6, [5]), (1.0, [])]


@pytest.mark.parametrize(("quantile", "chosen"), QUANTILES)
def test_quantile_is_each_samples_own_whatever_the_threshold(quantile, chosen):
    expected = [[[float(3 * row + i in chosen) for i in range(3)] for row in range(2)]] * 2
    for threshold in (0.0, 1.0, 50.0):
        assert tokens(options(quantile=quantile), threshold=threshold).tolist() == expected


def test_quantile_with_a_soft_edge_is_centred_on_the_sample_s_own_level():
    # The levels are 0.8 and 0.3, the third of six; half of a width of 0.4 further the mask is 1.
    expected = torch.tensor([[[0.0, 0.0, 0.5], [1.0, 1.0, 1.0]], [[0.0, 0.15625, 0.5], [0.84375, 1.0, 1.0]]])
    assert_close(tokens(options(quantile=0.5, softness=0.4)), expected, rtol=1e-4, atol=1e-5)


def test_quantile_of_a_video_is_that_of_all_its_frames():
    attn_map = torch.arange(16.0).view(1, 4, 2, 2)
    mask = make_mask(options(quantile=0.75), attn_map, 1.0, torch.zeros(1, 4, 4, 2, 2))
    assert mask.sum(dim=(3, 4)).tolist() == [[[0, 0, 0, 4]]]


def test_quantile_decides_about_a_vision_models_map_as_well():
    assert tokens(MaskOptions("DINO", quantile=0.5, vision=lambda denoised: MAPS)).tolist() == [
        [[0, 0, 0], [1, 1, 1]]] * 2


# -- the user's own mask ---------------------------------------------------------------------------------------------

# 2 x 3 pixels, soft in the middle column.
OWN = torch.tensor([[[1.0, 0.25, 0.0], [1.0, 0.25, 0.0]]])
# Where EVEN and PEAKED are above 0.9: the last row, and its last token.
COMBINED = {
    "intersect": [[[0, 0, 0], [1, 0.25, 0]], [[0, 0, 0], [0, 0, 0]]],
    "unite": [[[1, 0.25, 0], [1, 1, 1]], [[1, 0.25, 0], [1, 0.25, 1]]],
    "replace": [[[1, 0.25, 0], [1, 0.25, 0]]] * 2,
}


@pytest.mark.parametrize("combine", COMBINED)
def test_own_mask_is_combined_by_hand(combine):
    assert tokens(MaskOptions(own_mask=OWN, combine=combine), threshold=0.9).tolist() == COMBINED[combine]


@pytest.mark.parametrize(("combine", "expected"), [
    ("intersect", [0.0, 0.15625, 0.25]), ("unite", [0.25, 0.25, 0.5]), ("replace", [0.25, 0.25, 0.25])])
def test_soft_masks_are_combined_by_the_lower_or_the_higher_value(combine, expected):
    chosen = MaskOptions(softness=0.4, own_mask=torch.full((1, 1, 3), 0.25), combine=combine)
    assert_close(tokens(chosen, torch.tensor([[[0.8, 0.9, 1.0]]]))[0, 0], torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("combine", COMBINED)
def test_own_mask_of_everything_or_nothing(strategy, combine, normal):
    denoised = normal(2, 4, 8, 12, dtype=torch.float32)
    alone = make_mask(options(strategy), MAPS, 1.0, denoised)
    nothing, everything = torch.zeros_like(alone), torch.ones_like(alone)
    for own, expected in ((nothing, {"intersect": nothing, "unite": alone, "replace": nothing}),
                          (everything, {"intersect": alone, "unite": everything, "replace": everything})):
        mask = make_mask(options(strategy, own_mask=own[:1, 0], combine=combine), MAPS, 1.0, denoised)
        assert torch.equal(mask, expected[combine])


def test_own_mask_that_replaces_needs_no_attention():
    def unseen(denoised):
        raise AssertionError("nobody needs to look")

    chosen = MaskOptions("DINO", own_mask=OWN, combine="replace", vision=unseen)
    assert torch.equal(tokens(chosen), OWN.expand(2, -1, -1))


@pytest.mark.parametrize(("own", "size", "expected"), [
    ([[0.0, 0.5, 1.0]], (1, 3), [[0.0, 0.5, 1.0]]),
    ([[-1.0, 3.0]], (1, 2), [[0.0, 1.0]]),
    ([[0.5]], (2, 3), [[0.5] * 3] * 2),
    ([[0.0, 1.0]], (1, 4), [[0.0, 0.25, 0.75, 1.0]]),
    ([[0.0], [1.0]], (4, 1), [[0.0], [0.25], [0.75], [1.0]]),
    ([[0.0, 1.0, 1.0, 1.0]], (1, 2), [[0.5, 1.0]]),
    ([[0.0] * 8 + [1.0] * 8] * 8, (1, 2), [[0.0, 1.0]]),
], ids=["same size", "clamped", "a pixel", "wider", "higher", "half as wide", "edge between latent pixels"])
def test_own_mask_of_another_size_is_resized_as_the_host_does(own, size, expected):
    fitted = fit_mask(torch.tensor([own]), torch.zeros(1, 4, *size))
    assert fitted.dtype == torch.float32
    assert_close(fitted[0, 0], torch.tensor(expected))


@pytest.mark.parametrize(("masks", "batch", "expected"), [
    ([0.5], 3, [0.5, 0.5, 0.5]), ([0.1, 0.9], 2, [0.1, 0.9]), ([0.1, 0.9], 3, [0.1, 0.9, 0.1]),
    ([0.1, 0.5, 0.9], 2, [0.1, 0.5]), ([0.1, 0.9], 5, [0.1, 0.9, 0.1, 0.9, 0.1]),
])
def test_own_masks_are_repeated_over_the_batch(masks, batch, expected):
    own = torch.tensor(masks)[:, None, None].expand(-1, 2, 3)
    fitted = fit_mask(own, torch.zeros(batch, 4, 2, 3))
    assert_close(fitted, torch.tensor(expected)[:, None, None, None].expand(-1, 1, 2, 3))


@pytest.mark.parametrize(("masks", "frames"), [
    ([0.5], [0.5, 0.5, 0.5, 0.5]), ([0.0, 0.2, 0.4, 0.6], [0.0, 0.2, 0.4, 0.6]),
    ([0.0, 1.0], [0.0, 0.25, 0.75, 1.0]), ([0.1, 0.3, 0.5, 0.7, 0.2, 0.4, 0.6, 0.8], [0.2, 0.6, 0.3, 0.7]),
], ids=["one for all", "one each", "fewer", "more"])
def test_own_masks_of_a_video_are_those_of_its_frames(masks, frames):
    """As the host's: stretched in time, where they are as many as the decoded images."""
    own = torch.tensor(masks)[:, None, None].expand(-1, 2, 3)
    fitted = fit_mask(own, torch.zeros(2, 4, 4, 2, 3))
    assert_close(fitted, torch.tensor(frames)[None, None, :, None, None].expand(2, 1, 4, 2, 3))


# -- what holds for all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [name for name in NAMES if name not in DRAWN])
@pytest.mark.parametrize("fields", [{}, {"softness": 0.5}, {"quantile": 0.6}], ids=str)
def test_samples_of_a_batch_are_independent(strategy, fields, attn_map, normal):
    denoised = normal(3, 4, 16, 24, dtype=torch.float32)
    chosen = options(strategy, **fields)
    rows = [make_mask(chosen, attn_map[i:i + 1], 1.1, denoised[i:i + 1]) for i in range(3)]
    assert torch.equal(make_mask(chosen, attn_map, 1.1, denoised), torch.cat(rows))


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_masks_of_half_precision_predictions_are_float32(strategy, half, attn_map, normal):
    mask = tokens(options(strategy, softness=0.3), attn_map, denoised=normal(3, 4, 8, 12, dtype=half))
    assert mask.min() >= 0 and mask.max() <= 1


@pytest.mark.parametrize("strategy", [name for name in NAMES if name != "DINO"])
def test_video_masks_are_video_shaped(strategy, normal):
    denoised = normal(2, 4, 3, 8, 12, dtype=torch.float32)
    mask = make_mask(options(strategy), normal(2, 3, 4, 6).exp(), 1.0, denoised)
    assert mask.shape == (2, 1, 3, 8, 12) and mask.any()


@pytest.mark.parametrize("strategy", NAMES)
def test_inputs_are_left_as_they_were(strategy, attn_map, normal):
    denoised, own = normal(3, 4, 8, 12, dtype=torch.float32), torch.rand(1, 5, 5) * 3 - 1
    before = [t.clone() for t in (attn_map, denoised, own)]
    make_mask(options(strategy, own_mask=own, softness=0.3, quantile=0.5), attn_map, 1.0, denoised)
    assert all(torch.equal(t, was) for t, was in zip((attn_map, denoised, own), before, strict=True))


# -- options ---------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"strategy": "blur"}, "strategy is 'blur'; it must be one of self-attention, global"),
    ({"strategy": "DINO"}, "strategy is 'DINO', but no CLIP_VISION model is connected"),
    ({"combine": "add"}, "combine is 'add'; it must be one of replace, intersect, unite"),
    ({"combine": "replace"}, "combine is 'replace', but no mask is connected"),
    *[({field: value}, f"{field} is {value};") for field, values in {
        "quantile": (-0.1, 1.1, nan, inf), "softness": (-0.1, 100.5, nan, inf, -inf), "decay": (-0.1, 1.0, nan, inf),
    }.items() for value in values],
    ({"own_mask": torch.ones(4, 4)}, r"mask has the shape \(4, 4\)"),
    ({"own_mask": torch.ones(1, 1, 4, 4)}, r"mask has the shape \(1, 1, 4, 4\)"),
    ({"own_mask": torch.ones(0, 4, 4)}, r"mask has the shape \(0, 4, 4\)"),
    ({"own_mask": torch.ones(1, 0, 4)}, r"mask has the shape \(1, 0, 4\)"),
    ({"own_mask": torch.tensor([[[0.0, nan]]])}, "mask holds values that are not finite"),
    ({"own_mask": torch.tensor([[[inf, 1.0]]])}, "mask holds values that are not finite"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_options_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        MaskOptions(**fields)


@pytest.mark.parametrize("fields", [
    {"quantile": 0.0}, {"quantile": 1.0}, {"softness": 0.0}, {"softness": 100.0}, {"decay": 0.0}, {"decay": 0.99},
    {"own_mask": OWN, "combine": "replace"}, {"own_mask": OWN.half()}, {"seed": 2 ** 31 - 1},
], ids=str)
def test_options_at_the_ends_of_their_range_are_taken(fields):
    chosen = MaskOptions(**fields)
    assert all(getattr(chosen, name) is value for name, value in fields.items())
    assert tokens(chosen, step=1000).isfinite().all()


@pytest.mark.parametrize(("fields", "plain"), [
    ({}, True), ({"seed": 3}, True), ({"combine": "unite"}, True), ({"quantile": 0.5}, False), ({"quantile": 0}, False),
    ({"softness": 0.1}, False), ({"decay": 0.5}, False), ({"own_mask": OWN}, False), ({"strategy": "global"}, False),
    ({"strategy": "random"}, False), ({"strategy": "DINO", "vision": seen}, False),
])
def test_only_a_threshold_on_this_steps_attention_is_plain(fields, plain):
    assert MaskOptions(**fields).is_plain is plain


@pytest.mark.parametrize("softness", [1e-300, 1e-45, 1e-20, 1e-7, 1e-5])
def test_the_narrowest_edges_are_hard(softness):
    attn_map = torch.tensor([[[0.5, 1.0, 1.5, 1.0]]])
    mask = make_mask(MaskOptions(softness=softness), attn_map, 1.0, torch.zeros(1, 1, 1, 4))
    assert mask.isfinite().all() and mask[0, 0, 0, [0, 2]].tolist() == [0, 1]
