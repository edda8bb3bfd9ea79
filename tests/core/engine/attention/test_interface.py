from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from oracle import PIECES, open_oracle
from tiny_models import FAMILIES, WINDOW
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.attention.choose import Attention, choose_attention
from echo_core.engine.attention.interface import PADDED, ROWS, attend_rows
from echo_core.engine.attention.packing import packing_arguments
from echo_core.engine.batches import pack_rows, pad_rows, round_up
from echo_core.engine.loading import load_decoder
from echo_core.engine.pooling import pool_spans
from echo_core.engine.prefix_cache import shared_tokens
from echo_core.engine.probes import ProbeRows
from echo_core.engine.runner import load_runner
from echo_core.engine.speedups.waits import NoWaiting
from echo_core.errors import ModelError
from echo_core.text.rows import Row, Span

CPU = torch.device("cpu")
TEXTS = [
    "a cat",
    "The quick brown fox jumps over the lazy dog, twice.",
    "rain",
    "Paris is the capital of France and a long way off.",
]
CANNOT = {"gemma2"}  # caps its scores softly, which the fast kernels do not


def packed_runtime(attention: str = "packed") -> Runtime:
    return Runtime(device="cpu", dtype="float32", attention=attention)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - CANNOT))
def test_rows_end_to_end_give_the_vectors_of_the_oracle_and_of_padded_rows(family, model_folder):
    folder = model_folder(family)
    config = EchoConfig(str(folder), query_template="echo", document_template="echo")
    packed, padded = (EchoEncoder(config, packed_runtime(kind)) for kind in ("packed", "padded"))
    assert packed._engine.runner.planner.packed
    vectors = packed.encode_documents(TEXTS)
    oracle = open_oracle(folder)
    np.testing.assert_allclose(vectors, padded.encode_documents(TEXTS), atol=2e-5)
    np.testing.assert_allclose(vectors, [oracle.vector(PIECES["echo"], {"text": text}) for text in TEXTS], atol=2e-5)


@pytest.fixture
def as_elsewhere(monkeypatch):
    """The CPU serves padded rows as another device does, by torch's kernel."""
    monkeypatch.setattr("echo_core.engine.attention.choose._BY_BLOCKS", ())


@pytest.mark.usefixtures("as_elsewhere")
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - CANNOT))
def test_padded_rows_on_another_device_are_the_oracle_s_and_nothing_waits_for_it(family, model_folder):
    """transformers looked in every pass whether positions begin anew in a row: `.all()` of a tensor on the device."""
    config = EchoConfig(str(model_folder(family)), query_template="echo", document_template="echo")
    encoder = EchoEncoder(config, packed_runtime("padded"))
    decoder = encoder._engine.runner.decoder
    assert decoder.prepare().attention == Attention("padded", PADDED)
    batch = pad_rows([Row(np.arange(5, 5 + length), (Span(i, 2, length),)) for i, length in enumerate((4, 2 * WINDOW))])
    with NoWaiting():
        pool_spans(decoder.states(batch), batch.spans, "mean")
    oracle = open_oracle(model_folder(family))
    expected = [oracle.vector(PIECES["echo"], {"text": text}) for text in TEXTS]
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), expected, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_model_s_own_attention_waits_for_the_device_in_each_pass(family, model_folder):
    """The premise of the test before: such a wait would be found."""
    folder = model_folder(family)
    decoder = load_decoder(folder, EchoConfig(str(folder)), packed_runtime("padded"))
    decoder.use_own_attention()
    with NoWaiting(), pytest.raises(ModelError, match=r"waits for the device in aten\._local_scalar_dense"):
        decoder.forward(torch.arange(5, 25).view(2, 10))


@pytest.mark.usefixtures("as_elsewhere")
@pytest.mark.parametrize("family", sorted(CANNOT))
def test_a_model_that_torch_s_kernel_does_not_serve_keeps_its_own_attention(family, model_folder):
    folder = model_folder(family)
    decoder = load_decoder(folder, EchoConfig(str(folder)), packed_runtime("padded"))
    assert decoder.prepare().attention == Attention("padded", "eager")


