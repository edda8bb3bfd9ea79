"""The questions that a model is asked at load. Models here are functions, or tiny."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from echo_core.engine.attention.choose import choose_attention
from echo_core.engine.batches import Batch
from echo_core.engine.decoder import Decoder
from echo_core.engine.loading import load_model
from echo_core.engine.probes import (
    ROW,
    SHARED,
    TOLERANCES,
    ProbeRows,
    apart,
    end_to_end,
    is_causal,
    near,
    pooled_states_stay,
    rows_stay_apart,
    sum_is_right,
)

CPU = torch.device("cpu")
VOCABULARY = 300
TABLE = torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(0))
HALF, FULL = torch.bfloat16, torch.float32


def rows_of(dtype: torch.dtype = FULL, ids: tuple[int, ...] = ()) -> ProbeRows:
    return ProbeRows.of(ids, VOCABULARY, CPU, dtype)


def running_mean(ids: Tensor) -> Tensor:
    """A causal model: each state is the mean of the row's token vectors so far."""
    return TABLE[ids].cumsum(-2) / torch.arange(1, ids.shape[-1] + 1, dtype=torch.float32)[:, None]


def model(ids: Tensor, lengths=None, shared: int = 0, prefix=None) -> Tensor:
    """``running_mean`` of rows, however they lie."""
    if lengths is None:
        return running_mean(ids)
    if prefix is not None and prefix.filled:
        common, own = torch.from_numpy(prefix.ids)[:shared], ids[0]
    else:
        common, own = ids[0, :shared], ids[0, shared:]
    parts = torch.split(own[: sum(lengths)], list(lengths))
    states = torch.cat([running_mean(torch.cat([common, part]))[shared:] for part in parts])
    return states[None] if prefix is not None and prefix.filled else torch.cat([running_mean(common), states])[None]


def without_bounds(ids: Tensor, lengths=None, shared: int = 0, prefix=None) -> Tensor:
    """A model that does not know where a row laid end to end begins."""
    return running_mean(ids)


def looking_ahead(ids: Tensor, lengths=None, shared: int = 0, prefix=None) -> Tensor:
    return running_mean(ids) + TABLE[ids].mean(-2, keepdim=True)


@given(st.lists(st.integers(0, 2 * VOCABULARY), max_size=20), st.integers(1, VOCABULARY))
def test_probe_rows_are_of_given_ids_and_of_the_vocabulary_in_any_case(ids: list[int], vocabulary: int):
    rows = ProbeRows.of(ids, vocabulary, CPU, FULL).ids
    assert rows.shape == (3, ROW)
    assert int(rows.max()) < vocabulary
    assert torch.equal(rows[2], torch.cat([rows[0, :SHARED], rows[1, SHARED:]]))
    known = list(dict.fromkeys(i for i in ids if i < vocabulary))[: 2 * ROW]
    assert rows[:2].flatten().tolist()[: len(known)] == known


def test_without_ids_of_a_text_the_vocabulary_s_ends_where_special_tokens_are_are_left_out():
    ids = ProbeRows.of((), 49152, CPU, FULL).ids
    assert len(ids.unique()) == 2 * ROW
    assert 49152 // 3 <= int(ids.min()) <= int(ids.max()) < 49152 * 2 // 3


def test_a_causal_model_is_told_from_one_that_looks_ahead():
    for rows in (rows_of(FULL), rows_of(HALF)):
        assert is_causal(model, rows, model(rows.ids))
        assert not is_causal(looking_ahead, rows, looking_ahead(rows.ids))


def test_rows_that_see_each_other_are_found_out():
    for rows in (rows_of(FULL), rows_of(HALF)):
        assert rows_stay_apart(model, rows, end_to_end(model, rows.ids))
        assert not rows_stay_apart(without_bounds, rows, end_to_end(without_bounds, rows.ids))


