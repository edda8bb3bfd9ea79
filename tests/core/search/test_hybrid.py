from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from echo_core.errors import ConfigError
from echo_core.search.hybrid import (
    SCALES,
    SHARED_WORDS,
    STRONG_DENSE,
    Fusion,
    best,
    fuse_candidates,
    fuse_scores,
    reciprocal_rank_fusion,
)


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


def test_parts_that_do_not_belong_together_are_refused():
    """One of another shape was stretched to that of the others, and NaN in one score was in all of its query's."""
    line = np.array([[1.0, 2.0, 3.0]])
    for wrong in ([], [line, line[:, :1]], [line, np.ones((2, 3))], [line[0]], [np.array([["a"]])]):
        with pytest.raises(ConfigError, match=r"parts must be arrays of numbers of one shape \(Q, N\), got"):
            fuse_scores(wrong)
    for number in (np.nan, np.inf):
        with pytest.raises(ConfigError, match="parts must be finite, got NaN or infinity"):
            fuse_scores([line, np.array([[1.0, number, 3.0]])])
    for weight in (np.nan, "2", None):
        with pytest.raises(ConfigError, match="weights must be finite numbers, got"):
            fuse_scores([line], [weight])
    assert np.array_equal(fuse_scores([[[1, 2, 3]]]), fuse_scores([line]))


@pytest.mark.parametrize("scale", [*SCALES])
def test_scores_that_are_equal_or_none_are_on_every_scale(scale):
    """The mean of equal ones is rounded, and what was left of it became -1; without documents numpy found no least."""
    assert np.abs(fuse_scores([np.full((1, 3), 0.1), np.full((1, 3), 0.7)], scale=scale)).max() < 1e-9
    assert fuse_scores([np.zeros((2, 0))], scale=scale).shape == (2, 0)
    assert fuse_scores([np.zeros((0, 3))], scale=scale).shape == (0, 3)


@pytest.mark.parametrize("wrong", ["abc", ["abc", "cab"], [{"a", "b"}], {"a"}], ids=str)
def test_what_is_no_list_of_rankings_is_refused(wrong):
    """The letters of a string were ids, and a set has no best."""
    with pytest.raises(TypeError, match=r"rankings must be lists of ids, best first, got (str|set)"):
        reciprocal_rank_fusion(wrong)


def test_candidates_are_fused_by_scores_or_by_ranks_without_those_that_share_no_word():
    scores = {"dense": np.array([0.9, 0.5, 0.1]), "bm25": np.array([0.0, 4.0, 2.0])}
    by_scores = fuse_candidates(scores, Fusion(bm25=0.5))
    expected = fuse_scores([line[None] for line in scores.values()], [1, 0.5])[0]
    assert by_scores.tolist() == pytest.approx(expected.tolist())
    by_ranks = fuse_candidates(scores, Fusion(bm25=0.5, scale="ranks"))
    assert by_ranks.tolist() == pytest.approx([1 / 61, 1 / 62 + 0.5 / 61, 1 / 63 + 0.5 / 62])


@given(arrays(np.float64, 30, elements=st.sampled_from([0.0, 1.0, 2.0, 3.0])), st.integers(1, 40), st.booleans())
def test_the_best_are_those_of_a_sort(scores, count, filtered):
    allowed = np.arange(30) % 2 == 0 if filtered else None
    kept = [i for i in range(30) if scores[i] > 0 and (allowed is None or allowed[i])]
    found = best(scores, count, allowed)
    assert len(found) == min(count, len(kept))
    assert set(found) <= set(kept)
    assert sorted(scores[found], reverse=True) == scores[found].tolist()
    assert scores[found].tolist() == sorted((scores[i] for i in kept), reverse=True)[:count]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dense": -1}, "dense must be a weight of at least 0, got -1"),
        ({"bm25": True}, "bm25 must be a weight"),
        ({"key_tokens": float("inf")}, "key_tokens must be a weight"),
        ({"scale": "softmax"}, "scale must be one of 'z', 'min-max', 'ranks'"),
        ({"candidates": 0}, "candidates must be an integer of at least 1"),
        ({"dense": 0, "bm25": 0}, "one of dense, bm25 and key_tokens must be above 0"),
    ],
)
def test_wrong_fusions_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Fusion(**fields)


def test_settings_that_are_recommended_count_what_they_say():
    assert SHARED_WORDS.weights == {"dense": 1.0, "bm25": 1.0} == Fusion().weights
    assert STRONG_DENSE.weights == {"dense": 1.0, "key_tokens": 0.05}