@pytest.mark.parametrize("family", sorted(CANNOT))
def test_a_model_that_caps_its_scores_runs_padded_and_says_so_once(family, model_folder, caplog):
    config = EchoConfig(str(model_folder(family)))
    with caplog.at_level(logging.WARNING, "echo_core"):
        encoder = EchoEncoder(config, packed_runtime())
        vectors = encoder.encode_documents(TEXTS)
    assert not encoder._engine.runner.planner.packed
    assert [record.message for record in caplog.records if "softcap" in record.message and "padded" in record.message]
    np.testing.assert_allclose(
        vectors, EchoEncoder(config, packed_runtime("padded")).encode_documents(TEXTS), atol=1e-6
    )


def test_packed_rows_longer_than_the_window_are_in_the_family_tests():
    """The premise of the oracle test: some row of TEXTS, said twice, is longer than a sliding layer sees."""
    assert 2 * max(len(text.split()) for text in TEXTS) + 7 > WINDOW


def test_a_model_whose_rows_see_each_other_falls_back(tiny_llama, monkeypatch, caplog):
    monkeypatch.setattr(
        "echo_core.engine.decoder.packing_arguments",
        lambda lengths, *others: packing_arguments([sum(lengths)], *others),
    )
    with caplog.at_level(logging.WARNING, "echo_core"):
        decoder = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), packed_runtime())
    assert decoder.layout == "padded"
    assert "see each other" in caplog.text


def test_gradients_of_packed_rows_are_those_of_padded_rows(tiny_llama):
    rows = [Row(np.arange(5, 5 + length), (Span(i, 2, length),)) for i, length in enumerate((4, 9, 6))]
    gradients = []
    for kind, lay_out in (("packed", pack_rows), ("padded", pad_rows)):
        model = AutoModel.from_pretrained(
            tiny_llama, dtype=torch.float64
        )  # sums in another order: in float32 in the fourth digit

        def forward(ids, lengths, shared=0, prefix=None, model=model):
            layout = {} if lengths is None else packing_arguments(lengths, CPU, shared, ids.shape[1], prefix)
            return model(input_ids=ids, use_cache=False, **layout).last_hidden_state

        assert (
            choose_attention(model, forward, ProbeRows.of((), model.config.vocab_size, CPU, torch.float64), kind).layout
            == kind
        )
        batch = lay_out(rows)
        states = forward(batch.ids, batch.lengths).flatten(0, 1)
        sum(states[start:end].square().sum() for start, end in batch.spans).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma3"])
def test_what_stands_behind_the_last_row_changes_nothing(family, model_folder):
    folder = model_folder(family)
    decoder = load_decoder(folder, EchoConfig(str(folder)), packed_runtime())
    for lengths in ([70, 60, 33], [163]):
        rows = rows_of(lengths)
        exact, rounded = pack_rows(rows), pack_rows(rows, rounded=True)
        assert rounded.ids.shape[1] > exact.ids.shape[1] == sum(lengths)
        assert rounded.spans == exact.spans
        torch.testing.assert_close(decoder.states(rounded)[: sum(lengths)], decoder.states(exact), atol=1e-5, rtol=1e-4)


