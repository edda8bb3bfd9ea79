"""Records: ids from the content, columns of equal length."""

import pytest

from echo_chroma import document_id
from echo_chroma.records import Record, check_ids, read_records
from echo_core import EchoError


def records_of(texts, metadatas=None, ids=None, variables=None):
    return list(read_records(texts, metadatas, ids, variables))


def test_a_record_has_its_number_its_metadata_and_the_values_of_the_variables():
    first, second = records_of(
        ["one", "two"], [{"source": 7}, {}], variables={"language": "English", "context": iter(["a", "b"])}
    )
    variables = {"language": "English", "context": "a"}
    assert first == Record(0, document_id("one", "7", variables), "one", {"source": 7}, variables)
    assert (second.number, second.metadata, second.variables["context"]) == (1, None, "b")


def test_a_given_id_is_kept_and_a_made_one_is_the_hash_of_text_and_source():
    assert [record.id for record in records_of(["one", "two"], ids=["1", "2"])] == ["1", "2"]
    assert records_of(["one"])[0].id == document_id("one")
    assert records_of(["one"], [{"source": "book"}])[0].id == document_id("one", "book")


def test_ids_that_are_stored_somewhere_never_change():
    """A collection filled by an older release must know its texts again."""
    assert document_id("the sea rises") == "e4165a192af1573f7822a1ecc497d6ae"
    assert document_id("the sea rises", "tides.md") == "e303a4c2e5b6c40398b60b67b2c691cc"


def test_ids_do_not_collide_when_text_source_and_values_shift():
    made = [
        document_id("a"),
        document_id("a", ""),
        document_id("a", "b c"),
        document_id("a b", "c"),
        document_id("a", variables={"b": "c"}),
        document_id("a", "b", {"c": "d"}),
        document_id("a", variables={"b": "c", "d": "e"}),
    ]
    assert len(set(made)) == len(made)
    assert document_id("a", variables={"d": "e", "b": "c"}) == made[-1], (
        "the order in which values are given says nothing"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"metadatas": [{"a": 1}]}, "metadatas must be as many as texts, 2, got 1"),
        ({"ids": ["1", "2", "3"]}, "ids must be as many as texts, 2, got 3"),
        ({"variables": {"context": ["a"]}}, "variable 'context' must be as many as texts, 2, got 1"),
        ({"metadatas": iter([{"a": 1}])}, "shorter"),
        ({"variables": {"context": iter(["a"])}}, "shorter"),
        ({"ids": ["1", "2"], "variables": {"context": "a"}}, "ids must be left out where variables are given"),
    ],
    ids=str,
)
def test_columns_that_do_not_fit_the_texts_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        records_of(["one", "two"], **columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"metadatas": {"source": "a"}}, "metadatas must be a list with one item for each text, got dict"),
        ({"ids": "12"}, "ids must be a list with one item for each text, got str"),
        ({"ids": {"1", "2"}}, "ids must be a list with one item for each text, got set"),
        ({"variables": {"context": 3}}, "variable 'context' must be a list with one item for each text, got int"),
        ({"variables": {"context": ["a", None]}}, "variable 'context' of text 1 must be a string, got NoneType"),
    ],
    ids=str,
)
def test_what_is_no_column_of_strings_is_refused(columns, message):
    with pytest.raises(TypeError, match=message):
        records_of(["one", "two"], **columns)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("page", "must be a dict or None, got str"),
        ([("page", 1)], "must be a dict or None, got list"),
        ({"page": {}}, "cannot be stored: Expected metadata value"),
        ({"page": []}, "cannot be stored: Expected metadata list value"),
        ({3: "page"}, "cannot be stored: Expected metadata key"),
        ({"page": "\ud800"}, "cannot be stored: 'utf-8'"),
        ({"": 1}, "'' must have a name"),
        ({"page": float("nan")}, "'page' must have a name, and a finite value"),
        ({"pages": [1.5, float("inf")]}, "'pages' must have a name, and a finite value"),
        ({"page": 2**63}, "at most 64 bits, got 9223372036854775808"),
    ],
    ids=str,
)
def test_metadata_that_a_store_would_refuse_after_embedding_or_lose_is_refused_and_named(metadata, message):
    """Chroma drops NaN and infinity without a word, and rounds large integers."""
    with pytest.raises((TypeError, ValueError), match=f"^metadata of text 1.*{message}"):
        records_of(["one", "two"], [None, metadata])


def test_metadata_is_kept_but_for_what_is_none():
    metadata = {"a": "", "b": 0, "c": False, "d": -(2**63), "e": [0.5], "f": None}
    (record,) = records_of(["one"], [metadata])
    assert record.metadata == {key: value for key, value in metadata.items() if value is not None}
    assert records_of(["one"], [{"f": None}])[0].metadata is None


def test_ids_must_be_distinct_strings():
    check_ids(["1", "2"])
    with pytest.raises(EchoError, match="'1' for text 0 and for text 2"):
        check_ids(["1", "2", "1"])
    for wrong in (3, "", None):
        with pytest.raises(TypeError, match="id 1 must be a string with at least one character"):
            check_ids(["1", wrong])
        with pytest.raises(TypeError, match="id 1 must be"):
            records_of(["one", "two"], ids=iter(["1", wrong]))


@pytest.mark.parametrize("name", ["metadatas", "ids"])
def test_a_table_is_no_column(name):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=f"{name} must be a list with one item for each text, got DataFrame"):
        records_of(["one"], **{name: pandas.DataFrame({"a": [1]})})
    with pytest.raises(TypeError, match="one column"):
        records_of(pandas.DataFrame({"text": ["one"]}))
    frame = pandas.DataFrame({"text": ["one"], "id": ["7"]})
    assert records_of(frame["text"], ids=frame["id"])[0].id == "7"


def test_texts_must_be_strings_in_a_list():
    with pytest.raises(TypeError, match="put it in a list"):
        records_of("one")
    with pytest.raises(TypeError, match="text 1 must be a string"):
        records_of(["one", None])
