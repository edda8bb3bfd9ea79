from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import echo_core.methods.sparse
from echo_core.errors import ConfigError
from echo_core.methods.key_tokens import SHARED
from echo_core.methods.sparse import own_words, sparse_rows
from echo_core.methods.sparse_matrix import inverse_document_frequency, to_csr
from echo_core.methods.sparse_options import TAKEN_OUT, SparseOptions

pytest.importorskip("scipy")


def slow_row(vector, own, head, options, role):
    """{id: weight} of one text, token by token, from the formula."""
    weights = {i: math.log(1 + max(0.0, float(row @ vector))) for i, row in enumerate(head.double().numpy())}
    kept = {i: w for i, w in weights.items() if w > 0}
    count = options.k if role == "document" or options.query_k is None else options.query_k
    if options.tokens == "text":
        kept = {i: round(100 * kept[i]) for i in set(own) if i in kept and round(100 * kept[i]) > 0}
    best = dict(sorted(kept.items(), key=lambda item: -item[1])[:count])
    if options.queries == "expanded" and role == "query":
        return dict.fromkeys({*best, *own}, 1.0)
    return best


@given(
    st.integers(0, 4),
    st.integers(3, 40),
    st.sampled_from(
        [
            SparseOptions(),
            SparseOptions(k=3, query_k=2),
            SparseOptions(k=5, tokens="text"),
            SparseOptions(k=5, query_k=0, queries="expanded"),
            SparseOptions(k=5, query_k=2, queries="expanded"),
        ]
    ),
    st.sampled_from(["query", "document"]),
)
def test_sparse_rows_are_those_of_the_formula_token_by_token(texts, vocabulary, options, role):
    chance = np.random.default_rng(vocabulary)
    vectors = chance.normal(size=(texts, 6)).astype(np.float32)
    head = torch.from_numpy(chance.normal(size=(vocabulary, 6))).float()
    own = [chance.integers(0, vocabulary, 4).tolist() for _ in range(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(echo_core.methods.sparse, "TEXTS", 2)
        matrix = to_csr(sparse_rows(vectors, own, head, options, role), vocabulary)
    assert matrix.shape == (texts, vocabulary)
    assert matrix.dtype == np.float32
    for number in range(texts):
        expected = slow_row(vectors[number].astype(np.float64), own[number], head, options, role)
        start, end = matrix.indptr[number : number + 2]
        assert matrix.indices[start:end].tolist() == sorted(expected)
        found = dict(zip(matrix.indices[start:end].tolist(), matrix.data[start:end].tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_state_of_nothing_has_an_empty_row():
    head = torch.eye(4)
    matrix = to_csr(sparse_rows(np.zeros((1, 4), np.float32), None, head, SparseOptions(), "document"), 4)
    assert matrix.nnz == 0


def test_a_texts_own_words_are_said_in_lower_case_without_stop_words():
    assert own_words("The BEES, and the Hive’s honey: 日本 42!") == " bees hive s honey 日本 42"
    assert own_words("…") == ""


def test_rare_tokens_weigh_more_by_bm25s_formula():
    documents = to_csr([(np.array([0, 1]), np.ones(2, np.float32)), (np.array([0]), np.ones(1, np.float32))], 3)
    expected = [math.log(1 + (2 - n + 0.5) / (n + 0.5)) for n in (2, 1, 0)]
    assert inverse_document_frequency(documents).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k must be an integer of at least 1, got 0"),
        ({"query_k": 0}, "query_k must be an integer of at least 1"),
        ({"tokens": "all"}, "tokens must be one of 'aligned', 'text', got 'all'"),
        ({"queries": "wide"}, "queries must be one of"),
        ({"taken_out": "u2"}, "taken_out must be one of 'mean', 'u1'"),
        ({"idf": 1}, "idf must be one of True, False"),
        ({"shared": (True, 0.5)}, "shared must be a tuple of finite numbers"),
        ({"query_shared": [float("inf")]}, "query_shared must be a tuple of finite numbers"),
        ({"top": 4}, "SparseOptions has no field 'top'"),
    ],
)
def test_wrong_options_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        SparseOptions.from_dict(fields)


def test_what_options_may_take_out_is_what_can_be():
    assert set(TAKEN_OUT) == set(SHARED)


def test_options_can_be_written_down_and_read_again():
    options = SparseOptions(k=7, query_k=0, queries="expanded", idf=True)
    assert SparseOptions.from_dict(options.to_dict()) == options
