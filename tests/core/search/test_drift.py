from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_of
from nasty_texts import NASTY, PLAIN

from echo_core.errors import ConfigError, EmbeddingSpaceMismatch, ModelError
from echo_core.identity.space import space_metadata
from echo_core.search import DriftMap

TEXTS = [f"{text} {number}" for number in range(10) for text in PLAIN[:4]]
ASKED = [f"Where is {text}" for text in PLAIN[:4]]


@pytest.fixture(scope="module")
def old(tiny_llama: Path):
    return encoder_of(tiny_llama, max_tokens=64)


@pytest.fixture(scope="module")
def new(tiny_llama: Path):
    return encoder_of(tiny_llama, max_tokens=64, layer=-2)


@pytest.fixture(scope="module")
def drift(new, old):
    return DriftMap.fit(new, old, TEXTS)


def test_a_map_of_two_encoders_knows_both_and_gives_unit_vectors(drift, new, old):
    assert (drift.new_fingerprint, drift.old_fingerprint) == (new.fingerprint, old.fingerprint)
    assert drift.texts == len(TEXTS)
    assert drift.kind in drift.held_out
    mapped = drift(new.encode_queries(ASKED))
    assert mapped.shape == (len(ASKED), 32)
    assert mapped.dtype == np.float32
    assert np.allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)
    assert np.allclose(drift(new.encode_queries(ASKED)[0]), mapped[0], atol=1e-6)


def test_mapped_queries_rank_old_vectors_more_as_the_new_encoder_would_than_unmapped_ones(drift, new, old):
    stored, asked = old.encode_documents(TEXTS), new.encode_queries(ASKED)
    wanted = asked @ new.encode_documents(TEXTS).T
    mapped, plain = (np.corrcoef(wanted[0], side[0] @ stored.T)[0, 1] for side in (drift(asked), asked))
    assert mapped > plain


def test_stored_vectors_do_in_place_of_the_old_encoder(new, old):
    stored = old.encode_documents(TEXTS)
    mapped = DriftMap.fit(new, stored, TEXTS, role="document", old_space=old.space)
    both = DriftMap.fit(new.encode_documents(TEXTS), stored, new_space=new.space, old_space=old.space)
    assert mapped.old_fingerprint == both.old_fingerprint == old.fingerprint
    assert np.array_equal(mapped(stored), both(stored))


def test_encoders_of_other_widths_are_mapped(old, model_folder):
    wide = encoder_of(model_folder("llama", hidden_size=64), max_tokens=64)
    mapped = DriftMap.fit(wide, old, TEXTS)
    assert mapped(wide.encode_queries(ASKED)).shape == (len(ASKED), 32)


def test_a_saved_map_is_the_same_and_holds_no_pickle(drift, new, tmp_path):
    drift.save(tmp_path / "to-old.safetensors")
    loaded = DriftMap.load(tmp_path / "to-old.safetensors")
    asked = new.encode_queries(ASKED)
    assert np.array_equal(loaded(asked), drift(asked))
    assert (loaded.new_fingerprint, loaded.old_fingerprint) == (drift.new_fingerprint, drift.old_fingerprint)
    assert (loaded.kind, loaded.held_out, loaded.texts) == (drift.kind, drift.held_out, drift.texts)
    assert np.array_equal(pickle.loads(pickle.dumps(drift))(asked), drift(asked))  # to a worker process


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"{}"])
def test_a_file_that_is_no_map_is_refused(content, tmp_path):
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(ModelError, match=r"must be a file that DriftMap.save wrote"):
        DriftMap.load(tmp_path / "map")
    with pytest.raises(ModelError, match=r"must be a file that DriftMap.save wrote"):
        DriftMap.load(tmp_path / "none")


def test_another_safetensors_file_is_refused(tiny_llama):
    with pytest.raises(ModelError, match=r"must be a file that DriftMap.save wrote"):
        DriftMap.load(tiny_llama / "model.safetensors")


def test_an_empty_texts_zero_vector_stays_zero(drift):
    assert not drift(np.zeros(32)).any()
    assert not drift(np.zeros((2, 32))).any()


def test_a_map_stands_only_between_its_two_spaces(drift, new, old):
    drift.check(new.space, space_metadata(old.space), "the store")
    with pytest.raises(EmbeddingSpaceMismatch, match=r"on the side of the new encoder.*layer"):
        drift.check(old.space, space_metadata(old.space), "the store")
    with pytest.raises(EmbeddingSpaceMismatch, match=r"the store, to which the drift map shall lead.*layer"):
        drift.check(new.space, space_metadata(new.space), "the store")


def test_a_map_of_unnamed_arrays_is_refused_by_stores(old):
    stored = old.encode_documents(TEXTS)
    with pytest.raises(EmbeddingSpaceMismatch, match=r"give DriftMap.fit encoders, or new_space= and old_space="):
        DriftMap.fit(stored, stored).check(old.space, space_metadata(old.space), "the store")


@pytest.mark.parametrize("shape", [(31,), (2, 33), (), (1, 2, 32)])
def test_vectors_of_another_shape_are_refused(drift, shape):
    with pytest.raises(ConfigError, match="must have 32 numbers each"):
        drift(np.ones(shape))


def test_wrong_input_is_refused_with_the_way_out(new, old):
    stored = old.encode_documents(TEXTS)
    with pytest.raises(ConfigError, match="texts must be given where new is an encoder"):
        DriftMap.fit(new, stored)
    with pytest.raises(ConfigError, match="the same texts, got 40 and 39"):
        DriftMap.fit(new, stored[1:], TEXTS)
    with pytest.raises(ConfigError, match="old must be an encoder or finite vectors"):
        DriftMap.fit(new, np.full_like(stored, np.nan), TEXTS)
    with pytest.raises(ConfigError, match=r"old must be an encoder or finite vectors .*, got str"):
        DriftMap.fit(new, "the old model", TEXTS)
    with pytest.raises(ConfigError, match="vectors of texts, got 40 of zeros alone"):
        DriftMap.fit(new, np.zeros_like(stored), TEXTS)
    with pytest.raises(ConfigError, match="role must be one of"):
        DriftMap.fit(new, old, TEXTS, role="passage")
    with pytest.raises(ConfigError, match="at least 20"):
        DriftMap.fit(new, old, list(NASTY)[:3])
    with pytest.raises(TypeError, match="texts must be a list of strings, got one string"):
        DriftMap.fit(new, old, "a string whose letters would have been the texts")


@pytest.mark.parametrize(("vectors", "told"), [(np.full(32, np.nan), "finite"), ("a text", "got str"), (None, "got")])
def test_what_is_no_vector_is_not_mapped(drift, vectors, told):
    """NaN came out as NaN, and a text ended in a raw ValueError."""
    with pytest.raises(ConfigError, match=f"vectors must .*{told}"):
        drift(vectors)
