from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ModelFolder
from encoders import INSTRUCTION, LAYERS, LONG, SAMPLE, encoder_of, oracle_vectors
from hypothesis import given
from hypothesis import strategies as st
from nasty_texts import ALL, PLAIN
from oracle import PIECES, open_oracle, pool
from tiny_models import FAMILIES

from echo_core import (
    EchoEncoder,
    Runtime,
)
from echo_core.config import POOLINGS


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> EchoEncoder:
    return encoder_of(tiny_llama, query_template="classical", max_tokens=64)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_layer_gives_the_oracles_vectors(family: str, layer: int, model_folder: ModelFolder):
    """Templates and poolings take turns over the layers, so that each family meets all of them.

    The slow test has every combination.
    """
    folder = model_folder(family)
    turn = LAYERS.index(layer)
    query, document = list(PIECES)[turn % 5], list(PIECES)[(turn + 2) % 5]
    pooling = POOLINGS[turn % 3]
    encoder = encoder_of(folder, query_template=query, document_template=document, pooling=pooling, layer=layer)
    for template, encode in [(query, encoder.encode_queries), (document, encoder.encode_documents)]:
        vectors = encode(SAMPLE, instruction=INSTRUCTION if template == "finetuned-query" else None)
        assert vectors.dtype == np.float32
        expected = oracle_vectors(folder, template, SAMPLE, pooling=pooling, layer=layer)
        assert np.abs(vectors - expected).max() <= 1e-5
        assert np.abs(expected[0] - expected[1]).max() > 1e-3  # else equality would mean nothing


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_template_pooling_and_layer_of_a_family_gives_the_oracles_vectors(family: str, model_folder: ModelFolder):
    folder = model_folder(family)
    for layer in LAYERS:
        for pooling in POOLINGS:
            for template in PIECES:
                encoder = encoder_of(folder, document_template=template, pooling=pooling, layer=layer)
                vectors = encoder.encode_documents(
                    ALL, instruction=INSTRUCTION if template == "finetuned-query" else None
                )
                assert (
                    np.abs(vectors - oracle_vectors(folder, template, ALL, pooling=pooling, layer=layer)).max() <= 1e-5
                )


@pytest.mark.parametrize("text", ALL)
def test_every_nasty_text_gets_exactly_its_vector(text: str, tiny_llama: Path, encoder: EchoEncoder):
    assert np.abs(encoder.encode_documents([text])[0] - oracle_vectors(tiny_llama, "echo", [text])[0]).max() <= 1e-5


def test_states_without_unit_length_are_the_oracles_too(tiny_llama: Path):
    vectors = encoder_of(tiny_llama, normalize=False).encode_documents(ALL)
    np.testing.assert_allclose(vectors, oracle_vectors(tiny_llama, "echo", ALL, normalize=False), rtol=1e-5, atol=1e-5)


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=30), st.integers(200, 2000))
def test_order_company_and_repetition_change_no_vector(texts: list[str], budget: int):
    """The heart of batching: any composition of a call gives every text the vector that it gets alone."""
    encoder = _BATCHING["encoder"]
    encoder._engine.runner.budget.tokens = budget  # its own encoder: no other test sees it
    vectors = encoder.encode_documents(texts)
    expected = np.stack([_BATCHING["vectors"][text] for text in texts])
    assert np.abs(vectors - expected).max() <= 1e-5
    streamed = np.stack(list(encoder.iter_documents(iter(texts))))
    assert np.abs(streamed - expected).max() <= 1e-5


_BATCHING: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def _batching(tiny_llama: Path) -> None:
    """For the property test above, which takes no fixtures: the oracle's vector of each text."""
    vectors = oracle_vectors(tiny_llama, "echo", ALL)
    _BATCHING.update(encoder=encoder_of(tiny_llama, max_tokens=64), vectors=dict(zip(ALL, vectors, strict=True)))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("overlap", [0, 4])
def test_a_long_text_is_the_mean_of_its_windows_weighted_by_tokens(pooling: str, overlap: int, tiny_llama: Path):
    encoder = encoder_of(tiny_llama, pooling=pooling, max_tokens=40, overlap=overlap, normalize=False)
    oracle = open_oracle(tiny_llama)
    ids = oracle.piece_ids(" " + LONG, begun=True)
    count = math.ceil((len(ids) - overlap) / (40 - overlap))
    edges = [i * (len(ids) - overlap) // count for i in range(count + 1)]
    before, between = (
        oracle.piece_ids("Rewrite the following paragraph:", False),
        oracle.piece_ids(". The rewritten paragraph:", True),
    )
    total, weight = np.zeros(32), 0
    for start, end in itertools.pairwise(edges):
        said = ids[start : end + overlap]
        states = oracle.states([*oracle.leading(), *before, *said, *between, *said])[-len(said) :].double().numpy()
        total, weight = total + len(said) * pool(states, pooling, normalize=False), weight + len(said)
    assert count > 3
    np.testing.assert_allclose(encoder.encode_documents(["Paris", LONG])[1], total / weight, rtol=1e-5, atol=1e-5)


def test_a_truncated_text_is_its_beginning_said_twice(tiny_llama: Path):
    oracle = open_oracle(tiny_llama)
    ids = oracle.piece_ids(" " + LONG, begun=True)[:30]
    before, between = (
        oracle.piece_ids("Rewrite the following paragraph:", False),
        oracle.piece_ids(". The rewritten paragraph:", True),
    )
    states = oracle.states([*oracle.leading(), *before, *ids, *between, *ids])[-30:].double().numpy()
    vector = encoder_of(tiny_llama, max_tokens=30, overflow="truncate").encode_documents([LONG])[0]
    assert np.abs(vector - pool(states, "mean")).max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_within_cosine_0_999_of_the_oracle(family: str, model_folder: ModelFolder):
    """On the outputs of random weights ten times wider than trained ones; sums are made in float32."""
    folder = model_folder(family, **({"init_std": 0.05} if family == "opt" else {"initializer_range": 0.05}))
    vectors = encoder_of(folder, Runtime(device="cpu", dtype="bfloat16")).encode_documents(SAMPLE)
    cosines = (vectors * oracle_vectors(folder, "echo", SAMPLE)).sum(axis=1)
    assert cosines.min() >= 0.999


@pytest.mark.parametrize("tokenizer", ["byte_level_bos", "legacy", "metaspace"])
def test_the_built_in_pooling_of_sentence_transformers_gives_the_same_vectors(
    tokenizer: str, model_folder: ModelFolder
):
    """An oracle that shares nothing with ours.

    It is a plain Transformer and Pooling("mean", include_prompt=False), one text a call.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = model_folder("llama", tokenizer)
    transformer = Transformer(str(folder), model_kwargs={"dtype": torch.float32})
    transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    plain = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean", include_prompt=False)],
        device="cpu",
    )
    vectors = encoder_of(folder, normalize=False).encode_documents(PLAIN)
    for text, vector in zip(PLAIN, vectors, strict=True):
        prompt = f"Rewrite the following paragraph: {text}. The rewritten paragraph:"
        expected = plain.encode([" " + text], prompt=prompt, normalize_embeddings=False)[0]
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-5)
