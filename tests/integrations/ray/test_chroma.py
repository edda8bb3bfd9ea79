"""Rows in a Chroma server: each once, in its own space, and found again by the next run."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from forked import forks, needs_fork, passes_in_child

pytest.importorskip("chromadb")

import chromadb

from echo_chroma import add_documents, open_collection
from echo_core import ConfigError, EchoConfig, EmbeddingSpaceMismatch, StoreError
from echo_ray import Columns, EchoBatchEmbedder, Written
from echo_ray.chroma import _ChromaDatasink, _client, _stored, as_vectors, write_chroma

TEXTS = ["Paris", "The river froze", "Bread needs time"]


@pytest.fixture(scope="module")
def table(config, runtime):
    stage = EchoBatchEmbedder(config, runtime, on_error="column")
    texts = pa.array([*TEXTS, None, TEXTS[0]], pa.string())
    return stage(pa.table({"text": texts, "source": ["a.md", "b.md", "c.md", "d.md", "a.md"], "page": [1, 2, 3, 4, 1]}))


def client_of(settings):
    return chromadb.HttpClient(**settings)


def test_a_block_is_written_once_with_its_metadata_and_bad_rows_are_counted(
    chroma_server, table, config, runtime, encoder
):
    collection = open_collection(client_of(chroma_server), "block", config, runtime)
    sink = _ChromaDatasink(chroma_server, "block", Columns(), None)
    for _ in range(2):  # Ray may run a task twice
        assert sink.write([table], None) == Written(3, 1, 1)
    stored = collection.get(include=["documents", "metadatas", "embeddings"])
    assert sorted(stored["documents"]) == sorted(TEXTS)
    places = [TEXTS.index(text) for text in stored["documents"]]
    assert stored["metadatas"] == [{"source": f"{'abc'[i]}.md", "page": i + 1} for i in places]
    assert np.abs(stored["embeddings"] - encoder.encode_documents(TEXTS)[places]).max() <= 1e-5


def test_ids_are_those_of_add_documents(chroma_server, table, config, runtime):
    collection = open_collection(client_of(chroma_server), "ids", config, runtime)
    _ChromaDatasink(chroma_server, "ids", Columns(), ["source"]).write([table], None)
    done = add_documents(collection, TEXTS, [{"source": f"{name}.md"} for name in "abc"])
    assert (done.added, done.unchanged) == (0, 3)


def test_stored_ids_are_known_and_a_collection_that_is_not_there_has_none(chroma_server, table, config, runtime):
    open_collection(client_of(chroma_server), "known", config, runtime)
    _ChromaDatasink(chroma_server, "known", Columns(), None).write([table], None)
    ids = [id for id in table["id"].to_pylist() if id]
    assert _stored(chroma_server, "known", [*dict.fromkeys(ids), "other"]) == set(ids)
    assert _stored(chroma_server, "not-there", ids) == set()


def test_rows_of_another_space_are_refused_before_anything_is_written(chroma_server, table, tiny_llama, runtime):
    other = EchoConfig(str(tiny_llama), layer=1)
    collection = open_collection(client_of(chroma_server), "space", other, runtime)
    with pytest.raises(EmbeddingSpaceMismatch, match="rows must have vectors of the space of Chroma collection"):
        _ChromaDatasink(chroma_server, "space", Columns(), None).write([table], None)
    assert collection.count() == 0


def test_a_server_that_is_not_named_or_not_there_is_an_error(config):
    with pytest.raises(ConfigError, match="settings must have the host of a Chroma server"):
        write_chroma(None, {}, "name", config)
    nobody = {"host": "127.0.0.1", "port": 9}
    with pytest.raises(StoreError, match=r"'name' failed.*connect.*nothing was changed"):
        write_chroma(None, nobody, "name", config)
    with pytest.raises(StoreError, match="connect"):
        _ChromaDatasink(nobody, "name", Columns(), None).write([], None)


def test_vectors_come_back_from_chunks_and_from_half_precision():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    for kind, arrow in ((np.float32, pa.float32()), (np.float16, pa.float16())):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(kind).reshape(-1), arrow), 3)
        assert np.array_equal(as_vectors(pa.chunked_array([lists[:1], lists[1:]])), rows)
        assert np.array_equal(as_vectors(pa.chunked_array([lists]).slice(1)), rows[1:])


def test_metadata_that_is_no_list_of_columns_or_cannot_be_stored_is_told(chroma_server, table, config, runtime):
    """One string was taken for the names of its letters; a wrong value was named by its place in some slice."""
    with pytest.raises(TypeError, match=r"metadata must be a list of columns, got one string; put it in a list"):
        write_chroma(None, chroma_server, "name", config, metadata="page")
    open_collection(client_of(chroma_server), "metadata", config, runtime)
    with pytest.raises(ConfigError, match=r"metadata must name columns of the dataset, got \['title'\]; it has"):
        _ChromaDatasink(chroma_server, "metadata", Columns(), ["title"]).write([table], None)
    odd = table.append_column("odd", pa.array([{"a": 1}] * table.num_rows))
    with pytest.raises((TypeError, ValueError), match=f"metadata of text with id {table['id'][0].as_py()}"):
        _ChromaDatasink(chroma_server, "metadata", Columns(), ["odd"]).write([odd], None)


@needs_fork
@forks
def test_a_forked_child_has_a_client_of_its_own(chroma_server):
    client = _client(chroma_server)
    assert _client(chroma_server) is client
    assert passes_in_child(lambda: _client(chroma_server) is not client and _client(chroma_server).heartbeat() > 0)
