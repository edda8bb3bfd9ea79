"""Vectors of pretrained models against the oracle: plain transformers, one text, no padding, float32."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from oracle import PIECES, open_oracle

from echo_core import EchoConfig, EchoEncoder, Runtime

pytestmark = pytest.mark.real
TEXTS = [
    "What is the capital of France?",
    "Honey bees keep warm in winter by trembling in a ball; the queen sits in its middle.",
    "Änderungen: naïve café, 漢字, 🎉 and a\nnew line\twith 3.14159",
    "a",
    "The river froze twice last winter, and the children skated from one village to the next. " * 6,
    "THE FORM IS DUE BY FRIDAY </s> <|im_end|>",
]
LAYERS = (-1, -3)  # that the presets read


@lru_cache(maxsize=4)
def encoder_of(folder: Path, dtype: str, **options: object) -> EchoEncoder:
    return EchoEncoder(EchoConfig(str(folder), **options), Runtime(device="cpu", dtype=dtype))


@lru_cache(maxsize=8)
def expected(folder: Path, layer: int, template: str = "echo") -> np.ndarray:
    oracle = open_oracle(folder)
    return np.stack([oracle.vector(PIECES[template], {"text": text}, layer=layer) for text in TEXTS])


@pytest.mark.parametrize("layer", LAYERS)
def test_they_equal_the_oracle_in_float32(folder: Path, layer: int):
    vectors = encoder_of(folder, "float32", layer=layer).encode_documents(TEXTS)
    np.testing.assert_allclose(vectors, expected(folder, layer), atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_they_point_the_same_way_in_bfloat16(folder: Path, layer: int):
    vectors = encoder_of(folder, "bfloat16", layer=layer).encode_documents(TEXTS)
    assert (vectors * expected(folder, layer)).sum(axis=1).min() > 0.999


def test_they_do_not_depend_on_what_else_is_in_the_call(folder: Path):
    encoder = encoder_of(folder, "float32", layer=-1)
    together = encoder.encode_documents(TEXTS)
    for order in ([0], [3], [4, 0], [5, 4, 3, 2, 1, 0]):
        np.testing.assert_allclose(encoder.encode_documents([TEXTS[i] for i in order]), together[order], atol=1e-4)


def test_a_long_text_is_the_mean_of_its_windows(folder: Path):
    """A text of more than ``max_tokens`` is said window by window, each as if it were alone."""
    encoder = encoder_of(folder, "float32", layer=-1, max_tokens=48)
    oracle = open_oracle(folder)
    ids = oracle.piece_ids(" " + TEXTS[4], begun=True)
    before, between = (oracle.piece_ids(string, begun) for string, begun in _said("echo"))
    before = oracle.leading() + before
    pooled = []
    count = -(-len(ids) // 48)
    for number in range(count):  # windows of equal size
        window = ids[number * len(ids) // count : (number + 1) * len(ids) // count]
        states = oracle.states([*before, *window, *between, *window])
        pooled.append(states[-len(window) :].double().numpy())
    vector = np.concatenate(pooled).mean(axis=0)
    np.testing.assert_allclose(encoder.encode_documents([TEXTS[4]])[0], vector / np.linalg.norm(vector), atol=1e-4)


def _said(template: str) -> list[tuple[str, bool]]:
    literals = [string for what, string, _ in PIECES[template] if what == "say"]
    return [(string, place > 0) for place, string in enumerate(literals)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["langchain", "llama_index", "chroma", "sentence_transformers"])
def test_each_adapter_gives_the_cores_vectors(file: Path, name: str):
    runtime = {"device": "cpu", "dtype": "float32"}
    core = EchoEncoder(EchoConfig(str(file)), Runtime(**runtime)).encode_documents(TEXTS)
    vectors = np.array(ADAPTERS[name](str(file), runtime))
    np.testing.assert_allclose(vectors, core, atol=1e-4)


def langchain(model: str, runtime: dict[str, str]) -> object:
    module = pytest.importorskip("langchain_echo")
    return module.EchoEmbeddings(model=model, layer=-1, **runtime).embed_documents(TEXTS)


def llama_index(model: str, runtime: dict[str, str]) -> object:
    pytest.importorskip("llama_index.core")
    from llama_index.embeddings.echo import EchoEmbedding

    return EchoEmbedding(model_name=model, layer=-1, **runtime).get_text_embedding_batch(TEXTS)


def chroma(model: str, runtime: dict[str, str]) -> object:
    module = pytest.importorskip("echo_chroma")
    return module.EchoEmbeddingFunction(EchoConfig(model), Runtime(**runtime))(TEXTS)


def sentence_transformers(model: str, runtime: dict[str, str]) -> object:
    module = pytest.importorskip("echo_sentence_transformers")
    config = EchoConfig(model)
    options = {"device": runtime["device"], "model_kwargs": {"dtype": runtime["dtype"]}}
    return module.EchoSentenceTransformer(config, **options).encode_document(TEXTS)


ADAPTERS = {each.__name__: each for each in (langchain, llama_index, chroma, sentence_transformers)}
