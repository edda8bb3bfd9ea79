"""The path of CUDA, from packing to the kernel's arguments, over a CPU stand-in for the kernel, and on a GPU."""

from __future__ import annotations

import dataclasses
import functools
import logging

import numpy as np
import pytest
import torch
import varlen_stand_in
from oracle import PIECES, open_oracle
from tiny_models import FAMILIES, WINDOW
from torch.nn.attention import varlen
from transformers import AutoModel

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.attention import cuda
from echo_core.engine.attention.interface import attend_rows
from echo_core.engine.attention.packing import packing_arguments
from echo_core.engine.decoder import Decoder
from echo_core.engine.prefix_cache import Prefix
from echo_core.engine.runner import Runner, load_runner
from echo_core.errors import ModelError
from echo_core.text.rows import Row, Span

CPU = torch.device("cpu")
FP32 = Runtime(device="cpu", dtype="float32", attention="packed")
TEXTS = [
    "a cat",
    "The quick brown fox jumps over the lazy dog, twice.",
    "rain",
    "Paris is the capital of France and a long way off.",
]
PACKS = sorted(set(FAMILIES) - {"gemma2"})  # caps its scores softly, which the kernel does not


def rows_of(lengths, begin=0):
    """Rows with the same first ``begin`` tokens, different from there on."""
    ids = [np.concatenate([np.arange(begin) % 200, 30 + 7 * i + np.arange(length)]) for i, length in enumerate(lengths)]
    return [Row(row, (Span(i, max(begin, 1), len(row)),)) for i, row in enumerate(ids)]


def heads_of(tokens, heads=4, groups=2):
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(1, count, tokens, 8, generator=generator) for count in (heads, groups, groups)]


def lies_apart(monkeypatch, tokens):
    monkeypatch.setattr("echo_core.engine.attention.cuda_plan.APART", tokens)


@pytest.fixture(params=["torch 2.11", "this torch"])
def signature(request, monkeypatch):
    """``varlen_attn`` as torch 2.11 has it, and as it is here."""
    if request.param == "torch 2.11":
        monkeypatch.setattr(varlen, "varlen_attn", varlen_stand_in.of_torch_2_11)
    return request.param


@pytest.mark.parametrize("family", PACKS)
def test_every_family_that_packs_gives_the_vectors_of_the_oracle_on_cuda_s_path(family, model_folder, on_cuda):
    folder = model_folder(family)
    with on_cuda():
        encoder = EchoEncoder(EchoConfig(str(folder), query_template="echo", document_template="echo"), FP32)
        vectors = encoder.encode_documents(TEXTS)
    assert encoder._engine.runner.planner.packed
    oracle = open_oracle(folder)
    np.testing.assert_allclose(vectors, [oracle.vector(PIECES["echo"], {"text": text}) for text in TEXTS], atol=2e-5)


