from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.errors import ConfigError
from echo_core.search.alignment import (
    agreement,
    choose,
    fit_both,
    fit_procrustes,
    fit_ridge,
    fit_shift,
    fit_transposed,
    nearest,
)


def texts(count=200, width=12, seed=0):
    """Vectors with a mean, and directions of different weight, as embeddings have."""
    chance = np.random.default_rng(seed)
    return chance.normal(size=(count, width)) * np.linspace(0.3, 2, width) + chance.normal(size=width)


def rotation(width, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def test_vectors_that_did_not_change_are_left_as_they_are():
    new = texts()
    found, reached = choose(new, new)
    assert found.kind == "none"
    assert np.allclose(found(new), new)
    assert reached["none"] == 1


def test_another_mean_alone_is_a_shift():
    new = texts()
    found = fit_shift(new, new + 3)
    assert np.allclose(found(new), new + 3)


@given(st.integers(0, 1000))
def test_a_rotation_a_scale_and_a_shift_are_found_exactly(seed):
    new = texts(seed=seed)
    old = 2.5 * new @ rotation(12, seed) - 1
    found = fit_procrustes(new, old)
    assert np.allclose(found(texts(seed=seed + 1)), 2.5 * texts(seed=seed + 1) @ rotation(12, seed) - 1)


def test_ridge_comes_nearer_than_a_rotation_to_a_linear_map_that_is_none():
    new = texts()
    old = new @ np.random.default_rng(2).normal(size=(12, 12)) ** 3
    errors = [np.linalg.norm(fit(new[:150], old[:150])(new[150:]) - old[150:]) for fit in (fit_ridge, fit_procrustes)]
    assert errors[0] < 0.7 * errors[1]


def test_old_vectors_score_as_new_ones_would_by_the_transposed_map():
    """A direction that the new encoder has taken out is left in the old vectors, where a query must not meet it."""
    old = texts(width=12)
    new = old @ np.diag([3.0] * 4 + [1.0] * 4 + [0.0] * 4) @ rotation(12)
    fitted = fit_transposed(new, old, 1e-6)
    asked = texts(seed=5) @ np.diag([3.0] * 4 + [1.0] * 4 + [0.0] * 4) @ rotation(12)
    scores, wanted = fitted(asked) @ old.T, asked @ new.T
    assert np.allclose(
        scores - scores.mean(axis=1, keepdims=True), wanted - wanted.mean(axis=1, keepdims=True), atol=0.01
    )


@pytest.mark.parametrize(("width", "other"), [(12, 7), (7, 12)])
def test_spaces_of_other_dimensions_are_mapped(width, other):
    new = texts(width=width)
    old = new @ np.random.default_rng(3).normal(size=(width, other))
    found, reached = choose(new, old)
    assert "none" not in reached
    assert found(new).shape == old.shape
    assert max(reached.values()) > 0.5


def test_the_dearer_it_is_the_nearer_is_ridge_to_the_orthogonal_map():
    new = texts()
    old = new @ np.random.default_rng(2).normal(size=(12, 12))
    start = fit_procrustes(new, old).matrix
    distances = [np.linalg.norm(fit_ridge(new, old, price=price).matrix - start) for price in (0.01, 1, 100, 1e9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4


def test_the_sum_of_both_scores_as_both_together():
    new = texts()
    old = new @ np.random.default_rng(2).normal(size=(12, 12))
    asked = texts(seed=5)
    scores = [fit(new, old)(asked) @ old.T for fit in (fit_both, fit_ridge, fit_transposed)]
    weights = [1 / (fit(new, old)(new) @ old.T).std(axis=1).mean() for fit in (fit_ridge, fit_transposed)]
    assert np.allclose(scores[0], weights[0] * scores[1] + weights[1] * scores[2])


def test_agreement_counts_the_shared_nearest():
    assert agreement(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 2, 1], [4, 8, 9]])) == pytest.approx(4 / 6)


def test_a_text_is_not_its_own_neighbour_and_a_zero_vector_is_no_nan():
    points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], *[[-1.0, -1.0]] * 8, [0.0, 0.0]])
    found = nearest(points, points)
    assert found.shape == (13, 10)
    assert all(place not in line for place, line in enumerate(found))
    assert 1 in found[0]


def test_too_few_texts_are_refused():
    with pytest.raises(ConfigError, match="texts must be at least 20 to fit a map on, better 500, got 19"):
        choose(texts(19), texts(19))
