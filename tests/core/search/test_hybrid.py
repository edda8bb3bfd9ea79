from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from echo_core.errors import ConfigError
from echo_core.search.hybrid import SCALES, fuse_scores, reciprocal_rank_fusion


def test_ranks_are_fused_by_their_reciprocals():
    fused = reciprocal_rank_fusion([["a", "b"], ["b", "c"]])
    assert list(fused) == ["b", "a", "c"]
    assert fused["b"] == pytest.approx(1 / 62 + 1 / 61)


@given(arrays(np.float64, (3, 7), elements=st.floats(-1e3, 1e3)))
def test_scales_keep_each_querys_order_and_bring_it_to_one_range(scores):
    for scale in SCALES.values():
        scaled = scale(scores)
        assert np.isfinite(scaled).all()
        for line, before in zip(scaled, scores, strict=True):
            order = np.argsort(before, kind="stable")
            assert (np.diff(line[order]) >= -1e-9).all()
    assert (SCALES["min-max"](scores) >= 0).all()
    assert (SCALES["min-max"](scores) <= 1).all()


def test_scores_are_fused_on_one_scale_whatever_their_units():
    dense, words = np.array([[0.9, 0.8, 0.1]]), np.array([[0.0, 30.0, 10.0]])
    by_hand = (dense - dense.mean()) / dense.std() + 2 * (words - words.mean()) / words.std()
    assert np.allclose(fuse_scores([dense, words], weights=[1, 2]), by_hand)
    assert fuse_scores([dense, words * 1000])[0].argmax() == 1
    assert np.allclose(fuse_scores([dense, words], scale="min-max"), [[1.0, 0.875 + 1.0, 1 / 3]])


def test_wrong_scales_and_weights_are_refused():
    with pytest.raises(ConfigError, match="scale must be one of 'z', 'min-max', got 'softmax'"):
        fuse_scores([np.ones((1, 2))], scale="softmax")
    with pytest.raises(ConfigError, match="weights must be one for each of the 2 rankings, got 1"):
        reciprocal_rank_fusion([["a"], ["b"]], weights=[1])
