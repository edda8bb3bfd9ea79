from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_core.engine.attention.cpu import attend_on_cpu
from echo_core.engine.attention.heads import Heads
from echo_core.engine.attention.packing import Packing


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
    return [
        torch.randn(rows, length, count, 16, generator=generator).to(dtype).transpose(1, 2)
        for count in (heads, groups, groups)
    ]


def attend_causal(query, key, value, bounds, shared, scale, window, before=None):
    longest = max(end - start for start, end in pairwise(bounds)) + shared
    return attend_on_cpu(Heads(query, key, value, scale, window, before), Packing(tuple(bounds), longest, shared))


def attend_padded(query, key, value, scale, window):
    length = query.shape[2]
    return attend_causal(query, key, value, [row * length for row in range(len(query) + 1)], 0, scale, window)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("window", [None, 1, 7, 40, 1000])
@pytest.mark.parametrize("length", [1, 16, 31, 32, 33, 64, 65, 100])
def test_blocks_give_what_every_score_gives(length, window, rows):
    query, key, value = heads_of(length, rows=rows)
    attended = attend_padded(query, key, value, 0.3, window)
    torch.testing.assert_close(attended.double(), plain_attention(query, key, value, 0.3, window), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=9),
    st.integers(0, 100),
    st.integers(0, 5),
    st.sampled_from([None, 1, 5, 33]),
)
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


@pytest.mark.parametrize("length", [16, 200])
def test_bfloat16_stays_within_its_rounding(length):
    query, key, value = heads_of(length, dtype=torch.bfloat16)
    attended, exact = (
        attend_padded(query, key, value, 0.25, None).double(),
        plain_attention(query, key, value, 0.25, None),
    )
    assert (attended - exact).norm() / exact.norm() < 2 * torch.finfo(torch.bfloat16).eps


def test_heads_without_groups_and_a_value_of_another_width_are_served():
    query, key, value = heads_of(50, heads=4, groups=4)
    attended = attend_padded(query, key, value[..., :8], 0.25, None)
    torch.testing.assert_close(
        attended.double(), plain_attention(query, key, value[..., :8], 0.25, None), atol=1e-5, rtol=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=6),
    st.integers(1, 80),
    st.integers(0, 5),
    st.sampled_from([None, 1, 5, 33]),
    st.booleans(),
    st.sampled_from([1, 500]),
)
def test_a_beginning_that_is_given_as_keys_or_attended_to_apart_is_seen_as_if_each_row_had_it(
    lengths, shared, behind, window, given_as_keys, apart
):
    bounds = list(accumulate([shared, *lengths], initial=0))
    query, key, value = heads_of(bounds[-1] + behind, rows=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("echo_core.engine.attention.cpu.APART", apart)
        patch.setattr(
            "echo_core.engine.attention.cpu.SCORES_ELSE", 6 * 80 * 9
        )  # so that the queries of a batch are many pieces
        if given_as_keys:
            own, first = (
                [states[:, :, part] for states in (query, key, value)] for part in (slice(shared, None), slice(shared))
            )
            attended = attend_causal(
                *own, [bound - shared for bound in bounds[1:]], shared, 0.3, window, (first[1], first[2])
            )
            attended = torch.cat([torch.zeros(1, shared, 6, 16), attended], dim=1)
        else:
            attended = attend_causal(query, key, value, bounds, shared, 0.3, window)
    assert bool(attended.isfinite().all())
    for start, end in pairwise(bounds[given_as_keys:]):
        lead = list(range(shared)) if start >= shared else []
        exact = plain_attention(
            *(states[:, :, [*lead, *range(start, end)]] for states in (query, key, value)), 0.3, window
        )
        torch.testing.assert_close(attended[:, start:end].double(), exact[:, len(lead) :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at", [0, 30, 49])
def test_scores_so_far_apart_that_most_weights_are_none_are_joined_right(at, monkeypatch):
    """Some models' scores differ by hundreds; no logarithm can be taken of the first key's weight then."""
    monkeypatch.setattr("echo_core.engine.attention.cpu.APART", 1)
    query, key, value = heads_of(60, rows=1)
    key[:, :, at] *= 300
    attended = attend_causal(query, key, value, [0, 40, 60], 40, 1.0, None)
    exact = plain_attention(query, key, value, 1.0, None)
    assert (
        exact[:, 40:] - plain_attention(query[:, :, 40:], key[:, :, 40:], value[:, :, 40:], 1.0, None)
    ).abs().max() > 0.1
    torch.testing.assert_close(attended.double(), exact, atol=1e-4, rtol=1e-4)


def test_gradients_flow_through_a_beginning_that_is_attended_to_apart(monkeypatch):
    monkeypatch.setattr("echo_core.engine.attention.cpu.APART", 1)
    heads = [tensor.double().requires_grad_() for tensor in heads_of(60, rows=1)]
    exact = torch.autograd.grad(plain_attention(*heads, 0.25, None).square().sum(), heads)
    ours = [tensor.detach().float().requires_grad_() for tensor in heads]
    for got, wanted in zip(
        torch.autograd.grad(attend_causal(*ours, [0, 40, 60], 40, 0.25, None).square().sum(), ours), exact, strict=True
    ):
        torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-4)


def test_gradients_flow_through_blocks():
    heads = [tensor.double().requires_grad_() for tensor in heads_of(40)]
    exact = torch.autograd.grad(plain_attention(*heads, 0.25, 9).square().sum(), heads)
    ours = [tensor.detach().float().requires_grad_() for tensor in heads]
    for got, wanted in zip(torch.autograd.grad(attend_padded(*ours, 0.25, 9).square().sum(), ours), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-4)
