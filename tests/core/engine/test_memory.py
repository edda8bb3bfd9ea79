from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, GPT2Config, LlamaConfig, OPTConfig

from echo_core.engine.memory import (
    CPU_CACHE,
    CPU_SHARE,
    CPU_TOKENS,
    CUDA_TOKENS,
    MPS_TOKENS,
    Widths,
    cache_of_a_core,
    choose_budget,
    cpu_budget,
    cuda_budget,
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
    assert Widths.of(settings) == widths
