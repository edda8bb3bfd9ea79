from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, Gemma2Config, GPT2Config, LlamaConfig, OPTConfig

from echo_core.engine.memory import (
    CPU_CACHE,
    CPU_SHARE,
    CPU_TOKENS,
    CUDA_TOKENS,
    CUDA_WORK,
    MPS_TOKENS,
    Widths,
    cache_of_a_core,
    choose_budget,
    cpu_budget,
    cuda_budget,
    free_memory,
)

MIB, GIB = 2**20, 2**30
MISTRAL_7B = Widths(4096, 14336)
SMALL = Widths(384, 768)


def test_a_large_gpu_takes_a_large_batch_of_a_7b_model():
    assert (
        CUDA_TOKENS[0]
        < cuda_budget(8 * GIB, 2, MISTRAL_7B)
        < cuda_budget(16 * GIB, 2, MISTRAL_7B)
        <= cuda_budget(100 * GIB, 2, MISTRAL_7B)
    )


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
    assert choose_budget(torch.device("cpu"), torch.float32, SMALL) == threads * cpu_budget(
        cache_of_a_core(), 1, 4, SMALL
    )


def test_the_activations_of_a_cpu_s_budget_fill_its_caches():
    tokens = cpu_budget(7 * MIB, 2, 1, SMALL)
    assert tokens * SMALL.bytes_per_token(1) <= CPU_SHARE * 2 * 7 * MIB < (tokens + 2) * SMALL.bytes_per_token(1)


@pytest.mark.parametrize(("cache", "tokens"), [(0, CPU_TOKENS[0]), (GIB, CPU_TOKENS[1])])
def test_a_thread_s_budget_stays_within_its_bounds(cache, tokens):
    assert cpu_budget(cache, 3, 2, SMALL) == 3 * tokens


def describe_cache(folder, index, level, size, cores):
    place = folder / f"index{index}"
    place.mkdir()
    for name, value in (("level", level), ("size", size), ("shared_cpu_list", cores)):
        (place / name).write_text(f"{value}\n")


def test_a_core_has_its_own_cache_and_its_part_of_the_shared_one(tmp_path):
    describe_cache(tmp_path, 0, 1, "32K", "0")
    describe_cache(tmp_path, 2, 2, "1024K", "0,8")
    describe_cache(tmp_path, 3, 3, "32768K", "0-3,8-11")
    assert cache_of_a_core(tmp_path) == (512 + 4096) * 1024


@pytest.mark.parametrize(("size", "cores"), [("lots", "0"), ("", "0")])
def test_a_cache_that_is_not_described_is_taken_as_usual(tmp_path, size, cores):
    assert cache_of_a_core(tmp_path / "nowhere") == CPU_CACHE
    describe_cache(tmp_path, 2, 2, size, cores)
    assert cache_of_a_core(tmp_path) == CPU_CACHE


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
    found = Widths.of(settings)
    assert (found.hidden, found.feed_forward) == (widths.hidden, widths.feed_forward)
    assert found.layers == settings.num_hidden_layers
    assert found.scores == 0


def test_the_scores_of_a_model_that_keeps_them_count_on_a_gpu():
    """A model that caps its scores softly took three times what its budget counted on, at rows of 4,096 tokens."""
    gemma = Gemma2Config(hidden_size=2304, intermediate_size=9216, num_attention_heads=8, max_position_embeddings=8192)
    widths = Widths.of(gemma)
    assert widths.scores == 8 * 8192
    assert widths.bytes_per_token(2) > 3 * Widths(2304, 9216).bytes_per_token(2)
    assert cuda_budget(20 * GIB, 2, widths) < cuda_budget(20 * GIB, 2, Widths(2304, 9216))


def test_a_batch_is_no_more_work_than_a_query_can_wait_for():
    """The budget on a card of 80 GB was its cap for 7 billion and 135 million weights alike: 1.7 s a batch."""
    seven_billion = cuda_budget(60 * GIB, 2, Widths(4096, 14336, 32))
    assert 10_000 < seven_billion < 20_000
    assert seven_billion * Widths(4096, 14336, 32).flop_per_token() <= CUDA_WORK
    assert cuda_budget(60 * GIB, 2, Widths(576, 1536, 30)) == CUDA_TOKENS[1]


def test_memory_that_torch_keeps_for_the_next_tensors_is_free(monkeypatch):
    """What loading had freed again was missed, and the budget too small by it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 15 * GIB)
    assert free_memory(torch.device("cuda:1")) == 8 * GIB
    expected = cuda_budget(8 * GIB, 2, MISTRAL_7B)
    assert choose_budget(torch.device("cuda:1"), torch.bfloat16, MISTRAL_7B) == expected
