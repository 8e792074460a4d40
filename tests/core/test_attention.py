"""column_mass is the column sum of the softmax matrix, whatever the chunk, the mask and the dtype."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sag_core.attention import EXACT_QUERIES, SAMPLED_QUERIES, column_mass, sample_queries, split_heads

B, HEADS, Q, K, D = 2, 4, 5, 7, 3


def definition(q, k, scale=None, bias=None):
    """Write out every probability in float64; `bias` [B, heads, Q, K] is added to the logits. -inf rows count 0."""
    q, k = q.double(), k.double()
    batch, heads, queries, dim = q.shape
    scale = 1 / math.sqrt(dim) if scale is None else scale
    mass = torch.zeros(batch, k.shape[2], dtype=torch.float64)
    for b in range(batch):
        for head in range(heads):
            for query in range(queries):
                logits = scale * (k[b, head * k.shape[1] // heads] @ q[b, head, query])
                if bias is not None:
                    logits = logits + bias[b, head, query]
                if logits.max() > -math.inf:
                    mass[b] += torch.softmax(logits, 0) / heads
    return mass


def test_two_tokens_by_hand():
    # Logits [0, 0] and [0, ln 3]: rows [1/2, 1/2] and [1/4, 3/4].
    q = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    k = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    assert_close(column_mass(q, k, scale=1.0), torch.tensor([[0.75, 1.25]]))


@pytest.mark.parametrize("chunk", [1, B * HEADS * K * 2, 10 ** 9], ids=["one query", "two queries", "all queries"])
@pytest.mark.parametrize("scale", [None, 0.25, 1.0])
def test_equals_the_definition_for_every_chunk_size(normal, chunk, scale):
    q, k = normal(B, HEADS, Q, D), normal(B, HEADS, K, D)
    assert_close(column_mass(q, k, scale, chunk_elements=chunk), definition(q, k, scale), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heads_k", [1, 2, 4])
def test_query_heads_share_key_heads_in_groups(normal, heads_k):
    q, k = normal(B, HEADS, Q, D), normal(B, heads_k, K, D)
    assert_close(column_mass(q, k), definition(q, k), rtol=1e-12, atol=1e-12)


def test_sums_to_the_number_of_queries_and_has_mean_one_over_the_same_tokens(normal):
    mass = column_mass(normal(B, HEADS, Q, D), normal(B, HEADS, K, D))
    assert_close(mass.sum(1), torch.full((B,), float(Q), dtype=torch.float64))
    mass = column_mass(normal(B, HEADS, K, D), normal(B, HEADS, K, D))
    assert_close(mass.mean(1), torch.ones(B, dtype=torch.float64))


def test_equal_keys_receive_equal_attention(normal):
    mass = column_mass(normal(1, 2, 6, D), torch.ones(1, 2, 6, D, dtype=torch.float64))
    assert_close(mass, torch.ones(1, 6, dtype=torch.float64))


def test_follows_its_keys_and_ignores_the_order_of_queries(normal):
    q, k, order = normal(1, HEADS, K, D), normal(1, HEADS, K, D), torch.tensor([3, 1, 4, 0, 6, 5, 2])
    assert_close(column_mass(q[:, :, order], k[:, :, order]), column_mass(q, k)[:, order])


def test_batch_rows_are_independent(normal):
    q, k = normal(3, HEADS, Q, D), normal(3, HEADS, K, D)
    rows = torch.cat([column_mass(q[i:i + 1], k[i:i + 1]) for i in range(3)])
    assert_close(column_mass(q, k), rows, rtol=1e-13, atol=1e-13)


MASK_SHAPES = [
    (K,), (1,), (Q, K), (1, K), (Q, 1), (B, Q, K), (B, 1, K), (1, Q, K), (B, HEADS, Q, K), (B, 1, Q, K),
    (1, HEADS, Q, K), (1, 1, Q, K), (B, 1, 1, K), (1, 1, 1, K), (B, HEADS, 1, K), (1, 1, Q, 1)]


def as_bias(mask):
    """A mask as what it adds to the logits, at full shape; a 3-D one has batch, queries and keys."""
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -math.inf).double()
    if mask.ndim == 3:
        mask = mask.unsqueeze(1)
    return mask.double().broadcast_to(B, HEADS, Q, K)


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
@pytest.mark.parametrize("chunk", [1, 10 ** 9], ids=["one query", "all queries"])
@pytest.mark.parametrize("kind", ["additive", "boolean"])
def test_masks_of_every_broadcastable_shape(normal, kind, chunk, shape):
    q, k, mask = normal(B, HEADS, Q, D), normal(B, HEADS, K, D), normal(*shape)
    mask = mask > -0.5 if kind == "boolean" else mask
    expected = definition(q, k, bias=as_bias(mask))
    assert_close(column_mass(q, k, mask=mask, chunk_elements=chunk), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_additive_mask_may_have_another_dtype_than_the_queries(normal, mask_dtype):
    q, k, mask = normal(B, HEADS, Q, D), normal(B, HEADS, K, D), normal(Q, K).to(mask_dtype)
    expected = definition(q, k, bias=as_bias(mask))
    assert_close(column_mass(q.float(), k.float(), mask=mask).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["additive", "boolean"])
@pytest.mark.parametrize("hidden", [[0], [1, 4], list(range(Q))], ids=["one row", "two rows", "all rows"])
def test_query_that_may_see_no_key_counts_nothing_instead_of_nan(normal, hidden, kind):
    q, k = normal(B, HEADS, Q, D), normal(B, HEADS, K, D)
    keep = torch.ones(Q, K, dtype=torch.bool)
    keep[hidden] = False
    mask = keep if kind == "boolean" else torch.where(keep, 0.0, -math.inf)
    seen = [row for row in range(Q) if row not in hidden]
    assert_close(column_mass(q, k, mask=mask), definition(q[:, :, seen], k), rtol=1e-12, atol=1e-12)


def test_key_hidden_from_all_queries_receives_nothing(normal):
    keep = torch.arange(K) != 2
    mass = column_mass(normal(B, HEADS, Q, D), normal(B, HEADS, K, D), mask=keep)
    assert (mass[:, 2] == 0).all() and (mass[:, keep] > 0).all()


def test_result_is_float32_or_wider_and_right(normal, dtype):
    q, k = normal(B, HEADS, Q, D, dtype=dtype), normal(B, HEADS, K, D, dtype=dtype)
    mass = column_mass(q, k)
    assert mass.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Half precision in, but no rounding to it on the way.
    assert_close(mass.double(), definition(q, k), rtol=1e-5, atol=1e-5)


def test_half_precision_activations_of_several_hundred_do_not_overflow(normal):
    # 300 * 300 * 64 is 5.8 million, and 720,000 even after scaling by 1/8; float16 ends at 65,504.
    q, k = (normal(1, 2, 9, 64).sign().mul(300).add(normal(1, 2, 9, 64)).half() for _ in range(2))
    mass = column_mass(q, k)
    assert mass.isfinite().all()
    assert_close(mass.double(), definition(q, k), rtol=1e-3, atol=1e-3)


def test_inputs_are_left_as_they_were(normal):
    q, k, mask = normal(1, 1, Q, D), normal(1, 1, K, D), normal(Q, K)
    before = [t.clone() for t in (q, k, mask)]
    column_mass(q, k, scale=1.0, mask=mask)
    assert all(torch.equal(a, b) for a, b in zip((q, k, mask), before, strict=True))


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes behind the largest tensor any operation returned; an expanded view counts what it holds."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("mask", [None, "keys", "rows"])
def test_memory_is_the_chunk_or_the_keys_and_never_the_square_of_the_tokens(normal, mask):
    heads, dim, budget = 2, 8, 2 ** 15
    for tokens in (1024, 4096):
        q, k = normal(1, heads, tokens, dim, dtype=torch.float32), normal(1, heads, tokens, dim, dtype=torch.float32)
        bias = {None: None, "keys": torch.ones(tokens, dtype=torch.bool), "rows": torch.zeros(tokens, 1)}[mask]
        with LargestTensor() as largest:
            column_mass(q, k, mask=bias, chunk_elements=budget)
        assert largest.bytes <= 4 * max(budget, heads * tokens * dim)


def test_all_queries_count_up_to_the_bound():
    assert sample_queries(EXACT_QUERIES) == slice(None)


@pytest.mark.parametrize("count", [EXACT_QUERIES + 1, 20_000, 128 * 136, 75_600, 10 ** 6])
def test_of_more_queries_one_of_every_stretch_counts(count):
    chosen = sample_queries(count)
    assert len(chosen) == SAMPLED_QUERIES
    assert chosen.min() >= 0 and chosen.max() < count
    ends = torch.arange(SAMPLED_QUERIES + 1, dtype=torch.float64) * count / SAMPLED_QUERIES
    assert ((ends[:-1].floor() <= chosen) & (chosen < ends[1:])).all()


@pytest.mark.parametrize("width", [16, 96, 128, 136, 208, 256])
def test_the_sample_meets_every_part_of_a_row_alike(width):
    """A plain stride would meet the same few columns again and again wherever it and the width share a factor."""
    columns = sample_queries(200 * width if 200 * width > EXACT_QUERIES else 2000 * width) % width
    counts = torch.histc(columns.float(), bins=8, min=0, max=width)
    assert (counts - SAMPLED_QUERIES / 8).abs().max() <= SAMPLED_QUERIES / 40


def tokens_of_an_image(generator, height, width, detail, heads=2, dim=16):
    """Queries or keys that vary smoothly over an image, a feature every `detail` tokens, with a little noise."""
    coarse = torch.randn(heads, dim, height // detail, width // detail, generator=generator)
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic").flatten(2).mT
    return (fine + 0.3 * torch.randn(fine.shape, generator=generator))[None]


@pytest.mark.parametrize("local", [False, True], ids=["attention to other things", "attention to its own surroundings"])
def test_error_of_the_sample(local):
    """The bound the README states: on average an eighth of the map's own spread, and 94 of 100 tokens on the right side
    of the threshold. Attention that stays local needs the most queries, as few of them look at any one place."""
    generator = torch.Generator().manual_seed(0)
    height, width = 128, 136
    q = 2 * tokens_of_an_image(generator, height, width, detail=16)
    k = q if local else tokens_of_an_image(generator, height, width, detail=16)
    exact, sampled = (column_mass(rows, k)[0] for rows in (q, q[:, :, sample_queries(height * width)]))
    exact, sampled = exact / exact.mean(), sampled / sampled.mean()
    assert exact.std() > 0.5
    assert (sampled - exact).abs().mean() < exact.std() / 8
    assert ((sampled > 1) == (exact > 1)).float().mean() > 0.94


@pytest.mark.parametrize("tokens", [EXACT_QUERIES + 1, 2 * EXACT_QUERIES])
def test_the_sample_costs_less_than_two_hundredths_of_the_attention(tokens):
    q = torch.empty(1, 2, tokens, 16, device="meta")
    with FlopCounterMode(display=False) as attention:
        F.scaled_dot_product_attention(q, q, q)
    cost = 2 * SAMPLED_QUERIES * tokens * 16 * 2  # of q k^T
    with FlopCounterMode(display=False) as recording:
        column_mass(torch.zeros(1, 2, tokens, 16)[:, :, sample_queries(tokens)], torch.zeros(1, 2, tokens, 16))
    assert recording.get_total_flops() == cost
    assert cost < 0.02 * attention.get_total_flops()


@pytest.mark.parametrize(("q", "k"), [
    ((2, 5, 3), (2, 5, 3)),
    ((2, 4, 5, 3), (2, 7, 3)),
    ((2, 4, 5, 3), (1, 4, 7, 3)),
    ((2, 4, 5, 3), (2, 4, 7, 2)),
    ((2, 4, 5, 3), (2, 3, 7, 3)),
], ids=["3-D", "3-D keys", "batch", "width", "heads"])
def test_shapes_that_are_not_attention_are_refused_by_name(q, k):
    with pytest.raises(ValueError) as error:
        column_mass(torch.zeros(q), torch.zeros(k))
    assert str(q) in str(error.value) and str(k) in str(error.value)


def test_split_heads_takes_neighbouring_channels_as_a_head():
    x = torch.arange(6.0).view(1, 1, 6).expand(2, 4, 6)
    assert split_heads(x, 2).shape == (2, 2, 4, 3)
    assert split_heads(x, 2)[1, :, 3].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("mask", [None, torch.ones(6, 6, dtype=torch.bool), torch.zeros(6, 6)],
                         ids=["none", "boolean", "added"])
def test_attention_that_is_not_finite_is_not_hidden_by_a_mask(normal, mask):
    q, k = normal(2, 2, 6, 4), normal(2, 2, 6, 4)
    q[1, 0, 3] = torch.nan
    mass = column_mass(q, k, mask=mask)
    assert mass[0].isfinite().all() and not mass[1].isfinite().any()


def test_a_query_that_may_see_no_key_is_left_out(normal):
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = False
    mass = column_mass(normal(1, 2, 6, 4), normal(1, 2, 6, 4), mask=mask)
    assert mass.isfinite().all() and mass.sum() == pytest.approx(5)


@pytest.mark.parametrize("shape", [(1, 2, 0, 4), (1, 0, 6, 4), (1, 2, 6, 0)], ids=str)
def test_attention_without_tokens_is_refused(shape):
    with pytest.raises(ValueError, match="hold no tokens"):
        column_mass(torch.zeros(shape), torch.zeros(shape))
