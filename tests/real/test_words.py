"""Words and sparse vectors of pretrained models, without any training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from echo_core import EchoConfig, EchoEncoder, Runtime

pytestmark = pytest.mark.real

TEXTS = {
    "The dentist told me to brush my teeth twice a day and to avoid sugar.": {"dentist", "teeth", "dental", "brush"},
    "Heavy snow closed the mountain pass, and skiers had to wait in the valley.": {"snow", "mountain", "ski"},
    "The orchestra rehearsed the symphony until the violins were in tune.": {"orchestra", "symphony", "violin"},
}
QUESTIONS = ["Why does my tooth hurt?", "When can we drive over the Alps in winter?", "Who plays Beethoven tonight?"]


@pytest.fixture(scope="module")
def encoder(file: Path) -> EchoEncoder:
    return EchoEncoder(EchoConfig(str(file), layer=-1), Runtime(progress=False))


def test_texts_read_as_words_about_what_they_say(encoder: EchoEncoder):
    for words, expected in zip(encoder.words(list(TEXTS), k=10), TEXTS.values(), strict=True):
        found = {re.sub("s$", "", word.word.casefold()) for word in words}
        assert found & {re.sub("s$", "", word) for word in expected}, words


def test_sparse_vectors_find_what_is_asked_in_other_words(encoder: EchoEncoder):
    pytest.importorskip("scipy")
    scores = encoder.encode_sparse_queries(QUESTIONS) @ encoder.encode_sparse_documents(list(TEXTS)).T
    assert scores.toarray().argmax(axis=1).tolist() == [0, 1, 2]
    dense, sparse = encoder.encode_both(list(TEXTS))
    assert np.abs(dense - encoder.encode_documents(list(TEXTS))).max() <= 0.02
    assert np.diff(sparse.indptr).max() <= 128
