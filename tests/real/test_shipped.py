"""echo-smollm2 over its real base, in the core and in every adapter: the same vectors, good ones, and words."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from real.fetch import find_model

from echo_core import EchoConfig, EchoEncoder, Runtime

pytestmark = pytest.mark.real
TEXTS = ["Honeybees keep warm in winter by trembling.", "Tides follow the moon.", "HOW IS SALT MADE?"]
DATA = Path(__file__).parents[2] / "examples" / "data"
RUNTIME = Runtime(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def config(unpacked_models: None) -> EchoConfig:
    file = find_model("smollm2")
    if file is None:
        pytest.skip("SmolLM2 is not there: make real-models MODELS=smollm2")
    return EchoConfig("echo-smollm2", base=str(file))


@pytest.fixture(scope="module")
def encoder(config: EchoConfig) -> EchoEncoder:
    return EchoEncoder(config, RUNTIME)


def test_every_adapter_gives_the_core_s_vectors(config: EchoConfig, encoder: EchoEncoder):
    from echo_chroma import EchoEmbeddingFunction
    from echo_sentence_transformers import EchoSentenceTransformer
    from langchain_echo import EchoEmbeddings
    from llama_index.embeddings.echo import EchoEmbedding

    options = {"base": config.base, "device": "cpu", "dtype": "float32"}
    found = {
        "LangChain": EchoEmbeddings(model="echo-smollm2", **options).embed_documents(TEXTS),
        "LlamaIndex": EchoEmbedding(model_name="echo-smollm2", **options).get_text_embedding_batch(TEXTS),
        "Chroma": EchoEmbeddingFunction(config, RUNTIME)(TEXTS),
        "sentence-transformers": EchoSentenceTransformer(
            config, device="cpu", model_kwargs={"dtype": "float32"}
        ).encode_document(TEXTS),
    }
    expected = encoder.encode_documents(TEXTS)
    for name, vectors in found.items():
        np.testing.assert_allclose(np.array(vectors), expected, atol=1e-5, err_msg=name)


def test_loading_it_again_merges_nothing(config: EchoConfig, encoder: EchoEncoder):
    began = time.perf_counter()
    EchoEncoder(config, RUNTIME)
    shipped = time.perf_counter() - began
    began = time.perf_counter()
    EchoEncoder(EchoConfig(str(config.base)), RUNTIME)
    assert shipped < 1.5 * (time.perf_counter() - began) + 1


@pytest.mark.slow
def test_it_finds_what_the_demo_asks_for(encoder: EchoEncoder):
    files = sorted((DATA / "documents").glob("*.md"))
    questions = [json.loads(line) for line in (DATA / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    vectors = encoder.encode_documents([path.read_text(encoding="utf-8") for path in files])
    best = (encoder.encode_queries([asked["question"] for asked in questions]) @ vectors.T).argmax(axis=1)
    right = [files[i].name == asked["document"] for i, asked in zip(best, questions, strict=True)]
    assert np.mean(right) >= 0.95


@pytest.mark.skipif(not os.environ.get("ECHO_STSB"), reason="ECHO_STSB names no sts-test.csv")
def test_it_ranks_pairs_as_people_do(encoder: EchoEncoder):
    from scipy.stats import spearmanr

    lines = Path(os.environ["ECHO_STSB"]).read_text(encoding="utf-8").splitlines()
    rows = [row[4:7] for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)][:300]
    first, second = (encoder.encode_documents([row[i] for row in rows]) for i in (1, 2))
    assert spearmanr((first * second).sum(axis=1), [float(row[0]) for row in rows]).statistic > 0.8


def test_its_vectors_still_read_as_words(encoder: EchoEncoder):
    text = "My husband is so loud while asleep at night; what can we do"
    (words,), (tokens,) = encoder.words([text]), encoder.words([text], merged=False)
    assert {"loud", "noise", "sleep"} <= {word.word.lower() for word in words}
    assert {"snoring", "loud", "sleep"} <= {token.word.strip().lower() for token in tokens}
