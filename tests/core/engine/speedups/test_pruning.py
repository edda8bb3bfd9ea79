from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from conftest import ModelFolder
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES
from torch import Tensor, nn

import echo_core.engine.decoder
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.batches import Batch, pack_rows, pad_rows
from echo_core.engine.decoder import Decoder
from echo_core.engine.speedups.pruning import DISTINCT, POOLED, Kind, Pruning, distinct_tokens, pooled_tokens
from echo_core.text.rows import Row, Span

FP32 = Runtime(device="cpu", dtype="float32")
ROWS = [Row(np.arange(n) + 3, (Span(i, n // 2, n - 1),)) for i, n in enumerate((9, 30, 17, 5))]


def batch_of(ids: list[int], spans: list[tuple[int, int]]) -> Batch:
    return Batch(torch.tensor(ids)[None], tuple(spans))


def test_pooled_tokens_are_those_of_all_spans_each_once():
    selection = pooled_tokens(batch_of([7] * 9, [(4, 6), (0, 2), (5, 8)]))
    assert selection.taken.tolist() == [0, 1, 4, 5, 6, 7]
    assert selection.found[selection.taken].tolist() == list(range(6))
    rounded = pooled_tokens(batch_of([7] * 80, [(10, 75)]))
    assert rounded.taken.tolist() == [*range(10, 75), 74, 74, 74], "the last again, up to a round number of them"


@given(st.lists(st.integers(0, 90), min_size=1, max_size=300))
def test_each_distinct_token_is_taken_and_every_token_finds_one_of_its_id(ids):
    selection = distinct_tokens(batch_of(ids, []))
    taken = torch.tensor(ids)[selection.taken]
    assert taken[selection.found].tolist() == ids
    assert set(taken.tolist()) == set(ids)
    assert len(taken) <= 1.07 * len(set(ids))


@pytest.fixture
def prune_always(monkeypatch):
    monkeypatch.setattr(echo_core.engine.decoder, "WORTH", 0)


@pytest.mark.usefixtures("prune_always")
@pytest.mark.parametrize("lay_out", [pad_rows, pack_rows])
@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_pooled_states_are_those_of_the_whole_model_on_any_family(
    family: str, model_folder: ModelFolder, lay_out, layer: int
):
    folder = model_folder(family)
    model = Decoder(folder, EchoConfig(str(folder), layer=layer), FP32)
    if model.layout == "padded":
        lay_out = pad_rows  # this family's rows are never laid end to end
    batch = lay_out(ROWS)
    pruned = model.states(batch)
    model._prunings = []
    whole = model.states(batch)
    for start, end in batch.spans:
        torch.testing.assert_close(pruned[start:end], whole[start:end], atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("prune_always")
@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj"])
def test_the_last_layer_sees_the_pooled_tokens_only_but_for_keys_and_values(tiny_llama, name: str):
    model = Decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    seen: list[int] = []
    for layer in model._readout.layers[1:]:
        layer.get_submodule(name).register_forward_hook(
            lambda module, args, output: seen.append(args[0].shape[-2] * args[0].shape[0])
        )
    batch = pad_rows(ROWS)
    model.states(batch)
    pooled = sum(end - start for start, end in batch.spans)
    assert seen == [batch.ids.numel()] * (len(model._readout.layers) - 2) + [pooled]


@pytest.mark.usefixtures("prune_always")
def test_the_first_layer_multiplies_each_distinct_token_once(tiny_llama):
    model = Decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    seen: list[list[int]] = []
    for layer in model._readout.layers[:-1]:
        projections = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        for module in projections:
            module.register_forward_hook(
                lambda module, args, output: seen.append([args[0].shape[-2] * args[0].shape[0], output.shape[-2]])
            )
    batch = pack_rows(ROWS)
    model.states(batch)
    distinct, tokens = len(batch.ids.unique()), batch.ids.numel()
    assert distinct < tokens
    assert seen[:3] == [[distinct, tokens]] * 3
    assert seen[3:] == [[tokens, tokens]] * 3 * (len(model._readout.layers) - 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "kinds"),
    [("llama", [POOLED, DISTINCT]), ("phi3", [POOLED, DISTINCT]), ("gpt2", [POOLED]), ("opt", [POOLED])],
)
def test_a_first_layer_that_knows_positions_already_runs_whole(
    family: str, kinds: list[Kind], model_folder: ModelFolder, dtype: str
):
    folder = model_folder(family)
    model = Decoder(folder, EchoConfig(str(folder)), Runtime(device="cpu", dtype=dtype))
    assert [pruning._kind for pruning in model._prunings] == kinds


@pytest.mark.usefixtures("prune_always")
def test_a_band_of_layers_is_the_same_too(tiny_llama):
    encoder = EchoEncoder(EchoConfig(str(tiny_llama), layer=(-1, -2)), FP32)
    pruned = encoder.encode_documents(["one text", "another text of some words"])
    encoder._engine.runner.decoder._prunings = []
    assert np.abs(pruned - encoder.encode_documents(["one text", "another text of some words"])).max() < 1e-6


def test_small_batches_run_whole(tiny_llama):
    encoder = EchoEncoder(EchoConfig(str(tiny_llama)), FP32)
    rows: list[int] = []
    encoder._engine.runner.decoder._readout.layers[-1].mlp.gate_proj.register_forward_hook(
        lambda module, args, output: rows.append(args[0].shape[-2])
    )
    encoder.encode_queries(["a short one"])
    assert rows == [len(encoder._pipelines["query"].prompts.tokenise(["a short one"], {}).rows[0].ids)]


def test_a_forward_pass_of_other_rows_is_whole_again(tiny_llama):
    model = Decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    ids = torch.arange(12)[None] + 3
    before = model.forward(ids)
    with ExitStack() as pruned:
        for pruning in model._prunings:
            pruned.enter_context(pruning.only_for(Batch(ids, ((3, 4),)), model.device))
        assert not torch.equal(model.forward(ids), before)
    assert torch.equal(model.forward(ids), before)


def test_a_feed_forward_module_of_another_kind_is_left_alone(tiny_llama, monkeypatch):
    class Odd(Pruning):
        def _give(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            return super()._give(module, args, (output, None))  # type: ignore[arg-type]

    monkeypatch.setattr(echo_core.engine.decoder, "Pruning", Odd)
    model = Decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    assert model._prunings == []
    assert not model._readout.layers[-1].mlp._forward_hooks


def test_pruning_that_changes_pooled_states_is_switched_off(tiny_llama, monkeypatch):
    class Wrong(Pruning):
        def _give(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            whole = super()._give(module, args, output)
            return None if whole is None else whole + 1

    monkeypatch.setattr(echo_core.engine.decoder, "Pruning", Wrong)
    assert Decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)._prunings == []
