from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import echo_core.methods.key_tokens
from echo_core.methods.key_tokens import (
    ECHOED,
    FLOOR,
    POWER,
    Spread,
    Word,
    merge_tokens,
    sample_texts,
    top_tokens,
    varied_texts,
    words_in_common,
)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 50), st.integers(1, 9))
def test_the_top_tokens_are_those_of_the_whole_product_whatever_the_blocks(texts, vocabulary, count, rows):
    chance = np.random.default_rng(vocabulary)
    vectors, head = (
        chance.normal(size=(texts, 6)).astype(np.float32),
        torch.from_numpy(chance.normal(size=(vocabulary, 6))),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(echo_core.methods.key_tokens, "ROWS", rows)
        ids, scores = top_tokens(vectors, head.float(), count)
    whole = vectors.astype(np.float64) @ head.numpy().T
    expected = np.sort(whole, axis=1)[:, ::-1][:, :count]
    assert np.abs(scores.numpy() - expected).max() <= 1e-4
    assert np.abs(np.take_along_axis(whole, ids.numpy(), axis=1) - expected).max() <= 1e-4


def test_only_allowed_tokens_are_given():
    head, allowed = torch.eye(5), torch.tensor([False, True, False, True, True])
    ids, _ = top_tokens(np.array([[9, 1, 8, 3, 2]], dtype=np.float32), head, 3, allowed)
    assert ids.tolist() == [[3, 4, 1]]


def test_variants_of_a_word_become_one_and_pieces_join_it_or_go():
    tokens = [" bees", "Bee", " Honey", "oney", "honey", ",", " 12", "ectar", " BEES", "日"]
    weights = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5]
    words = merge_tokens(tokens, weights)
    echoed = [9.0 + ECHOED * (8.0 + 1.0), 7.0 + ECHOED * 5.0, 0.5]
    assert [word.word for word in words] == ["bees", "Honey", "日"]
    assert [word.weight for word in words] == pytest.approx(echoed)
    assert words[0].tokens == (" bees", "Bee", " BEES")
    assert words[1].tokens == (" Honey", "honey")


def test_a_word_in_many_forms_comes_before_one_that_is_a_little_heavier_in_one():
    words = merge_tokens([" lid", " bees", "Bee", " Bees", " bee"], [9.0, 8.0, 8.0, 8.0, -8.0])
    assert [word.word for word in words] == ["bees", "lid"]
    assert words[0].weight == pytest.approx(
        8.0 + ECHOED * 16.0
    )  # a form that the vector is far from takes nothing away


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([" US", " U"], ["US"]),  # it was taken for the plural of a letter, which is no word
        ([" gas", " Ga", " glass", " Glas"], ["gas", "Ga", "glass", "Glas"]),
        ([" planes", " plan"], ["planes", "plan"]),
        ([" cans", " can", " likes", " like"], ["cans", "likes"]),  # they went with words that tell nothing
        ([" studies", " Study", " boxes", " box", " matches", " match"], ["studies", "boxes", "matches"]),
    ],
)
def test_what_only_ends_like_a_plural_is_a_word_of_its_own(tokens, words):
    assert [word.word for word in merge_tokens(tokens, [9.0 - i / 10 for i in range(len(tokens))])] == words


def test_words_in_common_may_differ_in_case_and_number():
    ours, theirs = (
        [Word(word, 1.0, (word,)) for word in words] for words in (["Tenants", "egg"], ["lawn", "tenant", "Eggs"])
    )
    assert words_in_common(ours, theirs) == ("tenant", "Eggs")
    assert words_in_common(theirs, ours) == ("Tenants", "egg")


def test_stop_words_and_single_letters_are_no_words_for_a_reader():
    words = merge_tokens([" the", " I", " X", "The", " snow", "日", " 7"], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0])
    assert [word.word for word in words] == ["snow", "日"]


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 10**6))
def test_a_spread_damps_as_the_covariances_power_does(count, width, seed):
    """The slow way: the whole matrix (covariance + floor) / floor to the power of -1/4."""
    states = np.random.default_rng(seed).normal(size=(count, width)) * np.logspace(0, 2, width)
    values, vectors = np.linalg.eigh(np.cov(states, rowvar=False, ddof=1).reshape(width, width))
    varying = np.sort(values)[::-1][: min(count - 1, width)]
    floor = FLOOR * varying.mean()
    slow = states @ (vectors * ((np.maximum(values, 0) + floor) / floor) ** -POWER) @ vectors.T
    np.testing.assert_allclose(Spread.of(states).damp(states), slow, rtol=1e-6, atol=1e-6 * np.abs(states).max())


def test_a_sample_that_does_not_vary_damps_nothing():
    states = np.ones((3, 4), dtype=np.float32)
    assert np.array_equal(Spread.of(states).damp(states), states)


@pytest.mark.parametrize("scale", [1e-24, 1e-10, 1e19])
def test_a_spread_is_the_same_whatever_the_states_are_multiplied_by(scale):
    """Squares of float32 are beyond its range; every weight was NaN."""
    states = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    large = (states * np.float32(scale)).astype(np.float32)
    np.testing.assert_allclose(
        Spread.of(large).damp(large) / np.float32(scale), Spread.of(states).damp(states), rtol=1e-4, atol=1e-5
    )
    assert Spread.of(large).damp(large).dtype == np.float32


def test_evened_scores_are_divided_by_the_square_root_of_the_rows_lengths():
    head = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    ids, scores = top_tokens(np.array([[1.0, 3.0]], dtype=np.float32), head, 3, evened=True)
    assert ids.tolist() == [[1, 0, 2]]
    assert scores.tolist() == [[3.0, 2.0, 0.0]]


def test_the_varied_texts_begin_with_the_sample_and_none_comes_twice():
    texts = varied_texts()
    assert texts[: len(sample_texts())] == sample_texts()
    assert len(set(texts)) == len(texts) == 96
    assert all(text.strip() == text and text for text in texts)
