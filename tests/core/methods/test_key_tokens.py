from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import echo_core.methods.key_tokens
from echo_core.methods.key_tokens import merge_tokens, top_tokens


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
    assert [(word.word, word.weight) for word in words] == [("bees", 9.0), ("Honey", 7.0), ("日", 0.5)]
    assert words[0].tokens == (" bees", "Bee", " BEES")
    assert words[1].tokens == (" Honey", "honey")