@pytest.mark.parametrize(("family", "apart"), [*((family, 16) for family in PACKS), ("llama", 512), ("gemma3", 512)])
def test_rows_after_a_kept_prefix_are_what_each_is_alone(family, apart, model_folder, on_cuda, monkeypatch):
    folder, lengths, begin = model_folder(family), (WINDOW + 9, 3, 8, 17), 40
    rows = rows_of(lengths, begin)
    padded = load_runner(folder, EchoConfig(str(folder)), Runtime(device="cpu", dtype="float32", attention="padded"))
    alone = torch.cat([padded.run([row]) for row in rows])
    lies_apart(monkeypatch, apart)
    monkeypatch.setattr("echo_core.engine.attention.cuda_plan.GATHERED", 60)  # keys of one or two rows
    with on_cuda():
        runner = load_runner(folder, EchoConfig(str(folder)), FP32)
        assert runner.planner.packed
        for _ in ("fills the prefix", "is after the prefix"):
            torch.testing.assert_close(runner.run(rows), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("apart", [16, 512])
def test_bfloat16_stays_within_its_rounding_on_cuda_s_path(apart, tiny_llama, on_cuda, monkeypatch):
    lies_apart(monkeypatch, apart)
    rows, config = rows_of((30, 3, 8, 17), 40), EchoConfig(str(tiny_llama))
    exact = load_runner(tiny_llama, config, FP32).run(rows)
    with on_cuda():
        runner = load_runner(tiny_llama, config, dataclasses.replace(FP32, dtype="bfloat16"))
        assert runner.planner.packed
        for _ in range(2):
            assert torch.cosine_similarity(runner.run(rows).float(), exact).min() > 0.995


def test_a_model_whose_scores_are_capped_runs_padded_on_cuda_s_path_too(model_folder, on_cuda):
    folder = model_folder("gemma2")
    with on_cuda():
        assert not load_runner(folder, EchoConfig(str(folder)), FP32).planner.packed


@pytest.mark.parametrize("window", [None, 3, 12])
@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize(("lengths", "shared"), [([5, 1, 17], 0), ([5, 1, 17], 4), ([5, 1], 20), ([33, 8, 8, 2], 9)])
def test_the_arguments_of_varlen_attention_say_what_the_cpu_computes(
    lengths, shared, heads, window, on_cuda, signature
):
    """torch 2.11 ran every model padded: its ``varlen_attn`` has no ``enable_gqa``, which was asked for."""
    assert cuda.varlen_available()
    states = heads_of(shared + sum(lengths), heads)
    layer = torch.nn.Module()

    def attend():
        arguments = packing_arguments(lengths, CPU, shared, window=window)
        return attend_rows(layer, *states, None, sliding_window=window, packing=arguments["packing"])[0]

    expected = attend()
    with on_cuda():
        torch.testing.assert_close(attend(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("apart", [1, 512])
@pytest.mark.parametrize("window", [None, 3, 12])
@pytest.mark.parametrize(("lengths", "shared"), [([5, 1, 17], 4), ([5, 1], 20), ([33, 8, 8, 2], 9)])
def test_varlen_attention_sees_a_kept_prefix_before_each_row(
    lengths, shared, window, apart, on_cuda, signature, monkeypatch
):
    lies_apart(monkeypatch, apart)
    whole = heads_of(shared + sum(lengths))
    own = [states[:, :, shared:] for states in whole]
    layer, prefix = torch.nn.Module(), Prefix(np.arange(shared))

    def attend(states):
        packing = packing_arguments(lengths, CPU, shared, prefix=prefix, window=window)["packing"]
        with torch.inference_mode():
            return attend_rows(layer, *states, None, sliding_window=window, packing=packing)[0]

    expected = attend(whole)
    with on_cuda():
        torch.testing.assert_close(attend(whole), expected, atol=1e-5, rtol=1e-5)
        prefix.filled = True
        attended = attend(own)
    for ours in (attended, attend(own)):
        torch.testing.assert_close(ours, expected[:, shared:], atol=1e-5, rtol=1e-5)


def largest_call(monkeypatch):
    """A list that collects how many keys each call of the kernel gets."""
    sizes, plain = [], varlen.varlen_attn

    @functools.wraps(plain)
    def counting(query, key, *others, **options):
        sizes.append(len(key))
        return plain(query, key, *others, **options)

    monkeypatch.setattr(varlen, "varlen_attn", counting)
    return sizes


def test_a_long_prefix_is_not_copied_for_each_row(on_cuda, monkeypatch):
    """It was: 2,180 queries after 4,096 shared tokens would have taken 40 GB for a model of 7 billion weights."""
    shared, lengths = 600, [2] * 300
    monkeypatch.setattr("echo_core.engine.attention.cuda_plan.GATHERED", 4000)
    sizes = largest_call(monkeypatch)
    states, layer = heads_of(shared + sum(lengths)), torch.nn.Module()
    with on_cuda(), torch.inference_mode():
        packing = packing_arguments(lengths, CPU, shared, window=100)["packing"]
        attend_rows(layer, *states, None, packing=packing)
        assert sizes == [shared + sum(lengths), shared]
        sizes.clear()
        attend_rows(layer, *states, None, sliding_window=100, packing=packing)
    assert max(sizes) <= 4000
    assert sum(sizes) == shared + len(lengths) * (99 + 2)


def test_gradients_after_shared_tokens_are_those_of_the_cpu(on_cuda, monkeypatch):
    """The kernel's backward pass knows no log-sum-exp, so nothing is attended to apart where gradients are wanted."""
    lies_apart(monkeypatch, 1)
    lengths, shared = [9, 4, 6], 5

    def gradients():
        heads = [states.requires_grad_() for states in heads_of(shared + sum(lengths))]
        attended, _ = attend_rows(torch.nn.Module(), *heads, None, **packing_arguments(lengths, CPU, shared))
        return torch.autograd.grad(attended.square().sum(), heads)

    expected = gradients()
    with on_cuda():
        for ours, wanted in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


def test_a_window_that_rows_were_not_laid_out_for_is_refused(on_cuda):
    with on_cuda(), pytest.raises(ModelError, match="a window of 7"):
        attend_rows(
            torch.nn.Module(), *heads_of(9), None, sliding_window=7, **packing_arguments([4, 3], CPU, 2, window=5)
        )


def test_rows_laid_out_for_another_device_are_refused(on_cuda):
    arguments = packing_arguments([4, 5], CPU)
    with on_cuda(), pytest.raises(ModelError, match="laid out for the device"):
        attend_rows(torch.nn.Module(), *heads_of(9), None, **arguments)


@pytest.mark.parametrize(
    ("dtype", "capability", "head_width", "reason"),
    [
        (torch.bfloat16, (8, 0), 128, None),
        (torch.float16, (9, 0), 256, None),
        (torch.float32, (9, 0), 128, "float32"),
        (torch.bfloat16, (7, 5), 128, "7.5"),
        (torch.bfloat16, (9, 0), 512, "512"),
        (torch.bfloat16, (9, 0), 20, "20"),
    ],
)
def test_what_the_kernel_does_not_serve_is_told_from_what_is_wrong(dtype, capability, head_width, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    told = cuda.why_no_varlen(torch.device("cuda:0"), dtype, head_width)
    assert told is None if reason is None else reason in told


def test_padding_for_the_kernel_s_sake_warns_of_nothing(tiny_llama, monkeypatch, caplog):
    """Models in float32, which the kernel does not multiply, ran right and logged a warning at every load."""
    monkeypatch.setattr("echo_core.engine.attention.packing.BY_VARLEN", {"cuda", "cpu"})
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    with caplog.at_level(logging.INFO, "echo_core"):
        runner = load_runner(tiny_llama, EchoConfig(str(tiny_llama)), Runtime(device="cpu", dtype="float32"))
        assert not runner.planner.packed
    (told,) = [record for record in caplog.records if "FlashAttention multiplies" in record.message]
    assert told.levelno == logging.INFO
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_torch_without_windows_in_varlen_attention_is_told(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k: None)
    assert not cuda.varlen_available()
    assert "FlashAttention" in cuda.why_no_varlen(torch.device("cuda:0"), torch.bfloat16, 64)


@pytest.mark.parametrize(("family", "most"), [("qwen2", 2), ("gemma3", 4)])
def test_layers_that_are_compiled_share_their_code(family, most, model_folder, on_cuda):
    """Each layer was compiled anew, as a check read its index, and beyond the eighth all ran uncompiled."""
    layers = 12
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 6} if family == "gemma3" else {}
    folder = model_folder(family, num_hidden_layers=layers, **kinds)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with on_cuda():
        runner = load_runner(folder, EchoConfig(str(folder)), FP32)
        for layer in runner.decoder.readout.layers:
            layer.forward = torch.compile(layer.forward, dynamic=True, backend="eager")
        batches = [[5, 9, 30, 12], [40, 3, 3], [25, 26, 27, 28, 29]]
        expected = [torch.cat([run_uncompiled(runner, [row]) for row in rows_of(lengths)]) for lengths in batches]
        torch._dynamo.utils.counters.clear()
        for lengths, wanted in zip(batches, expected, strict=True):
            torch.testing.assert_close(runner.run(rows_of(lengths)), wanted, atol=1e-4, rtol=1e-4)
    counters = torch._dynamo.utils.counters
    assert 0 < counters["stats"]["unique_graphs"] <= most
    assert not counters["graph_break"]
    torch._dynamo.reset()


def run_uncompiled(runner: Runner, rows):
    with torch.compiler.set_stance("force_eager"):
        return runner.run(rows)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3", "gpt2", "opt"])
@pytest.mark.parametrize("begin", [9, 600])
def test_what_all_rows_begin_with_runs_once_on_a_gpu_too(family, begin, model_folder):
    folder = model_folder(family)
    runner = load_runner(folder, EchoConfig(str(folder)), Runtime(device="cuda", dtype="bfloat16"))
    assert runner.planner.packed
    rows = rows_of([21, 141, 3, 8], begin)
    alone = torch.cat([runner.run([row]) for row in rows])
    for _ in range(2):
        assert torch.cosine_similarity(runner.run(rows), alone).min() > 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3", "gpt2", "opt"])
def test_varlen_attention_on_a_gpu_gives_the_oracle_s_vectors(family, model_folder):
    folder = model_folder(family)
    encoder = EchoEncoder(
        EchoConfig(str(folder), query_template="echo", document_template="echo"),
        Runtime(device="cuda", dtype="bfloat16"),
    )
    assert encoder._engine.runner.planner.packed
    oracle = np.array([open_oracle(folder).vector(PIECES["echo"], {"text": text}) for text in TEXTS])
    assert (encoder.encode_documents(TEXTS) * oracle).sum(axis=1).min() > 0.99


@pytest.mark.gpu
def test_the_kernel_gives_its_sums_head_by_head():
    """What joins a long prefix with a row counts on it; the documentation says query by query."""
    query, key, value = (torch.randn(5, heads, 64, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2))
    starts = torch.tensor([0, 5], dtype=torch.int32, device="cuda")
    options = {"enable_gqa": True} if cuda._wants_grouping() else {}
    aux = varlen.AuxRequest(lse=True)
    _, sums = varlen.varlen_attn(
        query, key, value, starts, starts, 5, 5, return_aux=aux, window_size=(-1, 0), **options
    )
    assert sums.shape == (4, 5)
    exact = (query[0].float() * key[0].float().repeat_interleave(2, 0)).sum(-1) / 8  # the first query sees one key
    torch.testing.assert_close(sums[:, 0], exact, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3"])
def test_gradients_through_rows_end_to_end_on_a_gpu_are_those_of_each_row_alone(family, model_folder):
    lengths = [5, 40, 3]
    rows = [torch.arange(length)[None] + 9 * i for i, length in enumerate(lengths)]

    def gradient(device, dtype, packed):
        model = AutoModel.from_pretrained(model_folder(family), dtype=dtype).to(device)
        decoder = Decoder(model, [-1])
        parts = [(torch.cat(rows, dim=1), lengths)] if packed else [(row, None) for row in rows]
        states = torch.cat([decoder.train_states(ids.to(device), each)[0] for ids, each in parts])
        (states.float().cos() * torch.linspace(0, 1, states.shape[1], device=device)).sum().backward()
        return torch.cat([p.grad.float().flatten().cpu() for p in model.layers[0].self_attn.parameters()])

    alone = gradient("cpu", torch.float32, packed=False)
    assert torch.cosine_similarity(gradient("cuda", torch.bfloat16, packed=True), alone, dim=0) > 0.99
