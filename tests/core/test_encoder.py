from __future__ import annotations

import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from encoders import FP32, LONG, encoder_of, oracle_vectors
from nasty_texts import PLAIN
from tiny_models import change_weights

from echo_core import (
    ConfigError,
    EchoConfig,
    EchoEncoder,
    EmbeddingSpaceMismatch,
    EmptyTextError,
    ModelError,
    NotFiniteError,
    Runtime,
    shared_encoder,
)


def test_queries_and_documents_are_said_with_their_own_templates(encoder: EchoEncoder, tiny_llama: Path):
    assert np.abs(encoder.encode_queries(PLAIN) - oracle_vectors(tiny_llama, "classical", PLAIN)).max() <= 1e-5
    assert np.abs(encoder.encode_queries(PLAIN) - encoder.encode_documents(PLAIN)).max() > 1e-2


def test_each_text_gets_its_own_value_of_a_variable(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, document_template="{context}: {text} and [[{text}]]")
    contexts = ["a river", "a city", "a river"]
    together = encoder.encode_documents(["Paris", "Paris", "Paris"], variables={"context": contexts})
    assert np.abs(together[0] - together[2]).max() <= 1e-6
    assert np.abs(together[0] - together[1]).max() > 1e-3
    alone = [encoder.encode_documents(["Paris"], variables={"context": context})[0] for context in contexts]
    assert np.abs(together - np.stack(alone)).max() <= 1e-5


def test_the_configs_instruction_holds_until_the_call_gives_another(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, query_template="finetuned-query", instruction="Find it")
    given = encoder.encode_queries(["Paris"], instruction="Find it")
    assert np.array_equal(encoder.encode_queries(["Paris"]), given)
    assert np.abs(encoder.encode_queries(["Paris"], instruction="Another") - given).max() > 1e-3


def test_a_stream_takes_variables_too(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, document_template="{context}: {text} [[{text}]]")
    expected = encoder.encode_documents(PLAIN, variables={"context": "a river"})
    assert (
        np.abs(np.stack(list(encoder.iter_documents(PLAIN, variables={"context": "a river"}))) - expected).max() <= 1e-5
    )


def test_the_tokens_are_explained_with_the_pooled_span_marked(encoder: EchoEncoder):
    explained = encoder.explain_tokens("Paris </s>\n")
    before, pooled = explained.split("[[")
    assert before.startswith("<s>|R|ew|rite| the|")
    assert pooled.endswith("]]")
    assert pooled[:-2].replace("|", "") == " Paris </s>\\n"
    assert "[[" in encoder.explain_tokens("Paris", role="query")


def test_a_long_text_is_explained_window_by_window(encoder: EchoEncoder):
    lines = encoder.explain_tokens(LONG * 2).splitlines()
    assert len(lines) > 1
    assert "".join(line.split("[[")[1][:-2] for line in lines).replace("|", "") == " " + LONG * 2


@pytest.mark.parametrize("text", ["a|b", "a [[b]] c", "tab\tquote'"])
def test_explaining_any_text_raises_nothing(encoder: EchoEncoder, text: str):
    assert encoder.explain_tokens(text)


def test_dimension_max_tokens_and_name_are_told(encoder: EchoEncoder, tiny_llama: Path):
    assert (encoder.dimension, encoder.max_tokens) == (32, 64)
    assert repr(encoder) == f"EchoEncoder({tiny_llama}, dimension=32, device=cpu, dtype=torch.float32)"


def test_a_folder_may_be_given_as_a_path(tiny_llama: Path):
    assert EchoEncoder(tiny_llama, FP32).config == EchoConfig(str(tiny_llama))


def test_a_saved_encoder_loads_in_the_same_state_and_in_plain_transformers(tiny_llama: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoder = encoder_of(tiny_llama, layer=-2, pooling="last", document_template="{bos}Say {text} [[{text}]]")
    encoder.save(tmp_path / "saved")
    loaded = EchoEncoder.load(tmp_path / "saved", FP32)
    assert np.abs(loaded.encode_documents(PLAIN) - encoder.encode_documents(PLAIN)).max() <= 1e-6
    assert loaded.fingerprint == encoder.fingerprint
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").config.num_hidden_layers == 3
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "saved")("Paris").input_ids
        == AutoTokenizer.from_pretrained(tiny_llama)("Paris").input_ids
    )
    loaded.save(tmp_path / "saved")  # into its own folder
    assert EchoEncoder.load(tmp_path / "saved", FP32).fingerprint == encoder.fingerprint


def test_a_folder_that_save_did_not_write_cannot_be_loaded(tiny_llama: Path):
    with pytest.raises(ModelError, match=r"as EchoEncoder\.save writes it"):
        EchoEncoder.load(tiny_llama)


