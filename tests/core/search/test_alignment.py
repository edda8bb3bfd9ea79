from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.errors import ConfigError
from echo_core.search.alignment import agreement, choose, fit_procrustes, fit_ridge, nearest


def texts(count=200, width=12, seed=0):
    """Vectors with a mean, and directions of different weight, as embeddings have."""
    chance = np.random.default_rng(seed)
    return chance.normal(size=(count, width)) * np.linspace(0.3, 2, width) + chance.normal(size=width)


def rotation(width, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def cosines(one, other):
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_vectors_that_did_not_change_are_left_as_they_are():
    new = texts()
    found, reached = choose(new, new)
    assert found.kind == "none"
    assert found.matrix is None
    assert reached["none"] == 1


def test_another_mean_alone_is_a_shift():
    new = texts()
    found, reached = choose(new, new + 3)
    assert found.kind == "shift"
    assert np.allclose(found(new), new + 3)
    assert reached["none"] < 1


@given(st.integers(0, 1000))
def test_a_rotation_a_scale_and_a_shift_are_found_exactly(seed):
    new = texts(seed=seed)
    old = 2.5 * new @ rotation(12, seed) - 1
    found, _ = choose(new, old)
    assert found.kind == "procrustes"
    assert np.allclose(found(texts(seed=seed + 1)), 2.5 * texts(seed=seed + 1) @ rotation(12, seed) - 1)


def test_a_linear_map_that_is_no_rotation_takes_ridge():
    new = texts()
    old = new @ np.random.default_rng(2).normal(size=(12, 12)) ** 3
    found, reached = choose(new, old)
    assert found.kind == "ridge"
    assert reached["ridge"] > reached["procrustes"] > reached["none"]


@pytest.mark.parametrize(("width", "other"), [(12, 7), (7, 12)])
def test_spaces_of_other_dimensions_are_mapped(width, other):
    new = texts(width=width)
    old = new @ np.random.default_rng(3).normal(size=(width, other))
    found, reached = choose(new, old)
    assert "none" not in reached
    assert found(new).shape == old.shape
    assert cosines(found(new), old).min() > 0.98


def test_directions_that_the_texts_do_not_span_are_left_as_they_are_when_pulled():
    """A rotation of 12 directions fitted on 5 texts is arbitrary in the others."""
    new = texts(count=5)
    unseen = np.linalg.svd(new - new.mean(axis=0))[2][-1]
    pulled = fit_procrustes(new, new, pull=0.1)
    assert abs(unseen @ pulled.matrix @ unseen) > 0.99
    assert np.abs(unseen @ fit_procrustes(new, new).matrix).max() < 1e-6


def test_the_dearer_it_is_the_nearer_is_ridge_to_the_orthogonal_map():
    new = texts()
    old = new @ np.random.default_rng(2).normal(size=(12, 12))
    start = fit_procrustes(new, old).matrix
    distances = [np.linalg.norm(fit_ridge(new, old, strength=price).matrix - start) for price in (0.01, 1, 100, 1e9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4


def test_agreement_counts_the_shared_nearest_of_held_out_texts():
    among = np.eye(20)
    asked = among[:2] + 0.01
    assert agreement(asked, asked, among) == 1
    assert set(nearest(np.eye(20)[:1], np.vstack([np.zeros(20), np.eye(20)]))[0]) >= {1}  # a zero vector is no NaN


def test_too_few_texts_are_refused():
    with pytest.raises(ConfigError, match="texts must be at least 20 to fit a map on, better 500, got 19"):
        choose(texts(19), texts(19))
