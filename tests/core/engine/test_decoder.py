"""A model that somebody else loaded, and may train, as a decoder; ``test_loading.py`` has those of a folder."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ModelFolder
from oracle import open_oracle
from transformers import AutoModel, AutoModelForCausalLM

from echo_core import ConfigError, EchoConfig, ModelError, Runtime
from echo_core.engine.attention.choose import OWN
from echo_core.engine.attention.interface import ROWS
from echo_core.engine.batches import Batch, pack_rows, pad_rows
from echo_core.engine.decoder import Decoder
from echo_core.engine.layers import pooled_layers
from echo_core.engine.loading import load_decoder
from echo_core.engine.pooling import pool_spans
from echo_core.engine.readout import CUT
from echo_core.text.rows import Row, Span

ROWS_OF_IDS = [Row(np.arange(n) * 7 % 300 + 3, (Span(i, n // 2, n),)) for i, n in enumerate((9, 30, 17))]


def wrapped(folder: Path, layers: Any = (-1,), **options: Any) -> Decoder:
    return Decoder(AutoModel.from_pretrained(folder, dtype=torch.float32), layers, **options)


def pooled(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    return pool_spans(states, batch.spans, "mean")


@pytest.mark.parametrize("lay_out", [pad_rows, pack_rows])
@pytest.mark.parametrize("layers", [(-1,), (-2,), (1, 3)])
def test_states_of_a_wrapped_model_are_those_of_its_folder(tiny_llama: Path, layers: tuple[int, ...], lay_out):
    batch = lay_out(ROWS_OF_IDS)
    config = EchoConfig(str(tiny_llama), layer=layers)
    loaded = load_decoder(tiny_llama, config, Runtime(device="cpu", dtype="float32"))
    ours, theirs = (pooled(decoder.states(batch), batch) for decoder in (wrapped(tiny_llama, layers), loaded))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_model_with_an_lm_head_lends_its_decoder(tiny_llama: Path):
    whole = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    decoder = Decoder(whole, [-1])
    assert decoder.model is whole.model
    batch = pad_rows(ROWS_OF_IDS)
    torch.testing.assert_close(decoder.states(batch), wrapped(tiny_llama).states(batch))


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "opt"])
def test_training_states_of_rows_end_to_end_have_the_gradients_of_padded_ones(family: str, model_folder: ModelFolder):
    rows = [Row(row.ids[:12], (Span(i, 2, min(12, len(row.ids))),)) for i, row in enumerate(ROWS_OF_IDS)]
    gradients = []
    for batch in (pad_rows(rows), pack_rows(rows)):
        model = AutoModel.from_pretrained(model_folder(family), dtype=torch.float64)
        decoder = Decoder(model, [-2])
        pooled(decoder.train_states(batch.ids, batch.lengths).flatten(0, 1), batch).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) > 10
    for padded, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-6)


def test_rows_end_to_end_are_refused_in_training_where_the_models_attention_alone_serves(model_folder: ModelFolder):
    """A model's own attention may take rows laid end to end for one row, in silence: OPT's does."""
    batch = pack_rows(ROWS_OF_IDS)
    with pytest.raises(ModelError, match="rows must be padded to train Gemma2Model"):
        wrapped(model_folder("gemma2")).train_states(batch.ids, batch.lengths)


def test_a_model_in_training_mode_is_tried_out_without_its_dropout(model_folder: ModelFolder):
    decoder = wrapped(model_folder("gpt2", resid_pdrop=0.5, embd_pdrop=0.5))
    decoder.model.train()
    assert decoder.layout == "packed"
    assert decoder.model.training


def test_training_runs_by_the_models_own_attention_and_inference_by_ours(tiny_llama: Path):
    decoder, batch = wrapped(tiny_llama), pad_rows(ROWS_OF_IDS)
    own = decoder.model.config._attn_implementation
    assert not decoder.states(batch).requires_grad
    assert decoder.model.config._attn_implementation == ROWS
    assert decoder.train_states(batch.ids).requires_grad
    assert decoder.model.config._attn_implementation == own != ROWS
    decoder.states(batch)
    decoder.use_own_attention()
    assert decoder.model.config._attn_implementation == own


def test_an_attention_that_the_user_chose_is_never_switched(tiny_llama: Path):
    model = AutoModel.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation="eager")
    decoder = Decoder(model, [-1], attention=OWN)
    assert decoder.layout == "padded"
    decoder.states(pad_rows(ROWS_OF_IDS))
    assert model.config._attn_implementation == "eager"


def test_another_dtype_is_tried_out_anew(tiny_llama: Path):
    decoder, batch = wrapped(tiny_llama), pad_rows(ROWS_OF_IDS)
    exact = pooled(decoder.states(batch), batch)
    decoder.model.to(torch.bfloat16)
    rough = decoder.states(batch)
    assert rough.dtype is decoder.dtype is torch.bfloat16
    assert torch.cosine_similarity(pooled(rough, batch), exact).min() > 0.99


def test_weights_that_were_trained_meanwhile_are_those_that_run(tiny_llama: Path):
    decoder, batch = wrapped(tiny_llama), pad_rows(ROWS_OF_IDS)
    before = decoder.states(batch)
    with torch.no_grad():
        for parameter in decoder.model.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(decoder.states(batch), before)


@pytest.mark.parametrize("layer", [1, -2])
def test_a_cut_model_says_so_when_it_is_saved_and_is_read_before_the_norm_again(
    tiny_llama: Path, layer: int, tmp_path: Path
):
    decoder, batch = wrapped(tiny_llama, [layer]), pad_rows(ROWS_OF_IDS)
    states = decoder.states(batch)
    decoder.model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["num_hidden_layers"], fields[CUT]) == (decoder.readout.places[-1], True)
    assert ROWS not in json.dumps(fields)
    again = wrapped(tmp_path, [-1])
    assert again.readout.places == decoder.readout.places
    torch.testing.assert_close(again.states(batch), states)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda decoder: pickle.loads(pickle.dumps(decoder))])
def test_a_copy_gives_the_same_states_and_is_another_model(tiny_llama: Path, copied):
    decoder, batch = wrapped(tiny_llama, (1, 3)), pack_rows(ROWS_OF_IDS)
    states = decoder.states(batch)
    other = copied(decoder)
    torch.testing.assert_close(other.states(batch), states)
    with torch.no_grad():
        other.model.embed_tokens.weight.zero_()
    assert not torch.allclose(other.states(batch), states)
    torch.testing.assert_close(decoder.states(batch), states)


def test_threads_that_share_a_model_each_get_their_own_states(tiny_llama: Path):
    decoder = wrapped(tiny_llama, (1, 3))
    batches = [pad_rows([row]) for row in ROWS_OF_IDS] * 20
    expected = [decoder.states(batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        for states, alone in zip(threads.map(decoder.states, batches), expected, strict=True):
            torch.testing.assert_close(states, alone)


@pytest.mark.parametrize("lay_out", [pad_rows, pack_rows])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_all_layers_are_pooled_from_one_pass(family: str, model_folder: ModelFolder, lay_out):
    folder = model_folder(family)
    decoder, oracle, batch = wrapped(folder), open_oracle(folder), lay_out(ROWS_OF_IDS)
    ran: list[int] = []
    decoder.readout.layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    decoder.prepare()
    ran.clear()
    pooled_at = pooled_layers(decoder, batch, [1, 2, 3], "mean")
    assert ran == [1]
    assert pooled_at.shape == (3, len(ROWS_OF_IDS), decoder.width)
    for layer, vectors in enumerate(pooled_at, start=1):
        for row, vector in zip(ROWS_OF_IDS, vectors, strict=True):
            own = oracle.states(row.ids.tolist(), layer)[row.spans[0].start : row.spans[0].end].mean(0)
            torch.testing.assert_close(vector, own, atol=1e-5, rtol=1e-4)


def test_layers_that_do_not_run_cannot_be_pooled(tiny_llama: Path):
    with pytest.raises(ConfigError, match="layer must be from 1 to 2"):
        pooled_layers(wrapped(tiny_llama, [2]), pad_rows(ROWS_OF_IDS), [3], "mean")


def test_a_wrapped_encoder_is_refused_at_its_first_use(model_folder: ModelFolder):
    with pytest.raises(ModelError, match="causal decoder, got BertModel"):
        wrapped(model_folder("bert")).states(pad_rows(ROWS_OF_IDS))
