from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.errors import TemplateError
from echo_core.template import TEMPLATES, Piece, parse_template, resolve_template


def test_the_default_template_is_literal_text_literal_and_the_pooled_text():
    pieces = parse_template(TEMPLATES["echo"]).pieces
    assert pieces == (
        Piece("literal", "Rewrite the following paragraph: ", False),
        Piece("variable", "text", False),
        Piece("literal", ". The rewritten paragraph: ", False),
        Piece("variable", "text", True),
    )


def test_doubled_braces_are_literal_braces():
    pieces = parse_template('{{"a": {{[[{text}]]}}}}').pieces
    assert [piece.value for piece in pieces] == ['{"a": {', "text", "}}"]


def test_bos_and_eos_are_the_tokenizers_own_and_not_variables():
    template = parse_template("{bos}Query: [[{text}{eos}]]")
    assert template.variables == {"text"}
    assert [piece.kind for piece in template.pieces] == ["special", "literal", "variable", "special"]


def test_further_variables_are_found_and_the_sayings_counted():
    template = parse_template("{context}: {text}, {text}, [[{text} {instruction}]]")
    assert template.variables == {"text", "context", "instruction"}
    assert template.sayings == 3


@pytest.mark.parametrize(
    ("source", "problem", "place"),
    [
        ("say {text}", "no pooled region", 10),
        ("", "no pooled region", 0),
        ("[[{text}]] and [[{text}]]", "second [[", 15),
        ("[[ [[{text}]] ]]", "second [[", 3),
        ("[[]] {text}", "is empty", 2),
        ("[[{text}", "never closed", 8),
        ("{text}]]", "]] without [[", 6),
        ("[[nothing]]", "{text} does not occur", 11),
        ("[[{text]]", "single {", 2),
        ("[[text}]]", "single }", 6),
        ("[[{}{text}]]", "not a variable", 2),
        ("[[{text }]]", "not a variable", 2),
        ("[[{1st}{text}]]", "not a variable", 2),
        ("[[{text!r}]]", "not a variable", 2),
    ],
)
def test_a_mistake_is_named_with_its_place(source: str, problem: str, place: int):
    with pytest.raises(TemplateError) as caught:
        parse_template(source)
    assert problem in str(caught.value)
    assert f"(at character {place})" in str(caught.value)


def test_the_arrow_points_at_the_mistake_in_a_long_template_with_line_breaks():
    source = "line one\nline two " * 5 + "{oops" + " and more" * 5
    with pytest.raises(TemplateError) as caught:
        parse_template(source)
    shown, arrow = str(caught.value).splitlines()[1:]
    assert shown[arrow.index("^")] == "{"


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(TemplateError, match=r"'ecco'.*echo, classical"):
        resolve_template("ecco")


@pytest.mark.parametrize("wrong", [None, 3, b"[[{text}]]", ["[[{text}]]"]])
def test_a_template_that_is_no_string_is_refused(wrong: object):
    with pytest.raises(TemplateError, match="must be a string"):
        resolve_template(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_built_in_template_is_well_formed(name: str):
    assert resolve_template(name) == TEMPLATES[name]
    assert any(piece.pooled for piece in parse_template(TEMPLATES[name]).pieces)


@given(st.text(alphabet="ab {}[]\n", max_size=30))
def test_any_string_is_parsed_back_to_itself_or_refused_with_a_template_error(source: str):
    try:
        template = parse_template(source)
    except TemplateError:
        return
    written = {
        "literal": lambda v: v.replace("{", "{{").replace("}", "}}"),
        "variable": "{{{}}}".format,
        "special": "{{{}}}".format,
    }
    plain = "".join(written[piece.kind](piece.value) for piece in template.pieces)
    assert plain == source.replace("[[", "").replace("]]", "")
