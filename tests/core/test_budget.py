from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, GPT2Config, LlamaConfig, OPTConfig

from echo_core.budget import CPU_TOKENS_PER_THREAD, CUDA_TOKENS, MPS_TOKENS, Widths, choose_budget, cuda_budget

GIB = 2**30
MISTRAL_7B = Widths(4096, 14336)


def test_a_large_gpu_takes_a_large_batch_of_a_7b_model():
    assert CUDA_TOKENS[0] < cuda_budget(8 * GIB, 2, MISTRAL_7B) < cuda_budget(16 * GIB, 2, MISTRAL_7B) <= cuda_budget(100 * GIB, 2, MISTRAL_7B)


def test_the_activations_of_a_budget_fit_into_half_of_the_free_memory():
    tokens = cuda_budget(4 * GIB, 2, MISTRAL_7B)
    assert tokens * MISTRAL_7B.bytes_per_token(2) <= 2 * GIB
    assert (tokens + 1) * MISTRAL_7B.bytes_per_token(2) > 2 * GIB


@pytest.mark.parametrize(("free", "tokens"), [(0, CUDA_TOKENS[0]), (10_000 * GIB, CUDA_TOKENS[1])])
def test_the_budget_stays_within_its_bounds(free, tokens):
    assert cuda_budget(free, 2, MISTRAL_7B) == tokens


def test_mps_has_a_budget_of_its_own():
    assert choose_budget(torch.device("mps"), torch.float32, MISTRAL_7B) == MPS_TOKENS


@pytest.mark.parametrize("threads", [1, 4])
def test_the_budget_of_a_cpu_grows_with_its_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert choose_budget(torch.device("cpu"), torch.float32, MISTRAL_7B) == threads * CPU_TOKENS_PER_THREAD


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        (LlamaConfig(hidden_size=32, intermediate_size=20), Widths(32, 20)),
        (OPTConfig(hidden_size=8, ffn_dim=24, num_attention_heads=2), Widths(8, 24)),
        (GPT2Config(n_embd=8, n_head=2), Widths(8, 32)),
        (AutoConfig.for_model("gpt2", n_embd=8, n_inner=40, n_head=2), Widths(8, 40)),
    ],
)
def test_widths_are_read_from_any_family_s_config(settings, widths):
    assert Widths.of(settings) == widths