def test_an_encoder_survives_pickle_without_its_weights(encoder: EchoEncoder):
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 3000
    copy = pickle.loads(pickled)
    assert (copy.config, copy.runtime) == (encoder.config, encoder.runtime)
    assert np.abs(copy.encode_documents(PLAIN) - encoder.encode_documents(PLAIN)).max() <= 1e-6


@pytest.mark.parametrize(
    "error", [EmptyTextError(3, "is empty"), NotFiniteError(4, "is not finite"), ConfigError("layer")]
)
def test_errors_survive_pickle(error: Exception):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), getattr(copy, "index", None)) == (
        type(error),
        str(error),
        getattr(error, "index", None),
    )


def test_what_is_no_runtime_is_refused(tiny_llama: Path):
    """A dict was "'dict' object has no attribute 'device'", from the loader or only at the first text."""
    for wrong in ({"device": "cpu"}, {}, "cpu", Runtime):
        for make in (EchoEncoder, shared_encoder):
            with pytest.raises(TypeError, match=r"runtime must be a Runtime, got .*; Runtime\(device=…"):
                make(EchoConfig(str(tiny_llama)), wrong)


def test_one_config_and_runtime_share_one_encoder(tiny_llama: Path):
    config = EchoConfig(str(tiny_llama), layer=1)
    found: list[EchoEncoder] = []
    threads = [threading.Thread(target=lambda: found.append(shared_encoder(config, FP32))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(encoder) for encoder in found}) == 1
    assert shared_encoder(EchoConfig(str(tiny_llama), layer=2), FP32) is not found[0]


def test_weights_replaced_after_the_load_are_neither_saved_nor_unpickled_as_the_encoders_own(tiny_llama, tmp_path):
    """``save`` wrote the new files as those of the old encoder, and unpickling loaded them, both without a word."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    encoder = encoder_of(folder)
    pickled = pickle.dumps(encoder)
    change_weights(folder, "embed_tokens", at=(3, 3))
    with pytest.raises(EmbeddingSpaceMismatch, match="must still be those that were loaded"):
        encoder.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(EmbeddingSpaceMismatch, match="a pickled encoder"):
        pickle.loads(pickled)


def test_encoders_share_an_engine_where_only_what_is_said_or_finished_differs(encoder):
    other = encoder.with_options(document_template="classical", dimension=8, max_tokens=32)
    assert other._engine is encoder._engine
    fresh = EchoEncoder(other.config, encoder.runtime)
    assert np.abs(other.encode_documents(PLAIN) - fresh.encode_documents(PLAIN)).max() <= 1e-6
    with pytest.raises(ConfigError, match="layer must be -1 to share these weights, got 2"):
        encoder.with_options(layer=2)
    with pytest.raises(ConfigError, match="EchoConfig has no field 'layr'"):
        encoder.with_options(layr=2)


def test_queries_can_have_a_mean_direction_of_their_own(encoder):
    """Queries and documents have different means on real models, most of all where their templates differ."""
    questions = [f"What about {text}?" for text in PLAIN]
    fitted = encoder.fit_centre(PLAIN, questions)
    raw = encoder.raw()
    for texts, way in ((PLAIN, "encode_documents"), (questions, "encode_queries")):
        vectors = getattr(raw, way)(texts).astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        mean = (vectors / lengths).mean(axis=0)
        mean /= np.linalg.norm(mean)
        expected = vectors - np.outer(vectors @ mean, mean)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.abs(getattr(fitted, way)(texts) - expected).max() <= 1e-5
    assert len({encoder.fit_centre(PLAIN).fingerprint, fitted.fingerprint, encoder.fingerprint}) == 3


def test_without_queries_the_documents_first_sentences_stand_for_them(encoder):
    long = [f"{text}. And more of it, and of other things." for text in PLAIN]
    alone = encoder.fit_centre(long).config
    assert alone == encoder.fit_centre(long, [f"{text}." for text in PLAIN]).config
    assert alone.centre != alone.query_centre


def test_a_shared_encoder_is_that_of_the_gpu_of_the_calling_thread(tiny_llama, monkeypatch):
    """After ``torch.cuda.set_device(1)`` the runtime "cuda" still gave the encoder on GPU 0."""
    config, current = EchoConfig(str(tiny_llama)), iter(("cuda:0", "cuda:1", "cuda:0"))
    monkeypatch.setattr("echo_core.encoder.choose_device", lambda wanted: next(current))
    monkeypatch.setattr("echo_core.encoder.EchoEncoder", lambda config, runtime: object())
    first, other, again = (shared_encoder(config, FP32) for _ in range(3))
    assert first is again
    assert first is not other
