from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import encoder_of
from oracle import PIECES, open_oracle

from echo_core import ConfigError, EchoConfig, EchoEncoder, EmptyTextError, TextTooLongError, VariableError
from echo_core.search.situated import encode_situated, situated_template
from echo_core.template import TEMPLATES

CHUNKS = ["It shivers to keep warm.", "In spring it swarms.", "The hive is quiet.", "Nobody knows why."]
PAGE = "A page about beehives, and how bees get through the cold months of a year. " * 3
CONTEXTS = [PAGE, "On towns.", PAGE, "On towns."]
AFTER = [("say", "Context:", False), ("value", " context", False), ("say", "\nRewrite the following paragraph:", False)]
SITUATED = [*AFTER, *PIECES["echo"][1:]]


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> EchoEncoder:
    return encoder_of(tiny_llama, max_tokens=64)


def slowly(folder: Path, contexts: list[str], alpha: float) -> np.ndarray:
    """Each chunk said twice by the slow way, alone and after its context; the sum has length 1."""
    oracle = open_oracle(folder)
    alone = [oracle.vector(PIECES["echo"], {"text": chunk}) for chunk in CHUNKS]
    values = ({"text": chunk, "context": context} for chunk, context in zip(CHUNKS, contexts, strict=True))
    sums = np.stack(alone) + alpha * np.stack([oracle.vector(SITUATED, value) for value in values])
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True))


@pytest.mark.parametrize("alpha", [0.5, 3])
@pytest.mark.parametrize("contexts", [CONTEXTS, PAGE], ids=["of each chunk", "one for all"])
def test_a_vector_is_that_of_the_chunk_plus_alpha_times_that_after_its_context(
    encoder: EchoEncoder, tiny_llama: Path, contexts: Any, alpha: float
):
    vectors = encode_situated(encoder, CHUNKS, contexts, alpha=alpha)
    expected = slowly(tiny_llama, [contexts] * 4 if isinstance(contexts, str) else contexts, alpha)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_the_surroundings_run_once_for_all_chunks_of_a_document(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, max_tokens=64)
    encoder._engine.runner.budget.tokens = 60  # so that the chunks of a page do not fit into one batch
    chunks = CHUNKS * 2
    before = encoder.statistics()
    encode_situated(encoder, chunks, PAGE)
    after = encoder.statistics()
    own = 2 * sum(encoder.count_tokens(chunks))  # alone, and after the page
    page = encoder.with_options(document_template="Context: {text}\n[[{text}]]").count_tokens([PAGE])[0]
    assert after.prefix_hits - before.prefix_hits >= 2
    assert after.tokens - before.tokens < own + 2 * page
    assert page > own / 8


def test_without_unit_length_the_sum_is_given_as_it_is(encoder: EchoEncoder):
    plain = encoder.with_options(normalize=False)
    template = situated_template(plain.config.document_template)
    after = plain.with_options(document_template=template).encode_documents(CHUNKS, variables={"context": CONTEXTS})
    expected = plain.encode_documents(CHUNKS) + 2 * after
    np.testing.assert_allclose(encode_situated(plain, CHUNKS, CONTEXTS, alpha=2), expected, rtol=1e-4, atol=1e-4)


def test_alpha_0_gives_the_chunks_alone_and_no_chunk_no_vector(encoder: EchoEncoder):
    np.testing.assert_allclose(
        encode_situated(encoder, CHUNKS, PAGE, alpha=0), encoder.encode_documents(CHUNKS), atol=1e-6
    )
    assert encode_situated(encoder, [], []).shape == (0, encoder.dimension)


def test_the_filter_and_the_cut_hold_for_both_parts(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, filter=2, dimension=8)
    assert encode_situated(encoder, CHUNKS, CONTEXTS).shape == (4, 8)


def test_the_context_is_said_before_all_else_but_the_first_token():
    assert situated_template(TEMPLATES["echo"]) == TEMPLATES["situated"]
    assert situated_template("{bos}Say: {text}. [[{text}]]") == "{bos}Context: {context}\nSay: {text}. [[{text}]]"


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), 10**400, 1001, True, "1", None])
def test_a_wrong_alpha_is_refused_with_the_rule(encoder: EchoEncoder, alpha: Any):
    with pytest.raises(ConfigError, match=r"^alpha must be a number from 0 to 1000, got .*; 0\.5 is"):
        encode_situated(encoder, CHUNKS, PAGE, alpha=alpha)


def test_a_config_in_place_of_an_encoder_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"encoder must be an EchoEncoder, got EchoConfig; EchoEncoder\(config\)"):
        encode_situated(EchoConfig(), CHUNKS, PAGE)  # type: ignore[arg-type]


def test_wrong_contexts_are_refused_before_anything_is_run(encoder: EchoEncoder):
    before = encoder.statistics()
    with pytest.raises(VariableError, match="'context' must have one value for each of the 4 texts, got 1"):
        encode_situated(encoder, CHUNKS, [PAGE])
    with pytest.raises(TypeError, match="'context' must hold strings, got int at index 1"):
        encode_situated(encoder, CHUNKS, [PAGE, 3, PAGE, PAGE])  # type: ignore[list-item]
    with pytest.raises(VariableError, match=r"needs a value for \{topic\}"):
        encode_situated(encoder.with_options(document_template="{topic} {text} [[{text}]]"), CHUNKS, PAGE)
    with pytest.raises(VariableError, match=r"needs a value for \{context\}"):
        encode_situated(encoder.with_options(document_template="situated"), CHUNKS, PAGE)
    assert encoder.statistics() == before


def test_an_error_about_a_chunk_names_its_place_in_the_call(encoder: EchoEncoder):
    with pytest.raises(EmptyTextError, match=r"^text 2 must not be empty"):
        encode_situated(encoder, ["a", "b", " "], PAGE)
    with pytest.raises(TextTooLongError, match=r"^text 3 .* must fit into the model's \d+ positions"):
        encode_situated(encoder, CHUNKS, ["On towns.", PAGE, "On towns.", PAGE * 100])


def test_a_blank_chunk_stays_the_zero_vector_where_the_config_says_so(tiny_llama: Path):
    vectors = encode_situated(encoder_of(tiny_llama, empty="zero"), ["a", " "], PAGE)
    assert vectors[0].any()
    assert not vectors[1].any()
