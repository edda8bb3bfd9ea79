"""The stage gives the core's vectors for batches of any format, and a bad row need not end a job."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

import pandas as pd
import pyarrow as pa

from echo_core import ConfigError, EchoConfig, EchoError
from echo_core.identity.document_ids import document_id
from echo_ray import Columns, EchoBatchEmbedder

TEXTS = ["Paris", "The river froze\ntwice", "  漢字 🎉 ", "Paris", "long " * 200]


@pytest.fixture(scope="module")
def embed(config, runtime):
    return EchoBatchEmbedder(config, runtime)


def vectors(table: pa.Table, name: str = "vector") -> np.ndarray:
    return np.array(table[name].to_pylist(), dtype=np.float32)


@pytest.mark.parametrize(
    "batch",
    [pa.table({"text": TEXTS}), {"text": np.array(TEXTS, dtype=object)}, pd.DataFrame({"text": TEXTS})],
    ids=["arrow", "numpy", "pandas"],
)
def test_every_format_of_a_batch_gets_the_cores_vectors_ids_and_fingerprint(embed, encoder, batch):
    table = embed(batch)
    assert table.column_names == ["text", "id", "vector", "fingerprint"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), encoder.dimension)
    assert np.abs(vectors(table) - encoder.encode_documents(TEXTS)).max() <= 1e-5
    assert table["id"].to_pylist() == [document_id(text) for text in TEXTS]
    assert set(table["fingerprint"].to_pylist()) == {encoder.fingerprint}
    assert table["text"].to_pylist() == TEXTS


def test_other_columns_stay_as_they_are(embed):
    images = np.arange(12).reshape(2, 2, 3)
    table = embed({"text": np.array(["a", "b"], dtype=object), "number": np.array([1, 2]), "image": images})
    assert table["number"].to_pylist() == [1, 2]
    assert np.array_equal(np.stack(table["image"].to_pylist()), images)


def test_roles_and_variables_come_from_columns(tiny_llama, runtime):
    template = "{context}: {text}. Again: [[{text}]]"
    asked = "Find {text} in {context}: [[{text}]]"
    config = EchoConfig(str(tiny_llama), document_template=template, query_template=asked)
    stage = EchoBatchEmbedder(config, runtime, Columns(role="kind", variables=("context",)))
    kinds, contexts = ["query", "document", "query"], ["one", "two", "three"]
    table = stage(pa.table({"text": TEXTS[:3], "kind": kinds, "context": contexts}))
    encoder = stage._encoder
    for i, kind in enumerate(kinds):
        encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
        expected = encode(TEXTS[i : i + 1], variables={"context": contexts[i : i + 1]})
        assert np.abs(vectors(table)[i] - expected[0]).max() <= 1e-5


def test_queries_are_said_as_queries(config, runtime, encoder):
    table = EchoBatchEmbedder(config, runtime, role="query")(pa.table({"text": TEXTS}))
    assert np.abs(vectors(table) - encoder.encode_queries(TEXTS)).max() <= 1e-5


def test_half_precision_is_stored_as_such(config, runtime, encoder):
    table = EchoBatchEmbedder(config, runtime, vector_dtype="float16")(pa.table({"text": TEXTS}))
    assert table.schema.field("vector").type == pa.list_(pa.float16(), encoder.dimension)
    assert np.abs(vectors(table) - encoder.encode_documents(TEXTS)).max() <= 1e-3


BAD = ["Paris", None, " ", "too long " * 40, "The river froze", "also too long " * 40]


def test_bad_rows_get_an_error_and_the_others_their_vectors(tiny_llama, runtime):
    strict = EchoConfig(str(tiny_llama), max_tokens=64, overflow="error")
    stage = EchoBatchEmbedder(strict, runtime, on_error="column")
    table = stage(pa.table({"text": pa.array(BAD, pa.string())}))
    errors = table["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, False, False, True, False]
    assert errors[1] == "text must be a string, got NoneType"
    assert errors[2] == "text must not be empty or blank"
    assert "must have at most max_tokens=64 tokens" in errors[3]
    assert [vector is None for vector in table["vector"].to_pylist()] == [error is not None for error in errors]
    expected = stage._encoder.encode_documents([BAD[0], BAD[4]])
    good = table.filter(pa.array([error is None for error in errors]))
    assert np.abs(vectors(good) - expected).max() <= 1e-5


def test_a_bad_row_ends_the_job_unless_told_and_is_named_by_id_without_its_text(tiny_llama, runtime):
    strict = EchoConfig(str(tiny_llama), max_tokens=64, overflow="error")
    stage = EchoBatchEmbedder(strict, runtime)
    with pytest.raises(EchoError, match=rf"the text with id {document_id(BAD[3])}: must have at most") as error:
        stage(pa.table({"text": [BAD[0], BAD[3]]}))
    assert "too long too long" not in str(error.value)
    with pytest.raises(EchoError, match="row 1 of a batch of 2: text must not be empty"):
        stage(pa.table({"text": ["a", ""]}))


def test_a_blank_text_gets_zeros_where_the_config_says_so(tiny_llama, runtime):
    stage = EchoBatchEmbedder(EchoConfig(str(tiny_llama), empty="zero"), runtime)
    table = stage(pa.table({"text": ["", "Paris"]}))
    assert np.array_equal(np.abs(vectors(table)).sum(axis=1) > 0, [False, True])


def test_an_empty_batch_keeps_its_types(embed, encoder):
    table = embed(pa.table({"text": pa.array([], pa.string())}))
    assert table.num_rows == 0
    assert table.schema.field("vector").type == pa.list_(pa.float32(), encoder.dimension)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"role": "passage"}, "role must be one of 'query', 'document', got 'passage'"),
        ({"vector_dtype": "int8"}, "vector_dtype must be one of 'float32', 'float16', got 'int8'"),
        ({"on_error": "ignore"}, "on_error must be one of 'raise', 'column', got 'ignore'"),
        ({"threads": 0}, "threads must be an integer of at least 1, got 0"),
        ({"columns": "body"}, r"columns must be Columns, got 'body'; write Columns\(text='body'\)"),
        ({"columns": Columns(variables=("context",))}, "variables of Columns must be the templates'"),
    ],
)
def test_a_wrong_option_is_refused(config, runtime, options, said):
    with pytest.raises(ConfigError, match=said):
        EchoBatchEmbedder(config, runtime, **options)


def test_the_class_pickles_by_name_and_importing_it_imports_no_torch(run_python):
    assert pickle.loads(pickle.dumps(EchoBatchEmbedder)) is EchoBatchEmbedder
    ran = run_python("import sys, echo_ray.embedder; print({'torch', 'transformers'} & set(sys.modules))")
    assert ran.stdout == "set()\n", ran.stderr
