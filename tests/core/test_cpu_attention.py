from __future__ import annotations

import pytest
import torch

from echo_core.cpu_attention import SHORT, attend_causal


def plain_attention(query, key, value, scale, window):
    """Every score, in float64, one head at a time."""
    groups = query.shape[1] // key.shape[1]
    back = torch.arange(query.shape[2])[:, None] - torch.arange(query.shape[2])[None, :]
    hidden = (back < 0) | (back >= (window or query.shape[2]))
    heads = []
    for head in range(query.shape[1]):
        scores = query[:, head].double() @ key[:, head // groups].double().transpose(1, 2) * scale
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value[:, head // groups].double())
    return torch.stack(heads, dim=1)


def heads_of(length, heads=6, groups=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(2, length, count, 16, generator=generator).to(dtype).transpose(1, 2) for count in (heads, groups, groups)]


@pytest.fixture
def blocks_at_any_length(monkeypatch):
    monkeypatch.setitem(SHORT, torch.float32, 0)


@pytest.mark.parametrize("window", [None, 1, 7, 40, 1000])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_blocks_give_what_every_score_gives(length, window, blocks_at_any_length):
    query, key, value = heads_of(length)
    attended = attend_causal(query, key, value, 0.3, window)
    torch.testing.assert_close(attended.double(), plain_attention(query, key, value, 0.3, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 7])
def test_short_rows_in_float32_give_what_every_score_gives(window):
    query, key, value = heads_of(20)
    attended = attend_causal(query, key, value, 0.3, window)
    torch.testing.assert_close(attended.double(), plain_attention(query, key, value, 0.3, window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [16, 200])
def test_bfloat16_stays_within_its_rounding(length):
    query, key, value = heads_of(length, dtype=torch.bfloat16)
    attended, exact = attend_causal(query, key, value, 0.25, None).double(), plain_attention(query, key, value, 0.25, None)
    assert (attended - exact).norm() / exact.norm() < 2 * torch.finfo(torch.bfloat16).eps


def test_heads_without_groups_and_a_value_of_another_width_are_served(blocks_at_any_length):
    query, key, value = heads_of(50, heads=4, groups=4)
    attended = attend_causal(query, key, value[..., :8], 0.25, None)
    torch.testing.assert_close(attended.double(), plain_attention(query, key, value[..., :8], 0.25, None), atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_blocks(blocks_at_any_length):
    heads = [tensor.double().requires_grad_() for tensor in heads_of(40)]
    exact = torch.autograd.grad(plain_attention(*heads, 0.25, 9).square().sum(), heads)
    ours = [tensor.detach().float().requires_grad_() for tensor in heads]
    for got, wanted in zip(torch.autograd.grad(attend_causal(*ours, 0.25, 9).square().sum(), ours), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-4)
