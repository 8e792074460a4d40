"""One guided step: the x0-space update is the paper's in eps, for every process and model output."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sag_core.degrade import Process
from sag_core.guidance import sag_direction, self_attention_guidance
from sag_core.schedule import Interval
from sag_core.settings import SAGSettings

VE, FM, VP = Process.VARIANCE_EXPLODING, Process.FLOW_MATCHING, Process.VARIANCE_PRESERVING


def network(x):
    """Some network: neighbours matter, and it is not linear."""
    return torch.tanh(1.3 * x + 0.4 * x.roll(1, -1) - 0.5 * x.roll(2, -2) * x.roll(1, 1))


def factors(process, s):
    """a and b of x = a x0 + b n."""
    return {VE: (1.0, s), FM: (1 - s, s), VP: (1 / math.sqrt(1 + s * s), s / math.sqrt(1 + s * s))}[process]


def edm(x, s):
    """EDM (arXiv 2206.00364, eq. 7) with sigma_data 0.5."""
    c = math.sqrt(s * s + 0.25)
    return 0.25 / c ** 2 * x + 0.5 * s / c * network(x / c)


def v_scaled(x, s):
    """v-prediction of a variance-preserving model that is given x0 + sigma n."""
    a, b = factors(VP, s)
    return a * (a * x) - b * network(a * x)


# What each model predicts, as its x0.
MODELS = {
    "eps, variance exploding": (VE, lambda x, s: x - s * network(x)),
    "eps, variance preserving": (VP, lambda x, s: (x - factors(VP, s)[1] * network(x)) / factors(VP, s)[0]),
    "eps, flow matching": (FM, lambda x, s: (x - s * network(x)) / (1 - s)),
    "v, variance preserving": (VP, lambda x, s: factors(VP, s)[0] * x - factors(VP, s)[1] * network(x)),
    "v, scaled to variance exploding": (VE, v_scaled),
    "velocity, flow matching": (FM, lambda x, s: x - s * network(x)),
    "EDM": (VE, edm),
}


def paper_step(x, attn_map, sigma, process, model, psi, s, blur_sigma=1.0, kernel=9, mask_all=False):
    """Algorithm 1 of the paper in eps, float64; returns the x0 of the guided eps. Patches are squares."""
    a, b = factors(process, sigma)

    def eps(at):
        return (at - a * model(at, sigma)) / b

    side = x.shape[-1] // attn_map.shape[-1]
    mask = (attn_map > psi).double().kron(torch.ones(1, side, side, dtype=x.dtype))[:, None]
    mask = torch.ones_like(mask) if mask_all else mask
    offset = torch.arange(kernel, dtype=x.dtype) - kernel // 2
    taps = torch.exp(-(offset[:, None] ** 2 + offset ** 2) / (2 * blur_sigma ** 2))
    weight = (taps / taps.sum()).expand(x.shape[1], 1, -1, -1)
    x0 = (x - b * eps(x)) / a
    x0_blur = F.conv2d(F.pad(x0, (kernel // 2,) * 4, mode="reflect"), weight, groups=x.shape[1])
    x_deg = a * (mask * x0_blur + (1 - mask) * x0) + b * eps(x)
    guided = eps(x) + s * (eps(x) - eps(x_deg))
    return (x - b * guided) / a


@pytest.fixture
def sample(normal):
    """Noisy sample and map, not square."""
    return normal(2, 3, 12, 20), normal(2, 3, 5).exp()


def step(x, attn_map, sigma, settings, process=VE, model=MODELS["eps, variance exploding"][1], base=None):
    denoised, noise_level = model(x, sigma), torch.tensor(sigma, dtype=torch.float64)
    return self_attention_guidance(
        denoised if base is None else base, x, denoised, attn_map, noise_level, lambda at: model(at, sigma),
        settings.scale, settings.threshold, settings.blur_sigma, blur_kernel=settings.blur_kernel, process=process)


@pytest.mark.parametrize("scale", [0.5, 2.0, -0.3])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 0.95])
@pytest.mark.parametrize(("process", "model"), MODELS.values(), ids=MODELS)
def test_x0_update_is_the_papers_update_of_eps(sample, process, model, sigma, scale):
    x, attn_map = sample
    guided = step(x, attn_map, sigma, SAGSettings(scale, 1.0, threshold=1.1), process, model)
    expected = paper_step(x, attn_map, sigma, process, model, 1.1, scale)
    assert_close(guided, expected, rtol=1e-9, atol=1e-9)


def test_direction_by_hand():
    """[0, 0, 4, 0] blurred by 1/4, 1/2, 1/4 where it is 4 becomes 2 there; shown 2 less, the model answers 1 less."""
    denoised, mask = torch.tensor([[[[0.0, 0.0, 4.0, 0.0]]]]), torch.tensor([[[[0.0, 0.0, 1.0, 0.0]]]])
    quarter = math.sqrt(0.5 / math.log(2))
    asked = []

    def predict(x):
        asked.append(x)
        return denoised - (denoised + 7 - x) / 2

    direction = sag_direction(denoised + 7, denoised, mask, torch.tensor(1.0), predict, quarter, 3)
    assert_close(asked[0], torch.tensor([[[[7.0, 7.0, 9.0, 7.0]]]]))
    assert_close(direction, torch.tensor([[[[0.0, 0.0, -1.0, 0.0]]]]))


def test_where_blurring_changes_too_little_the_model_is_not_asked():
    x = torch.ones(1, 1, 4, 4)
    assert sag_direction(x, x, x, torch.tensor(1.0), pytest.fail, 1.0, least_change=0.01) is None


def test_scale_zero_is_the_identity_bit_for_bit(sample):
    x, attn_map = sample
    assert torch.equal(step(x, attn_map, 0.7, SAGSettings(scale=0)), MODELS["eps, variance exploding"][1](x, 0.7))


@pytest.mark.parametrize("settings", [
    SAGSettings(scale=2.0, threshold=100), SAGSettings(scale=2.0, blur_sigma=0, threshold=0),
], ids=["mask 0", "blur 0"])
@pytest.mark.parametrize("process", Process)
def test_nothing_hidden_is_the_identity_bit_for_bit(sample, settings, process):
    x, attn_map = sample
    model = MODELS["eps, variance exploding"][1]
    # The model sees x again, so the two predictions cancel.
    assert torch.equal(step(x, attn_map, 0.7, settings, process), model(x, 0.7))


def test_everything_hidden_is_blur_guidance(sample):
    x, attn_map = sample
    process, model = MODELS["EDM"]
    guided = step(x, attn_map, 0.7, SAGSettings(1.5, 1.0, threshold=0), process, model)
    expected = paper_step(x, attn_map, 0.7, process, model, 1.0, 1.5, mask_all=True)
    assert_close(guided, expected, rtol=1e-9, atol=1e-9)


def test_guidance_is_added_to_whatever_the_base_is(sample, normal):
    x, attn_map = sample
    base, settings = normal(*x.shape), SAGSettings(0.8)
    unguided = MODELS["eps, variance exploding"][1](x, 0.7)
    added = step(x, attn_map, 0.7, settings) - unguided
    assert added.abs().max() > 1e-3
    assert_close(step(x, attn_map, 0.7, settings, base=base), base + added, rtol=1e-12, atol=1e-12)


def test_model_is_asked_once_about_the_degraded_sample(sample):
    x, attn_map = sample
    asked = []

    def predict(at):
        asked.append(at)
        return at

    denoised = 0.5 * x
    self_attention_guidance(denoised, x, denoised, attn_map, torch.tensor(1.0), predict)
    assert len(asked) == 1
    # Unmasked pixels come as they were; masked ones do not.
    kept = (attn_map <= 1).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand_as(x)
    assert torch.equal(asked[0][kept], x[kept]) and (asked[0] != x)[~kept].all()


def test_batch_rows_are_independent(sample):
    x, attn_map = sample
    rows = [step(x[i:i + 1], attn_map[i:i + 1], 0.7, SAGSettings()) for i in range(2)]
    assert_close(step(x, attn_map, 0.7, SAGSettings()), torch.cat(rows), rtol=1e-12, atol=1e-12)


def test_video_is_guided_frame_by_frame_where_the_model_is(normal):
    x, attn_map = normal(2, 3, 4, 8, 8), normal(2, 4, 2, 2).exp()

    def frames(f, at):
        return torch.stack([f(frame) for frame in at.unbind(2)], dim=2)

    video = step(x, attn_map, 0.7, SAGSettings(), model=lambda at, s: frames(lambda frame: edm(frame, s), at))
    for t in range(4):
        assert_close(video[:, :, t], step(x[:, :, t], attn_map[:, t], 0.7, SAGSettings(), model=edm),
                     rtol=1e-12, atol=1e-12)


def test_step_keeps_the_dtype(sample, dtype, tolerance):
    x, attn_map = sample[0].to(dtype), sample[1]
    model = MODELS["eps, variance exploding"][1]
    guided = step(x, attn_map.float(), 0.4, SAGSettings(0.5, 1.0), model=model)
    assert guided.dtype == dtype
    expected = paper_step(x.double(), attn_map, 0.4, VE, model, 1.0, 0.5)
    # Half a dozen roundings of values up to 4.
    assert_close(guided.double(), expected, rtol=0, atol=8 * tolerance["atol"])


@pytest.mark.parametrize(("field", "value"), [
    *[(field, value) for field in ("scale", "blur_sigma", "threshold", "start_percent", "end_percent")
      for value in (math.nan, math.inf, -math.inf)],
    ("scale", -10.1), ("scale", 10.1), ("blur_sigma", -0.1), ("blur_sigma", 100.5), ("threshold", -0.1),
    ("threshold", 101), ("start_percent", -0.01), ("start_percent", 1.01), ("end_percent", -0.01),
    ("end_percent", 1.01), ("blur_kernel", 2), ("blur_kernel", 30), ("blur_kernel", -1), ("blur_kernel", -2),
    ("blur_kernel", 1_000_000_001),
])
def test_settings_out_of_range_are_refused_by_name_and_value(field, value):
    with pytest.raises(ValueError) as error:
        SAGSettings(**{field: value})
    assert str(error.value).startswith(f"{field} is {value};")


@pytest.mark.parametrize(("field", "value"), [
    ("scale", -10), ("scale", 0), ("scale", 10), ("blur_sigma", 0), ("blur_sigma", 100), ("threshold", 0),
    ("threshold", 100), ("start_percent", 0), ("start_percent", 1), ("end_percent", 0), ("end_percent", 1),
    ("blur_kernel", 0), ("blur_kernel", 1), ("blur_kernel", 31),
])
def test_settings_at_the_ends_of_their_range_are_taken(field, value):
    assert getattr(SAGSettings(**{field: value}), field) == value


def test_settings_that_would_guide_no_step_are_refused():
    with pytest.raises(ValueError, match=r"start_percent is 0\.6, after end_percent 0\.4"):
        SAGSettings(start_percent=0.6, end_percent=0.4)
    assert SAGSettings(start_percent=0.4, end_percent=0.4).start_percent == 0.4


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAGSettings().scale = 1.0


@pytest.mark.parametrize(("sigma", "guided"), [
    (14.61, False), (14.6, True), (3.0, True), (0.5, True), (0.49, False), (0.0, False), (math.nan, False),
])
def test_interval_includes_both_ends(sigma, guided):
    assert (sigma in Interval(sigma_start=14.6, sigma_end=0.5)) is guided


def test_interval_may_be_one_noise_level_or_all_of_them():
    assert 1.0 in Interval(1.0, 1.0) and 1.1 not in Interval(1.0, 1.0)
    assert all(sigma in Interval(math.inf, 0.0) for sigma in (0.0, 1e-9, 1e9, math.inf))
