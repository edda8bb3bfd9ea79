from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_core.cpu_attention import TOGETHER, _Layout, _of_about_the_same_length, _plan, attend_causal


def plain_attention(query, key, value, scale, window):
    """Every score, in float64, one head at a time: (B, H, T, d) → (B, T, H, d)."""
    groups = query.shape[1] // key.shape[1]
    back = torch.arange(query.shape[2])[:, None] - torch.arange(query.shape[2])[None, :]
    hidden = (back < 0) | (back >= (window or query.shape[2]))
    heads = []
    for head in range(query.shape[1]):
        scores = query[:, head].double() @ key[:, head // groups].double().transpose(1, 2) * scale
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value[:, head // groups].double())
    return torch.stack(heads, dim=2)


def heads_of(length, heads=6, groups=2, dtype=torch.float32, rows=2):
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(rows, length, count, 16, generator=generator).to(dtype).transpose(1, 2) for count in (heads, groups, groups)]


def attend_padded(query, key, value, scale, window):
    length = query.shape[2]
    return attend_causal(query, key, value, [row * length for row in range(len(query) + 1)], 0, scale, window)


@pytest.mark.parametrize("window", [None, 1, 7, 40, 1000])
@pytest.mark.parametrize("length", [1, 16, 31, 32, 33, 100])
def test_blocks_give_what_every_score_gives(length, window):
    query, key, value = heads_of(length)
    attended = attend_padded(query, key, value, 0.3, window)
    torch.testing.assert_close(attended.double(), plain_attention(query, key, value, 0.3, window), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=9), st.integers(0, 100), st.integers(0, 5), st.sampled_from([None, 1, 5, 33]))
def test_rows_end_to_end_attend_as_each_does_alone_behind_what_they_share(lengths, shared, behind, window):
    bounds = list(accumulate([shared, *lengths] if shared else lengths, initial=0))
    query, key, value = heads_of(bounds[-1] + behind, rows=1)
    attended = attend_causal(query, key, value, bounds, shared, 0.3, window)
    assert attended.shape == (1, bounds[-1] + behind, 6, 16)
    assert bool(attended.isfinite().all())
    for start, end in pairwise(bounds):
        lead = list(range(shared)) if start >= shared else []
        own = [states[:, :, [*lead, *range(start, end)]] for states in (query, key, value)]
        exact = plain_attention(*own, 0.3, window)[:, len(lead) :]
        torch.testing.assert_close(attended[:, start:end].double(), exact, atol=1e-5, rtol=1e-5)


def test_what_rows_share_asks_for_no_attention_again_in_each_of_them():
    """It did: the rows behind in-context examples of 2,000 tokens took ten times as long as their own tokens need."""
    shared, lengths, layout = 2000, [50] * 40, _Layout(4000, 4, 2, None, torch.bfloat16, torch.device("cpu"), inference=True)
    plan = _plan((0, *accumulate(lengths, initial=shared)), shared, layout)
    queries = sum(len(block.queries) for group in plan.groups for block in group.blocks) // layout.heads
    assert queries <= 1.5 * layout.tokens
    assert plan.back.unique().numel() == layout.tokens * layout.heads


@pytest.mark.parametrize("length", [16, 200])
def test_bfloat16_stays_within_its_rounding(length):
    query, key, value = heads_of(length, dtype=torch.bfloat16)
    attended, exact = attend_padded(query, key, value, 0.25, None).double(), plain_attention(query, key, value, 0.25, None)
    assert (attended - exact).norm() / exact.norm() < 2 * torch.finfo(torch.bfloat16).eps


def test_heads_without_groups_and_a_value_of_another_width_are_served():
    query, key, value = heads_of(50, heads=4, groups=4)
    attended = attend_padded(query, key, value[..., :8], 0.25, None)
    torch.testing.assert_close(attended.double(), plain_attention(query, key, value[..., :8], 0.25, None), atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_blocks():
    heads = [tensor.double().requires_grad_() for tensor in heads_of(40)]
    exact = torch.autograd.grad(plain_attention(*heads, 0.25, 9).square().sum(), heads)
    ours = [tensor.detach().float().requires_grad_() for tensor in heads]
    for got, wanted in zip(torch.autograd.grad(attend_padded(*ours, 0.25, 9).square().sum(), ours), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=120))
def test_rows_share_their_products_in_few_numbers_and_with_rows_about_as_long(lengths: list[int]):
    groups = list(_of_about_the_same_length(lengths))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert len(group) in TOGETHER
        assert all(longest - lengths[row] <= max(16, 0.15 * longest) for row in group)
