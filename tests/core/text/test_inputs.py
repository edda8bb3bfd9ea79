from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("datasets")

import pandas as pd
from datasets import Dataset

from echo_core.errors import EmptyTextError, VariableError
from echo_core.template import parse_template
from echo_core.text.inputs import check_collection, check_text, fill_variables, is_blank

PLAIN = parse_template("{text} [[{text}]]")
WITH = parse_template("{instruction} {context} {text} [[{text}]]")


@pytest.mark.parametrize("texts", [["a"], ("a",), iter(["a"]), (t for t in "a"), {"k": "a"}.values()])
def test_any_ordered_collection_will_do(texts: object):
    assert list(check_collection(texts)) == ["a"]


@pytest.mark.parametrize("texts", [b"a", {"a": 1}, {"a"}, frozenset("a"), None, 3])
def test_what_has_no_order_or_no_items_is_refused(texts: object):
    with pytest.raises(TypeError, match=f"must be a list of strings, got {type(texts).__name__}"):
        check_collection(texts)


def test_one_string_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"got one string; put it in a list"):
        check_collection("a")


@pytest.mark.parametrize("wrong", [None, b"a", 3, 1.5, ["a"], float("nan")])
def test_an_item_that_is_no_string_is_named_by_index_and_type(wrong: object):
    with pytest.raises(TypeError, match=f"text 7 must be a string, got {type(wrong).__name__}"):
        check_text(wrong, 7)


@pytest.mark.parametrize("blank", ["", " ", "\n\t ", "\u00a0\u2003\u3000"])
def test_a_blank_text_is_an_error_or_a_zero_vector(blank: str):
    with pytest.raises(EmptyTextError, match=r"text 3 must not be empty or blank.*empty='zero'"):
        is_blank(blank, 3, "error")
    assert is_blank(blank, 3, "zero")


@pytest.mark.parametrize("text", ["a", " . ", "\x00", "\u200b"])
def test_a_text_with_any_visible_or_control_character_is_not_blank(text: str):
    assert not is_blank(text, 0, "error")


def test_values_come_from_the_call_before_the_config():
    assert fill_variables(PLAIN, 2, "default", None, None) == {}
    both = {"context": ["x", "y"]}
    assert fill_variables(WITH, 2, "default", None, both) == {
        "context": ["x", "y"],
        "instruction": ["default", "default"],
    }
    assert fill_variables(WITH, 2, "default", "call", both)["instruction"] == ["call", "call"]
    assert fill_variables(WITH, 2, "default", None, {**both, "instruction": "given"})["instruction"] == [
        "given",
        "given",
    ]


@pytest.mark.parametrize(
    ("template", "instruction", "given", "message"),
    [
        (WITH, None, {"context": "c"}, r"needs a value for \{instruction\}"),
        (WITH, "i", None, r"needs a value for \{context\}; given: \['instruction'\]"),
        (WITH, "i", {"context": "c", "contxt": "c"}, r"has no variable \{contxt\}"),
        (PLAIN, "i", None, r"has no variable \{instruction\}"),
        (PLAIN, None, {"text": "t"}, r"has no variable \{text\}"),
        (WITH, "i", {"context": ["a"]}, "one value for each of the 2 texts, got 1"),
    ],
)
def test_missing_and_superfluous_values_are_named(template, instruction, given, message: str):
    with pytest.raises(VariableError, match=message):
        fill_variables(template, 2, None, instruction, given)


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "int"), (None, "NoneType"), (["a", None], "NoneType"), (iter("ab"), "iterator")]
)
def test_a_value_that_is_no_string_is_a_type_error(value: object, kind: str):
    with pytest.raises(TypeError, match=rf"variable 'context' must .*{kind}"):
        fill_variables(parse_template("{context} [[{text}]]"), 2, None, None, {"context": value})  # type: ignore[dict-item]


@pytest.mark.parametrize("texts", [np.array(["a", "b"]), np.array(["a", "b"], dtype=object), pd.Series(["a", "b"])])
def test_arrays_and_columns_of_one_dimension_will_do(texts: object):
    assert list(check_collection(texts)) == ["a", "b"]


@pytest.mark.parametrize(
    "texts",
    [pd.DataFrame({"text": ["a"]}), np.array([["a"]]), Dataset.from_dict({"text": ["a"]})],
    ids=lambda t: type(t).__name__,
)
def test_a_table_is_refused_with_the_way_out(texts: object):
    """A DataFrame iterates over its labels: the word "text" was embedded, once."""
    with pytest.raises(TypeError, match=rf"got {type(texts).__name__}, a table; pass one column, as texts\['text'\]"):
        check_collection(texts)


def test_an_array_of_no_dimension_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"got ndarray of one value; put it in a list: \[text\]"):
        check_collection(np.array("a"))


def test_a_mapping_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"got dict; give its values: list\(texts.values\(\)\)"):
        check_collection({"a": "b"})


@pytest.mark.parametrize("given", ["context", ["context"], [("context", "a book")], 3], ids=repr)
def test_what_is_no_mapping_of_variables_is_refused(given):
    """A string was "dictionary update sequence element #0 has length 1"."""
    with pytest.raises(TypeError, match=r"variables must be a dict, as .*, got (str|list|int)"):
        fill_variables(parse_template("{context}: {text}. Again: [[{text}]]"), 1, None, None, given)
