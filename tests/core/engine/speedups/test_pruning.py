from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import ModelFolder
from tiny_models import FAMILIES
from torch import Tensor, nn

import echo_core.engine.decoder
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.batches import Batch, pack_rows, pad_rows
from echo_core.engine.loading import load_decoder
from echo_core.engine.speedups.pruning import Pruning, pooled_tokens
from echo_core.text.rows import Row, Span

FP32 = Runtime(device="cpu", dtype="float32")
NEVER = 10**9  # tokens of a batch
ROWS = [Row(np.arange(n) + 3, (Span(i, n // 2, n - 1),)) for i, n in enumerate((9, 30, 17, 5))]


def batch_of(ids: list[int], spans: list[tuple[int, int]]) -> Batch:
    return Batch(torch.tensor(ids)[None], tuple(spans))


def test_pooled_tokens_are_those_of_all_spans_each_once():
    selection = pooled_tokens(batch_of([7] * 9, [(4, 6), (0, 2), (5, 8)]))
    assert selection.taken.tolist() == [0, 1, 4, 5, 6, 7]
    assert selection.found[selection.taken].tolist() == list(range(6))
    rounded = pooled_tokens(batch_of([7] * 80, [(10, 75)]))
    assert rounded.taken.tolist() == [*range(10, 75), 74, 74, 74], "the last again, up to a round number of them"


@pytest.fixture
def prune_always(monkeypatch):
    monkeypatch.setattr(echo_core.engine.decoder, "WORTH", 0)


@pytest.mark.usefixtures("prune_always")
@pytest.mark.parametrize("lay_out", [pad_rows, pack_rows])
@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_pooled_states_are_those_of_the_whole_model_on_any_family(
    family: str, model_folder: ModelFolder, lay_out, layer: int, monkeypatch
):
    folder = model_folder(family)
    model = load_decoder(folder, EchoConfig(str(folder), layer=layer), FP32)
    if model.layout == "padded":
        lay_out = pad_rows  # this family's rows are never laid end to end
    batch = lay_out(ROWS)
    pruned = model.states(batch)
    monkeypatch.setattr(echo_core.engine.decoder, "WORTH", NEVER)
    whole = model.states(batch)
    for start, end in batch.spans:
        torch.testing.assert_close(pruned[start:end], whole[start:end], atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("prune_always")
def test_the_last_layer_s_feed_forward_part_sees_the_pooled_tokens_only(tiny_llama):
    model = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    seen: list[int] = []
    for layer in model.readout.layers[1:]:
        layer.mlp.gate_proj.register_forward_hook(
            lambda module, args, output: seen.append(args[0].shape[-2] * args[0].shape[0])
        )
    batch = pad_rows(ROWS)
    model.states(batch)
    pooled = sum(end - start for start, end in batch.spans)
    assert seen == [batch.ids.numel()] * (len(model.readout.layers) - 2) + [pooled]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "prunes"), [("llama", True), ("phi3", True), ("gpt2", True), ("opt", False)])
def test_a_family_with_a_feed_forward_module_is_pruned(
    family: str, prunes: bool, model_folder: ModelFolder, dtype: str
):
    folder = model_folder(family)
    model = load_decoder(folder, EchoConfig(str(folder)), Runtime(device="cpu", dtype=dtype))
    assert (model.prepare().pruning is not None) == prunes


@pytest.mark.usefixtures("prune_always")
def test_a_band_of_layers_is_the_same_too(tiny_llama, monkeypatch):
    encoder = EchoEncoder(EchoConfig(str(tiny_llama), layer=(-1, -2)), FP32)
    pruned = encoder.encode_documents(["one text", "another text of some words"])
    monkeypatch.setattr(echo_core.engine.decoder, "WORTH", NEVER)
    assert np.abs(pruned - encoder.encode_documents(["one text", "another text of some words"])).max() < 1e-6


def test_small_batches_run_whole(tiny_llama):
    encoder = EchoEncoder(EchoConfig(str(tiny_llama)), FP32)
    rows: list[int] = []
    encoder._engine.runner.decoder.readout.layers[-1].mlp.gate_proj.register_forward_hook(
        lambda module, args, output: rows.append(args[0].shape[-2])
    )
    encoder.encode_queries(["a short one"])
    assert rows == [len(encoder._pipelines["query"].prompts.tokenise(["a short one"], {}).rows[0].ids)]


def test_a_pass_in_another_thread_runs_whole_while_one_is_pruned(tiny_llama):
    """The selection was the model's: another thread's pass, or a forked child's, took it for its own."""
    model = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    ids = torch.arange(12)[None] + 3
    whole = model.forward(ids)
    with ThreadPoolExecutor(1) as other, model.prepare().pruning.only_for(Batch(ids[:, :5], ((3, 4),)), model.device):
        assert torch.equal(other.submit(model.forward, ids).result(), whole)


def test_a_forward_pass_of_other_rows_is_whole_again(tiny_llama):
    model = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    ids = torch.arange(12)[None] + 3
    before = model.forward(ids)
    with model.prepare().pruning.only_for(Batch(ids, ((3, 4),)), model.device):
        assert not torch.equal(model.forward(ids), before)
    assert torch.equal(model.forward(ids), before)


def test_a_feed_forward_module_of_another_kind_is_left_alone(tiny_llama, monkeypatch):
    class Odd(Pruning):
        def _give(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            return super()._give(module, args, (output, None))  # type: ignore[arg-type]

    monkeypatch.setattr("echo_core.engine.speedups.pruning.Pruning", Odd)
    model = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    assert model.prepare().pruning is None
    assert not model.readout.layers[-1].mlp._forward_hooks


def test_pruning_that_changes_pooled_states_is_switched_off(tiny_llama, monkeypatch):
    class Wrong(Pruning):
        def _give(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            whole = super()._give(module, args, output)
            return None if whole is None else whole + 1

    monkeypatch.setattr("echo_core.engine.speedups.pruning.Pruning", Wrong)
    assert load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32).prepare().pruning is None


def test_a_small_batch_runs_whole_after_a_pass_whose_end_was_cut_short_too(tiny_llama):
    """A second Ctrl-C at the end of a pass left its selection, and the next small batch got its tokens from it."""
    model = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    batch = pad_rows(ROWS)
    whole = model.states(batch)
    model.prepare().pruning.only_for(pad_rows(ROWS[:1]), model.device).__enter__()
    torch.testing.assert_close(model.states(batch), whole)
