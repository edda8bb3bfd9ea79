"""The sparse half of an encoder; its rows' formula is tested in methods/test_sparse.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_of
from nasty_texts import PLAIN

from echo_core import ConfigError, EchoEncoder, EmptyTextError
from echo_core.identity.space import fingerprint
from echo_core.methods.key_tokens import sample_texts
from echo_core.methods.sparse_options import SparseOptions

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> EchoEncoder:
    return encoder_of(tiny_llama, query_template="classical", filter=2, dimension=8)


@pytest.mark.parametrize("role", ["document", "query"])
def test_dense_and_sparse_from_one_pass_are_those_of_two(encoder: EchoEncoder, role):
    before = encoder.statistics().tokens
    dense, sparse = encoder.encode_both(PLAIN, role)
    first_time = encoder.statistics().tokens - before  # the sample's states included
    alone, rows = (
        (encoder.encode_documents, encoder.encode_sparse_documents)
        if role == "document"
        else (encoder.encode_queries, encoder.encode_sparse_queries)
    )
    before = encoder.statistics().tokens
    encoder.encode_both(PLAIN, role)
    once = encoder.statistics().tokens - before
    assert once < first_time
    assert np.abs(dense - alone(PLAIN)).max() <= 1e-6
    assert abs(sparse - rows(PLAIN)).max() <= 1e-6
    assert sparse.shape == (len(PLAIN), len(encoder._head))


def test_the_weights_are_those_of_the_words(encoder: EchoEncoder):
    row = encoder.encode_sparse_documents([PLAIN[0]], SparseOptions(k=5))
    words = encoder.words([PLAIN[0]], k=5, merged=False)[0]
    assert sorted(row.data.tolist()) == pytest.approx(sorted(np.log1p(word.weight) for word in words), rel=1e-4)


def test_u1_is_the_first_right_singular_vector_of_the_samples_states(tiny_llama: Path):
    encoder = encoder_of(tiny_llama)
    states = encoder.raw().encode_documents(sample_texts()).astype(np.float64)
    values, vectors = np.linalg.eigh(states.T @ states)
    u1 = vectors[:, np.argmax(values)]
    state = encoder.raw().encode_documents([PLAIN[0]])[0]
    own = state - u1 * (states.mean(axis=0) @ u1)
    found = encoder.words([PLAIN[0]], k=3, merged=False, taken_out="u1")[0]
    scores = np.sort(encoder._head.double().numpy() @ own)[::-1][:3]
    assert [word.weight for word in found] == pytest.approx(scores.tolist(), rel=1e-3)
    with pytest.raises(ConfigError, match="taken_out must be one of 'mean', 'u1', got 'median'"):
        encoder.words(PLAIN, taken_out="median")


def test_blank_texts_have_empty_rows_where_they_may_be(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, empty="zero")
    dense, sparse = encoder.encode_both([" ", PLAIN[0]], options=SparseOptions(tokens="text"))
    assert not dense[0].any()
    assert np.diff(sparse.indptr)[0] == 0
    assert encoder.encode_sparse_documents([""]).nnz == 0
    assert encoder.words([""]) == [[]]
    assert encoder.encode_sparse_documents([]).shape == (0, sparse.shape[1])
    with pytest.raises(EmptyTextError):
        encoder_of(tiny_llama).encode_sparse_queries([" "])


def test_what_a_corpus_shares_is_taken_out_where_it_was_fitted(encoder: EchoEncoder):
    raw = encoder.raw()
    means = raw.encode_documents(PLAIN).mean(axis=0), raw.encode_queries(PLAIN[:2]).mean(axis=0)
    fitted = encoder.fit_sparse(PLAIN, PLAIN[:2], SparseOptions(k=6))
    assert fitted.k == 6
    for role, mean, state in zip(
        ("document", "query"),
        means,
        (raw.encode_documents([PLAIN[0]])[0], raw.encode_queries([PLAIN[0]])[0]),
        strict=True,
    ):
        _, rows = encoder.encode_both([PLAIN[0]], role, fitted)
        best = np.sort(np.log1p(np.maximum(encoder._head.double().numpy() @ (state - mean), 0)))[::-1][:6]
        assert np.sort(rows.data)[::-1].tolist() == pytest.approx(best.tolist(), abs=1e-3)
    assert SparseOptions.from_dict(fitted.to_dict()) == fitted
    assert fingerprint(encoder.sparse_space(fitted)) != fingerprint(encoder.sparse_space(SparseOptions(k=6)))
    alone = encoder.fit_sparse(PLAIN)
    assert alone.shared_of("query") == alone.shared_of("document")


def test_what_cannot_be_fitted_or_does_not_fit_is_refused(encoder: EchoEncoder):
    with pytest.raises(ConfigError, match="shared must be fitted on two texts or more, better some hundred, got 1"):
        encoder.fit_sparse(PLAIN[:1])
    with pytest.raises(ConfigError, match="shared must have 32 numbers for this model, got 2; fit again"):
        encoder.encode_sparse_documents(PLAIN, SparseOptions(shared=(1.0, 2.0)))
    with pytest.raises(ConfigError, match="query_shared must be a tuple of finite numbers"):
        SparseOptions(query_shared=(float("nan"),))


def test_states_that_the_lm_head_cannot_read_are_refused(tiny_llama: Path):
    """On Gemma 3 270M the states three layers before the end find 19 % through the head, the last ones 92 %."""
    with pytest.raises(ConfigError, match=r"layer must be -1 for sparse.*got -2; EchoConfig\(model, layer=-1\)"):
        encoder_of(tiny_llama, layer=-2).encode_sparse_documents(PLAIN)
    assert encoder_of(tiny_llama, layer=3).encode_sparse_documents(PLAIN).nnz


def test_words_of_another_layer_are_read_with_one_warning(tiny_llama: Path, caplog):
    encoder = encoder_of(tiny_llama, layer=-2)
    for _ in range(2):
        encoder.words(PLAIN, k=2)
    assert caplog.text.count("words are read best from the last layer, got layer=-2; try layer=-1") == 1


def test_what_is_done_to_dense_vectors_leaves_the_sparse_space_alone(encoder: EchoEncoder, tiny_llama: Path):
    other = encoder.with_options(filter=None, dimension=None, normalize=False)
    spaces = [encoder.sparse_space(), other.sparse_space(), other.sparse_space(SparseOptions(k=3))]
    assert fingerprint(spaces[0]) == fingerprint(spaces[1]) != fingerprint(spaces[2])
    assert fingerprint(encoder_of(tiny_llama).sparse_space()) != fingerprint(spaces[0])


def test_the_sparse_vectors_of_the_embedded_model_find_what_is_meant():
    encoder = EchoEncoder()
    documents = ["Bees shiver to keep the hive warm.", "Fog is a cloud that touches the ground."]
    queries = encoder.encode_sparse_queries(["mist over the land", "beekeeping"])
    found = queries @ encoder.encode_sparse_documents(documents).T
    assert found.toarray().argmax(axis=1).tolist() == [1, 0]


def test_options_of_another_type_are_refused_before_the_model_runs(encoder: EchoEncoder, monkeypatch):
    """A dict was "'dict' object has no attribute 'tokens'", after the model had run."""
    monkeypatch.setattr(EchoEncoder, "_stated", lambda *args: pytest.fail("the model has run"))
    for wrong in ({"k": 3}, None, 3):
        for call in (encoder.encode_sparse_documents, encoder.encode_sparse_queries):
            with pytest.raises(TypeError, match="options must be SparseOptions, got"):
                call(["a"], wrong)
        with pytest.raises(TypeError, match="options must be SparseOptions, got"):
            encoder.encode_both(["a"], "query", wrong)
        with pytest.raises(TypeError, match="options must be SparseOptions, got"):
            encoder.fit_sparse(["a", "b"], options=wrong)
        with pytest.raises(TypeError, match="options must be SparseOptions, got"):
            encoder.sparse_space(wrong)
