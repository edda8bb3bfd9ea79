from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from echo_core.errors import ConfigError
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


@pytest.mark.parametrize(
    ("ids", "texts", "message"),
    [
        (["a", "b"], ["bees fly"], "ids must be one for each of 1 texts, each once, got 2 distinct"),
        (["a"], ["bees fly", "fog"], "ids must be one for each of 2 texts, each once, got 1 distinct"),
        (["a", "a"], ["bees fly", "fog"], "ids must be one for each of 2 texts, each once, got 1 distinct"),
    ],
)
def test_ids_that_do_not_fit_the_texts_are_refused(ids, texts, message):
    """The score of one document was given to all, or those of the documents without an id were lost."""
    with pytest.raises(ConfigError, match=message):
        BM25Index(ids, texts)


def test_what_is_no_list_of_texts_or_ids_is_refused():
    """Of one string each letter was a document or a query; of None bm25s told that it has no lower()."""
    index = BM25Index(["a"], ["bees fly"])
    for wrong in ("bees", None, [None], [3], {"bees"}):
        with pytest.raises(TypeError, match=r"must be a (list of )?string"):
            index.scores(wrong)
        with pytest.raises(TypeError, match=r"must be a (list of )?string"):
            BM25Index(["a"], wrong)
    with pytest.raises(TypeError, match="ids must be a list of strings, got str"):
        BM25Index("a", ["bees fly"])
    with pytest.raises(TypeError, match="id 0 must be a string, got int"):
        BM25Index([1], ["bees fly"])
    assert index.scores(text for text in ["bees"]).shape == (1, 1)


def test_stop_words_are_a_language_a_list_or_none():
    """True was taken for English, and 3 ended in bm25s."""
    with pytest.raises(ConfigError, match="stop_words must be a language of bm25s, got 'klingon'"):
        BM25Index(["a"], ["bees fly"], "klingon")
    for wrong in (True, 3, [3]):
        with pytest.raises(TypeError, match="stop_words must be a language, a list of words or None, got"):
            BM25Index(["a"], ["bees fly"], wrong)
    scores = [BM25Index(["a"], ["the bees"], given).scores(["the"]).item() > 0 for given in ("en", ["bees"], None, [])]
    assert scores == [False, True, True, True]


def test_a_copy_of_an_index_scores_as_the_index_does():
    """It held the library's module, which pickle refuses."""
    index = BM25Index(["a", "b", "c"], TEXTS)
    for copied in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert np.array_equal(copied.scores(["warm tea"]), index.scores(["warm tea"]))