def test_positions_begin_anew_in_each_row():
    arguments = packing_arguments([2, 3, 1], CPU)
    assert arguments["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0]]
    assert arguments["packing"].bounds == (0, 2, 5, 6)
    assert arguments["packing"].longest == 3
    assert packing_arguments([2, 3], CPU, tokens=8)["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 0, 0]]


@pytest.mark.parametrize(
    ("argument", "value"),
    [("softcap", 30.0), ("s_aux", torch.zeros(2)), ("dropout", 0.1), ("attention_mask", torch.zeros(1, 1, 4, 4))],
)
def test_what_the_packed_attention_cannot_compute_is_refused(argument, value):
    heads = torch.randn(1, 2, 4, 8)
    arguments = {"attention_mask": None, **packing_arguments([4], CPU), argument: value}
    with pytest.raises(ModelError, match=argument):
        attend_rows(torch.nn.Module(), heads, heads, heads, **arguments)


def test_a_window_that_the_model_keeps_to_itself_is_refused():
    class Layer(torch.nn.Module):
        class config:
            layer_types = ("full_attention", "chunked_attention")

        layer_idx = 1

    heads = torch.randn(1, 2, 4, 8)
    with pytest.raises(ModelError, match="keeps to itself"):
        attend_rows(Layer(), heads, heads, heads, None, **packing_arguments([4], CPU))


@pytest.mark.parametrize(("attention", "packs"), [("auto", True), ("packed", True), ("padded", False)])
def test_a_cpu_lays_rows_end_to_end_unless_the_runtime_says_otherwise(attention, packs, tiny_llama):
    runner = load_runner(tiny_llama, EchoConfig(str(tiny_llama)), packed_runtime(attention))
    assert runner.decoder.model.config._attn_implementation == ROWS
    assert [end_to_end(runner, lengths) for lengths in ([40], [163], [40, 5, 5])] == [False, packs, packs], (
        "one row in a round number of tokens needs no packing"
    )


def rows_of(lengths, begin=0):
    """Rows with the same first ``begin`` tokens, different from there on."""
    ids = [
        np.concatenate([np.arange(begin), 30 + 7 * i + np.arange(length - begin)]) for i, length in enumerate(lengths)
    ]
    return [Row(row, (Span(i, max(begin, 1), len(row)),)) for i, row in enumerate(ids)]


def end_to_end(runner, lengths, begin=0):
    return lay_out(runner, rows_of(lengths, begin)).lengths is not None


def lay_out(runner, rows):
    return runner.lay_out(runner.planner.step(rows))


@pytest.mark.parametrize("begin", [9, 80])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "opt", "gemma3"])
def test_what_all_rows_begin_with_runs_once_and_changes_nothing(family, begin, model_folder):
    folder = model_folder(family)
    runner = load_runner(folder, EchoConfig(str(folder)), packed_runtime())
    own = (21, 70, 3, 8)
    rows = rows_of([begin + length for length in own], begin)
    batch = lay_out(runner, rows)
    assert (batch.shared, batch.ids.shape[1]) == (begin, round_up(begin + sum(own)))
    np.testing.assert_allclose(runner.run(rows), torch.cat([runner.run([row]) for row in rows]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_a_row_as_long_as_the_model_s_positions_fits_whatever_its_tokens_are_rounded_to(
    attention, model_folder, tmp_path
):
    """Rounding up a row by itself went beyond a table of learned positions."""
    config = AutoConfig.from_pretrained(model_folder("gpt2"))
    config.n_positions = 163
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    rows = rows_of([163])
    assert round_up(163) > 163
    vector = load_runner(tmp_path, EchoConfig(str(tmp_path)), packed_runtime(attention)).run(rows)
    own = load_runner(tmp_path, EchoConfig(str(tmp_path)), packed_runtime("padded")).decoder.states(pad_rows(rows))
    torch.testing.assert_close(vector[0], own[1:163].mean(dim=0), atol=1e-5, rtol=1e-4)


def test_a_shared_beginning_ends_before_the_first_span_and_is_not_sought_with_slots():
    same = [Row(np.arange(20), (Span(i, 6, 20),)) for i in range(2)]
    assert shared_tokens(same) == 6
    assert shared_tokens(same[:1]) == 0
    assert shared_tokens([dataclasses.replace(row, slots=(2,)) for row in same]) == 0
    assert shared_tokens(rows_of([9, 8], begin=0)) == 0


def test_a_model_that_our_attention_cannot_serve_keeps_its_own(model_folder):
    folder = model_folder("gemma2")
    decoder = load_decoder(folder, EchoConfig(str(folder)), packed_runtime("padded"))
    assert decoder.model.config._attn_implementation != ROWS
