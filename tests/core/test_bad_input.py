from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ModelFolder
from encoders import LONG, WAYS, call, encoder_of
from nasty_texts import PLAIN
from oracle import open_oracle
from tiny_models import change_weights

from echo_core import (
    ConfigError,
    EchoEncoder,
    EmptyTextError,
    ModelError,
    NotFiniteError,
    Runtime,
    TextTooLongError,
    UnencodableTextError,
    VariableError,
)

each_way = pytest.mark.parametrize("way", WAYS)


@each_way
@pytest.mark.parametrize("texts", ["one string", b"bytes", None, 3, {"a": 1}, {"a"}])
def test_what_is_no_list_of_texts_is_a_type_error_at_every_entrance(encoder: EchoEncoder, way: str, texts: Any):
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        call(encoder, way, texts)


@each_way
@pytest.mark.parametrize("wrong", [None, b"bytes", 3, float("nan"), ["nested"]])
def test_a_wrong_item_is_named_by_its_index_at_every_entrance(encoder: EchoEncoder, way: str, wrong: Any):
    with pytest.raises(TypeError, match="text 2 must be a string"):
        call(encoder, way, ["a", "b", wrong, "d"])


@each_way
@pytest.mark.parametrize("blank", ["", "  \n"])
def test_an_empty_text_is_named_by_its_index_at_every_entrance(encoder: EchoEncoder, way: str, blank: str):
    with pytest.raises(EmptyTextError, match="text 3") as caught:
        call(encoder, way, ["a", "a", "b", blank])
    assert caught.value.index == 3


@each_way
def test_a_lone_surrogate_is_named_by_its_index_at_every_entrance(encoder: EchoEncoder, way: str):
    with pytest.raises(UnencodableTextError, match=r"text 3 must be valid Unicode"):
        call(encoder, way, ["a", "a", "b", "half \udc00"])


@each_way
def test_a_superfluous_variable_is_refused_at_every_entrance(encoder: EchoEncoder, way: str):
    with pytest.raises(VariableError, match=r"no variable \{instruction\}"):
        call(encoder, way, ["a"], instruction="x")


@each_way
def test_no_text_gives_no_vector_of_the_right_width(encoder: EchoEncoder, way: str):
    vectors = call(encoder, way, [])
    assert len(vectors) == 0
    if not way.startswith("iter"):
        assert vectors.shape == (0, 32)
        assert vectors.dtype == np.float32


@each_way
def test_every_way_gives_the_same_vectors(encoder: EchoEncoder, way: str):
    expected = encoder.encode_queries(PLAIN) if "queries" in way else encoder.encode_documents(PLAIN)
    assert np.abs(call(encoder, way, iter(PLAIN) if way.startswith("iter") else PLAIN) - expected).max() <= 1e-5


def test_a_call_after_an_error_works(encoder: EchoEncoder):
    with pytest.raises(EmptyTextError):
        encoder.encode_documents(["a", ""])
    assert encoder.encode_documents(["a"]).shape == (1, 32)


def test_blank_texts_can_be_zero_vectors(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, empty="zero")
    vectors = encoder.encode_documents(["", "Paris", " \n", "Paris", ""])
    assert [bool(vector.any()) for vector in vectors] == [False, True, False, True, False]
    assert not encoder.encode_documents(["", " "]).any()
    assert encoder.encode_documents(["Paris"])[0] == pytest.approx(vectors[1], abs=1e-6)
    assert not np.stack(list(encoder.iter_documents(["", ""]))).any()


def test_a_generator_is_read_once_and_a_tuple_will_do(encoder: EchoEncoder):
    vectors = encoder.encode_documents(text for text in PLAIN)
    assert np.array_equal(vectors, encoder.encode_documents(tuple(PLAIN)))


def test_a_text_that_the_normaliser_deletes_is_named_by_its_index(model_folder: ModelFolder):
    encoder = encoder_of(model_folder("llama", "forgetful"))
    with pytest.raises(UnencodableTextError, match="text 2 must give at least one token"):
        encoder.encode_documents(["a", "a", "\u200b"])


def test_two_megabytes_of_text_get_one_vector(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, layer=1, overflow="window")
    vectors = encoder.encode_documents(["🎉" + " paragraph" * 200_000, "Paris"])
    assert vectors.shape == (2, 32)
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_a_text_too_long_is_named_by_its_index_in_the_callers_order(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, max_tokens=20, overflow="error", empty="zero")
    with pytest.raises(TextTooLongError, match="text 4 must have at most max_tokens=20"):
        encoder.encode_documents(["Paris", "", "Paris", "b", LONG])


