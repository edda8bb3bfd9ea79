from __future__ import annotations

import math

import numpy as np
import pytest

from echo_core.search.bm25 import K1, B, BM25Index

pytest.importorskip("bm25s")

TEXTS = ["bees keep the hive warm", "warm bread and warm tea", "fog touches the ground"]


def slow_score(query: list[str], words: list[str], all_words: list[list[str]]) -> float:
    """BM25 as Lucene has it, from the formula."""
    mean = np.mean([len(each) for each in all_words])
    score = 0.0
    for word in query:
        have = sum(word in each for each in all_words)
        if have:
            idf = math.log(1 + (len(all_words) - have + 0.5) / (have + 0.5))
            count = words.count(word)
            score += idf * count / (count + K1 * (1 - B + B * len(words) / mean))
    return score


def test_scores_are_those_of_the_formula():
    index = BM25Index(["a", "b", "c"], TEXTS)
    words = [[word for word in text.split() if word not in {"the", "and"}] for text in TEXTS]
    expected = [[slow_score(query, each, words) for each in words] for query in (["warm", "bees"], ["ground"])]
    found = index.scores(["Warm bees", "the ground"])
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-5)


def test_words_that_no_text_has_score_nothing():
    index = BM25Index(["a", "b", "c"], TEXTS)
    assert not index.scores(["zebra", "the", "", "…"]).any()
    assert index.scores([]).shape == (0, 3)


@pytest.mark.parametrize("texts", [[], ["", "…"]])
def test_texts_without_words_are_an_index_too(texts):
    index = BM25Index([str(i) for i in range(len(texts))], texts)
    assert index.scores(["bees"]).shape == (1, len(texts))
    assert not index.scores(["bees"]).any()
