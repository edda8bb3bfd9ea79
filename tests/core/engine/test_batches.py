from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from echo_core.engine.batches import pack_rows, pad_rows, round_up
from echo_core.engine.prefix_cache import Prefix
from echo_core.text.rows import Row, Span


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_padding_stands_right_and_the_spans_find_their_own_tokens(lengths: list[int]):
    rows = [Row(np.arange(100 * i, 100 * i + n), (Span(i, n // 2, n),)) for i, n in enumerate(lengths, start=1)]
    batch = pad_rows(rows)
    assert batch.ids.dtype == torch.int64
    assert batch.ids.shape == (len(lengths), max(lengths))
    flat = batch.ids.flatten().tolist()
    for (start, end), row in zip(batch.spans, rows, strict=True):
        span = row.spans[0]
        assert flat[start:end] == row.ids[span.start : span.end].tolist()
    for line, n in zip(batch.ids.tolist(), lengths, strict=True):
        assert line[n:] == [0] * (max(lengths) - n)


def test_rows_end_to_end_hold_every_token_once_and_the_spans_find_their_own():
    rows = [Row(np.arange(10 * i, 10 * i + length), (Span(i, 1, length),)) for i, length in enumerate([4, 2, 5])]
    batch = pack_rows(rows)
    assert batch.ids.tolist() == [[0, 1, 2, 3, 10, 11, 20, 21, 22, 23, 24]]
    assert batch.lengths == (4, 2, 5)
    assert [batch.ids[0, start:end].tolist() for start, end in batch.spans] == [[1, 2, 3], [11], [21, 22, 23, 24]]


def test_what_rows_share_stands_once_before_them():
    rows = [
        Row(np.array([7, 8, *range(10 * i, 10 * i + length)]), (Span(i, 3, length + 2),))
        for i, length in enumerate([4, 2], start=1)
    ]
    batch = pack_rows(rows, shared=2)
    assert batch.ids.tolist() == [[7, 8, 10, 11, 12, 13, 20, 21]]
    assert (batch.lengths, batch.shared) == ((4, 2), 2)
    assert [batch.ids[0, start:end].tolist() for start, end in batch.spans] == [[11, 12, 13], [21]]
    kept = Prefix(np.array([7, 8]))
    assert pack_rows(rows, 2, prefix=kept).ids.tolist() == batch.ids.tolist(), "to be kept, they run"
    kept.filled = True
    behind = pack_rows(rows, 2, prefix=kept)
    assert behind.ids.tolist() == [[10, 11, 12, 13, 20, 21]]
    assert [behind.ids[0, start:end].tolist() for start, end in behind.spans] == [[11, 12, 13], [21]]


@given(st.integers(1, 100_000))
def test_sizes_are_rounded_up_by_little_to_few(size: int):
    rounded = round_up(size)
    assert size <= rounded <= size * 33 / 32
    assert round_up(rounded) == rounded
    assert rounded < 64 or rounded % 2 ** (rounded.bit_length() - 6) == 0


def test_rounded_rows_end_to_end_have_padding_behind_them():
    rows = [Row(np.arange(1, 71), (Span(0, 1, 70),)), Row(np.arange(1, 62), (Span(1, 3, 61),))]
    batch = pack_rows(rows, rounded=True)
    assert batch.ids.shape == (1, 132)
    assert batch.ids[0, 131:].tolist() == [0]
    assert batch.spans == ((1, 70), (73, 131))
    assert batch.lengths == (70, 61)