def test_cut_texts_are_logged_at_the_first_call_and_counted_at_all(tiny_llama: Path, caplog):
    """Each call said so, and flooded a server's log."""
    encoder = encoder_of(tiny_llama, max_tokens=20, overflow="truncate")
    with caplog.at_level(logging.WARNING, "echo_core"):
        encoder.encode_documents([LONG, "Paris", LONG + "!"])
        encoder.encode_documents(["Paris"])
        encoder.encode_queries([LONG])
    assert encoder.texts_cut == 3
    assert [record.getMessage() for record in caplog.records] == [
        "2 texts were cut at max_tokens=20; "
        "overflow='window' keeps them whole (said once; EchoEncoder.texts_cut counts)"
    ]


def test_a_vector_that_is_not_finite_is_an_error_naming_text_and_dtype(tiny_llama: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    odd = open_oracle(tiny_llama).piece_ids(" Paris", True)[-1]
    change_weights(folder, "embed_tokens", float("nan"), at=(odd, 0))
    encoder = encoder_of(folder, Runtime(device="cpu", dtype="bfloat16"))
    with pytest.raises(
        NotFiniteError, match=r"text 3 must get finite numbers.*in bfloat16; try Runtime\(dtype='float32'\)"
    ) as caught:
        encoder.encode_documents(["b", "b", "c", "Paris", "d"])
    assert caught.value.index == 3
    with pytest.raises(NotFiniteError, match="text 1 "):
        list(encoder.iter_documents(["b", "Paris"]))
    assert encoder.encode_documents(["b", "c"]).shape == (2, 32)


def test_values_that_make_a_row_longer_than_the_models_positions_are_an_error(model_folder: ModelFolder):
    """GPT-2 failed with an IndexError out of its embedding table; rotary models gave a vector that means nothing."""
    folder = model_folder("gpt2", n_positions=128)
    encoder = encoder_of(folder, document_template="{context} {text} [[{text}]]", max_tokens=32)
    with pytest.raises(TextTooLongError, match=r"text 1 .*model's 128 positions"):
        encoder.encode_documents(["a", "b"], variables={"context": ["x", "y " * 200]})


def test_a_dimension_beyond_the_models_is_refused(tiny_llama: Path):
    with pytest.raises(ConfigError, match="dimension must be at most 32 for this model, got 33"):
        encoder_of(tiny_llama, dimension=33)
    assert encoder_of(tiny_llama, dimension=32).encode_documents(["a"]).shape == (1, 32)


@pytest.mark.parametrize("dimension", [1, 8, 31])
def test_fewer_dimensions_are_the_first_ones_with_unit_length(tiny_llama: Path, dimension: int):
    vectors = encoder_of(tiny_llama, dimension=dimension).encode_documents(PLAIN)
    whole = encoder_of(tiny_llama, normalize=False).encode_documents(PLAIN)[:, :dimension]
    np.testing.assert_allclose(vectors, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("template", ["echo", "classical", "{text} {text} {text} {text} [[{text}]]"])
def test_max_tokens_that_do_not_fit_the_positions_are_refused_with_a_value_that_does(
    template: str, model_folder: ModelFolder
):
    folder = model_folder("llama", max_position_embeddings=100)
    options = {"query_template": template, "document_template": template}
    with pytest.raises(ConfigError, match=r"max_tokens must fit .* 100 positions, got 256; try \d+") as caught:
        encoder_of(folder, **options)
    fitting = int(str(caught.value).rsplit(" ", 1)[1])
    encoder_of(folder, max_tokens=fitting, **options)
    with pytest.raises(ConfigError):
        encoder_of(folder, max_tokens=fitting + 1, **options)


def test_a_budget_too_small_for_one_row_is_refused(tiny_llama: Path):
    with pytest.raises(ConfigError, match=r"token_budget must hold one row of max_tokens=64, (\d+) tokens, got 100"):
        encoder_of(tiny_llama, Runtime(token_budget=100), max_tokens=64)


def test_a_window_shorter_than_the_rows_is_logged(model_folder: ModelFolder, caplog):
    with caplog.at_level(logging.WARNING, "echo_core"):
        encoder_of(model_folder("mistral"), max_tokens=64)
        encoder_of(model_folder("llama"), max_tokens=64)
    assert [record.getMessage() for record in caplog.records] == [
        "rows of up to 140 tokens exceed the model's attention window of 24: "
        "a second saying will not see all of its first"
    ]


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_model_that_is_no_decoder_is_refused(family: str, model_folder: ModelFolder):
    with pytest.raises(ModelError, match="decoder"):
        EchoEncoder(model_folder(family))


def test_a_model_without_the_templates_token_is_refused_when_it_is_loaded(model_folder: ModelFolder):
    with pytest.raises(ModelError, match=r"must not use \{eos\}"):
        encoder_of(model_folder("llama", "no_special"), document_template="finetuned-document")


def test_a_role_that_does_not_exist_is_refused(encoder: EchoEncoder):
    with pytest.raises(ConfigError, match="role must be one of 'query', 'document', got 'passage'"):
        encoder.explain_tokens("a", role="passage")