def test_a_shared_beginning_that_rows_do_not_see_is_found_out():
    def forgetful(ids, lengths=None, shared=0, prefix=None):
        return model(ids, lengths, 0 if prefix is not None and prefix.filled else shared, prefix)

    rows = rows_of()
    assert sum_is_right(end_to_end(model, rows.ids), model(rows.ids), FULL)
    assert not sum_is_right(end_to_end(forgetful, rows.ids), model(rows.ids), FULL)


def test_single_chaotic_states_are_no_wrong_sum_in_half_precision_but_are_one_in_float32():
    """SmolLM2 ran padded in bfloat16: a rounding moved single states by twice their length, in any attention."""
    own = model(rows_of().ids)
    states = own.clone()
    states[:, 3] *= -1
    assert near("same sum", states, own, HALF)
    assert not near("same sum", states, own, FULL)


@pytest.mark.parametrize("row", range(3))
def test_one_row_that_is_wrong_is_a_wrong_sum(row: int):
    own = model(rows_of().ids)
    states = own.clone()
    states[row] *= 1.5
    assert not near("same sum", states, own, HALF)
    assert apart(states, own, HALF) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("question", TOLERANCES)
def test_not_a_number_is_never_near(question: str):
    own = model(rows_of().ids)
    assert near(question, own, own, HALF)
    assert not near(question, own * torch.nan, own, HALF)


@pytest.mark.parametrize(("spoiled", "stay"), [(0, True), (ROW - 1, False)])
def test_pruning_may_change_what_is_not_pooled_and_nothing_else(spoiled: int, stay: bool):
    inside: list[Batch] = []

    @contextmanager
    def pruned(batch: Batch) -> Iterator[None]:
        inside.append(batch)
        yield
        inside.clear()

    def forward(ids, lengths=None, shared=0, prefix=None):
        states = model(ids)
        states[:, spoiled] += len(inside)
        return states

    assert pooled_states_stay(forward, rows_of(), pruned) == stay


def chaotic(decoder: Decoder, low: int):
    """The decoder's pass, but states of ids below ``low`` are others with each layout, as special tokens' are."""

    def forward(ids, lengths=None, shared=0, prefix=None):
        states = decoder.forward(ids, lengths, shared, prefix)
        return torch.where((ids < low)[..., None], states * (1 if lengths is None else -1), states)

    return forward


def test_a_model_that_is_chaotic_at_special_tokens_is_packed_without_a_word(tiny_llama: Path, caplog):
    """It was tried out at the ids 0 … 11, where states differ by more than their length in any exact attention."""
    decoder = Decoder(load_model(tiny_llama, HALF, False), [-1])
    rows = ProbeRows.of((), decoder.vocabulary, CPU, HALF)
    with caplog.at_level(logging.INFO, "echo_core"):
        assert choose_attention(decoder.model, chaotic(decoder, low=12), rows).layout == "packed"
    assert not caplog.records


def test_a_model_that_our_attention_computes_otherwise_is_padded_and_not_accused(tiny_llama: Path, caplog):
    decoder = Decoder(load_model(tiny_llama, HALF, False), [-1])
    with caplog.at_level(logging.INFO, "echo_core"):
        found = choose_attention(decoder.model, chaotic(decoder, low=10**6), decoder.probe_rows())
    assert found.layout == "padded"
    assert "others than by its own attention" in caplog.text
    assert "see each other" not in caplog.text


@pytest.mark.parametrize("layers", [(-1, -2), (1, 2, 3)])
def test_a_band_of_layers_is_judged_by_what_the_model_computes_in(tiny_llama: Path, layers: tuple[int, ...]):
    """A band's mean is float32, whatever the model computes in, and was asked to be exact to float32."""
    decoder = Decoder(load_model(tiny_llama, HALF, False), layers)
    assert decoder.forward(decoder.probe_rows().ids).dtype is FULL
    assert (decoder.layout, decoder.probe_rows().dtype) == ("packed", HALF)
