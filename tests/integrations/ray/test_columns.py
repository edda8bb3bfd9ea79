"""What a batch's columns say about each of its rows."""

from __future__ import annotations

import pyarrow as pa
import pytest

from echo_core import ConfigError
from echo_core.identity.document_ids import document_id
from echo_ray import Columns
from echo_ray.columns import read_rows


def test_an_id_is_made_from_text_source_and_variables_as_for_any_other_store():
    table = pa.table({"text": ["a", "b", "a"], "source": ["x.md", None, "y.md"], "context": ["c", "d", "c"]})
    rows = read_rows(table, Columns(variables=("context",)), "document", "error")
    expected = [document_id("a", "x.md", {"context": "c"}), document_id("b", None, {"context": "d"})]
    assert [rows.id_of(0), rows.id_of(1)] == expected
    assert rows.id_of(2) not in expected


def test_a_query_and_a_document_of_one_text_have_two_ids():
    table = pa.table({"text": ["a", "a"], "kind": ["query", "document"]})
    rows = read_rows(table, Columns(role="kind"), "document", "error")
    assert rows.id_of(0) != rows.id_of(1) == document_id("a")


def test_each_bad_row_is_told_by_its_column():
    table = pa.table(
        {"text": ["a", None, " ", "b", "c"], "context": ["x", "x", "x", None, "x"], "kind": ["query"] * 4 + ["poem"]}
    )
    rows = read_rows(table, Columns(variables=("context",), role="kind"), "document", "error")
    assert rows.errors[0] is None
    assert rows.errors[1] == "text must be a string, got NoneType"
    assert rows.errors[2] == "text must not be empty or blank"
    assert rows.errors[3] == "context must be a string, got NoneType"
    assert rows.errors[4] == "role must be one of query, document, got 'poem'"
    assert rows.id_of(1) is None
    assert read_rows(table, Columns(), "document", "zero").errors[2] is None


def test_a_missing_or_taken_column_is_an_error_that_names_the_way_out():
    with pytest.raises(ConfigError, match=r"must have the column 'text', got 'body'; name yours in Columns"):
        Columns().check(["body"])
    with pytest.raises(ConfigError, match=r"must not have a column 'id' yet; name another: Columns\(id=…\)"):
        Columns().check(["text", "id"])
    Columns(text="body", id="echo_id").check(["body", "id"])


def test_names_that_stand_for_two_columns_or_for_letters_are_refused():
    """Two columns of one name were added, and the letters of one string were taken for variables."""
    with pytest.raises(ConfigError, match="id, vector, fingerprint and error must have four names"):
        Columns(id="x", vector="x")
    with pytest.raises(TypeError, match=r"variables must be a tuple of names, got one string; write \('context',\)"):
        Columns(variables="context")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("text", None), ("text", ""), ("source", 3), ("role", ""), ("id", None), ("vector", ["v"]), ("variables", (3,))],
    ids=str,
)
def test_what_is_no_name_is_refused_with_its_field(field, wrong):
    """It was looked for among the columns, or given to Arrow as the name of a new one."""
    with pytest.raises(ConfigError, match=f"{field} must be the name of a column, got"):
        Columns(**{field: wrong})


def test_variables_may_be_a_list_and_must_have_an_order():
    for wrong in ({"context"}, None, 3):
        with pytest.raises(TypeError, match="variables must be a tuple of names, got"):
            Columns(variables=wrong)
    assert hash(Columns(variables=["context"], source=None)) == hash(Columns(variables=("context",), source=None))
