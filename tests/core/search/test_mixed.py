from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from echo_core.search.mixed import on_scale_of


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 100))
def test_scores_of_a_stretched_and_moved_space_come_back_as_they_were(stretch, move, seed):
    true = np.random.default_rng(seed).normal(size=(3, 20))
    other = true * stretch + move
    assert np.allclose(on_scale_of(other[:, 8:], other[:, :8], true[:, :8]), true[:, 8:])


def test_equal_scores_are_moved_alone_and_none_leave_all_as_it_is():
    scores = np.array([[1.0, 2.0]])
    assert np.allclose(on_scale_of(scores, np.ones((1, 3)), np.full((1, 3), 4.0)), [[4.0, 5.0]])
    assert np.allclose(on_scale_of(scores, np.ones((1, 0)), np.ones((1, 0))), scores)


def test_what_decides_is_the_top_of_the_scores():
    of, to = np.arange(40.0)[None], np.where(np.arange(40.0) > 35, 100 + np.arange(40.0), 0)[None]
    assert np.allclose(on_scale_of(np.array([[38.0]]), of, to), [[138.0]])
