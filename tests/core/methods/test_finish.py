from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.config import EchoConfig
from echo_core.methods.finish import cut, finish, first_not_finite, join_spans, unit
from echo_core.text.rows import Span

RNG = np.random.default_rng(0)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6))
def test_the_spans_of_a_text_are_joined_by_their_tokens(texts: list[list[int]]):
    spans = [Span(owner, 5, 5 + size) for owner, sizes in enumerate(texts) for size in sizes]
    pooled = RNG.normal(size=(len(spans), 3)).astype(np.float32)
    joined = join_spans(pooled, spans, len(texts))
    for owner, vector in enumerate(joined):
        mine = [i for i, span in enumerate(spans) if span.owner == owner]
        weights = [spans[i].end - spans[i].start for i in mine]
        np.testing.assert_allclose(
            vector, np.average(pooled[mine].astype(np.float64), axis=0, weights=weights), atol=1e-6
        )
    assert joined.dtype == np.float32


def test_cutting_keeps_the_first_numbers_and_comes_before_unit_length():
    pooled = np.array([[3.0, 4.0, 12.0]], dtype=np.float32)
    assert cut(pooled, None) is pooled
    assert finish(pooled, EchoConfig(dimension=2)).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert finish(pooled, EchoConfig(dimension=2, normalize=False)).tolist() == [[3.0, 4.0]]


def test_a_zero_vector_stays_zero():
    assert unit(np.zeros((1, 4), dtype=np.float32)).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e25, 1e38])
def test_unit_length_holds_at_every_magnitude_of_float32(scale: float):
    """The square of 1e20 is no float32: the length came out as infinity, and the vector as a quiet zero."""
    vector = np.array([[3.0, -4.0, 0.0]], dtype=np.float32) / 4 * np.float32(scale)
    np.testing.assert_allclose(unit(vector), [[0.6, -0.8, 0]], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_vector_that_is_not_finite_is_found(bad: float):
    vectors = np.ones((4, 3), dtype=np.float32)
    assert first_not_finite(vectors) is None
    vectors[2, 1] = vectors[3, 0] = bad
    assert first_not_finite(vectors) == 2
