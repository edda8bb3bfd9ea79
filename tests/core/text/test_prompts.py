from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_texts import ALL, PLAIN
from oracle import PIECES, Oracle
from tiny_tokenizers import TEXT_TOKENIZERS, TOKENIZERS

from echo_core.config import EchoConfig
from echo_core.errors import ModelError, TextTooLongError, UnencodableTextError
from echo_core.template import TEMPLATES
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.tokenizer import TextTokenizer

OWN = {name: TOKENIZERS[name]() for name in TOKENIZERS}
WRAPPED = {name: TextTokenizer(own) for name, own in OWN.items()}
LONG = " ".join(PLAIN) * 3
TWO_SEAMS = "Query:{text}\nQuery again: [[{text}]]"


def prompts(tokenizer: str = "byte_level_bos", template: str = "echo", **options: object) -> PromptTokenizer:
    config = EchoConfig(document_template=template, **options)  # type: ignore[arg-type]
    return PromptTokenizer(WRAPPED[tokenizer], config.document_template, config)


def pooled(row) -> list[int]:
    return [int(i) for span in row.spans for i in row.ids[span.start : span.end]]


# ---- ids and the pooled span


@pytest.mark.parametrize("template", PIECES)
@pytest.mark.parametrize("name", TEXT_TOKENIZERS)
def test_ids_and_span_are_those_of_the_template_said_piece_by_piece(name: str, template: str):
    others = {"instruction": ["Find it: {text}"] * len(ALL)} if "query" in template else {}
    tokenised = prompts(name, template, max_tokens=1000).tokenise(ALL, others)
    assert tokenised.long_texts == 0
    for owner, (text, row) in enumerate(zip(ALL, tokenised.rows, strict=True)):
        ids, positions = Oracle(OWN[name], None).ids_and_pooled(
            PIECES[template], {"text": text, "instruction": "Find it: {text}"}
        )
        assert row.ids.tolist() == ids
        assert row.ids.dtype == np.int64
        (span,) = row.spans
        assert (span.owner, list(range(span.start, span.end))) == (owner, positions)


@pytest.mark.parametrize("name", TEXT_TOKENIZERS)
@given(st.text(min_size=1, max_size=30).filter(lambda t: t.strip() and not any("\ud800" <= c <= "\udfff" for c in t)))
def test_both_sayings_have_the_same_ids(name: str, text: str):
    (row,) = prompts(name).tokenise([text], {}).rows
    said = pooled(row)
    rest = row.ids[: row.spans[0].start].tolist()
    assert any(rest[i : i + len(said)] == said for i in range(len(rest)))


@pytest.mark.parametrize("name", TEXT_TOKENIZERS)
def test_the_bos_is_the_tokenizers_own_and_is_not_doubled(name: str):
    for template in ("echo", "{bos}Say: {text}. Again: [[{text}]]"):
        if OWN[name].bos_token_id is None and "{bos}" in template:
            continue
        (row,) = prompts(name, template).tokenise(["Paris"], {}).rows
        wanted = "{bos}" in template or name not in ("byte_level", "chatml")
        assert row.ids.tolist().count(OWN[name].bos_token_id) == wanted
        assert (row.ids[0] == OWN[name].bos_token_id) == wanted


def test_the_end_token_is_pooled_where_the_template_says_so():
    (row,) = prompts(template="finetuned-document").tokenise(["Paris"], {}).rows
    assert pooled(row)[-1] == row.ids[-1] == OWN["byte_level_bos"].eos_token_id


@pytest.mark.parametrize(("name", "token"), [("no_special", "eos"), ("no_special", "bos"), ("chatml", "bos")])
def test_a_token_that_the_tokenizer_has_not_is_an_error_with_the_way_out(name: str, token: str):
    with pytest.raises(ModelError, match=rf"must not use \{{{token}\}}.*leave it out"):
        prompts(name, f"{{text}} [[{{text}}{{{token}}}]]")


@pytest.mark.parametrize(
    ("template", "lead"),
    [("{instruction}: {text} [[{text}]]", "Find it:"), ("{text} [[{text}]]", ""), ("A [[b {text}]]", "A b")],
)
def test_a_row_knows_what_is_said_before_its_text(template: str, lead: str):
    row = (
        prompts(template=template)
        .tokenise(["grey rain"], {"instruction": ["Find it"]} if "instruction" in template else {})
        .rows[0]
    )
    said, text = (
        OWN["byte_level_bos"].decode(ids, skip_special_tokens=True).strip()
        for ids in (row.ids[: row.before], row.ids[row.before :])
    )
    assert said == lead
    assert text.startswith("grey")


@pytest.mark.parametrize("name", TEXT_TOKENIZERS)
@pytest.mark.parametrize(
    "template", ["echo", TWO_SEAMS, "{text} [[{text}]]", "[[{text}]]", "{{{text}}} is [[{text}]] {{"]
)
def test_an_instruction_or_text_that_looks_like_a_template_stays_plain(name: str, template: str):
    text = "{text} [[x]] {{y}} </s> <s> <|im_end|>"
    (row,) = prompts(name, template).tokenise([text], {}).rows
    assert OWN[name].decode(pooled(row), clean_up_tokenization_spaces=False).strip() == text


def test_a_text_of_which_the_normaliser_leaves_nothing_is_refused_with_its_index():
    """With the seam's space before it, such a text looked like one token: the space. Its vector meant nothing."""
    for template in ("echo", "{text} [[{text}]]", "classical"):
        with pytest.raises(UnencodableTextError, match="text 1 must give at least one token"):
            prompts("forgetful", template).tokenise(["fine", "\u200b\x00\u200b", "fine"], {})


def test_a_blank_value_of_another_variable_is_allowed():
    (row,) = prompts(template="Context:{context} {text} [[{text}]]").tokenise(["Paris"], {"context": [""]}).rows
    assert len(pooled(row)) > 0


def test_two_megabytes_of_text_become_windows_of_the_right_sum():
    text = "🎉" + " paragraph" * 200_000
    tokenised = prompts("byte_level", max_tokens=200).tokenise([text], {})
    own = OWN["byte_level"](" " + text, add_special_tokens=False).input_ids
    assert [i for row in tokenised.rows for i in pooled(row)] == own
    assert tokenised.long_texts == 1


# ---- long texts


@pytest.mark.parametrize("overlap", [0, 5])
@pytest.mark.parametrize("template", ["echo", "classical", TWO_SEAMS])
@pytest.mark.parametrize("name", TEXT_TOKENIZERS)
def test_every_saying_of_a_window_says_the_same_characters(name: str, template: str, overlap: int):
    tokenizer = prompts(name, template, max_tokens=16, overlap=overlap)
    tokenised = tokenizer.tokenise([LONG], {})
    assert tokenised.long_texts == 1
    assert len(tokenised.rows) > 6
    for row in tokenised.rows:
        assert {span.owner for span in row.spans} == {0}
        assert len(pooled(row)) <= 16
        if template == "classical":
            continue
        decoded = OWN[name].decode(row.ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        marks = (":", ". The rewritten paragraph:") if template == "echo" else ("Query:", "\nQuery again:")
        first, second = decoded.split(marks[0], 1)[1].rsplit(marks[1], 1)
        assert first.strip() == second.strip()


@pytest.mark.parametrize("template", ["echo", TWO_SEAMS])
@pytest.mark.parametrize("name", TEXT_TOKENIZERS)
def test_the_windows_together_pool_the_whole_text(name: str, template: str):
    tokenised = prompts(name, template, max_tokens=16).tokenise([LONG], {})
    said = [i for row in tokenised.rows for i in pooled(row)]
    assert (
        said
        == OWN[name]("x " + LONG, add_special_tokens=False).input_ids[
            len(OWN[name]("x", add_special_tokens=False).input_ids) :
        ]
    )


@pytest.mark.parametrize("limit", [3, 4, 5, 16])
@pytest.mark.parametrize("name", TEXT_TOKENIZERS)
def test_a_cut_inside_of_a_characters_bytes_falls_at_the_same_byte_in_both_sayings(name: str, limit: int):
    """An emoji is four tokens that end at the same character; one saying got all of them and the other one a part."""
    before, between = (WRAPPED[name].encode([literal], continuing=True)[0] for literal in (":", "\nQuery again:"))
    rows = (
        prompts(name, ":{text}\nQuery again: [[{text}]]", max_tokens=limit)
        .tokenise(["🎉👩‍👩‍👧 Paris 🇫🇷🎉" * 5], {})
        .rows
    )
    leading = rows[0].ids.tolist().index(before[0]) + len(before)
    for i, row in enumerate(rows):
        first = row.ids[leading : row.spans[0].start - len(between)].tolist()
        assert first == pooled(row) or (i == 0 and first[-1:] == pooled(row)[-1:])


@pytest.mark.parametrize("template", ["echo", TWO_SEAMS])
def test_truncation_keeps_the_beginning_in_both_sayings_and_is_counted(template: str):
    tokenised = prompts(template=template, max_tokens=10, overflow="truncate").tokenise(["Paris", LONG, LONG], {})
    assert tokenised.long_texts == 2
    assert [row.spans[0].owner for row in tokenised.rows] == [0, 1, 2]
    whole = OWN["byte_level_bos"](" " + LONG, add_special_tokens=False).input_ids
    said = pooled(tokenised.rows[1])
    assert 9 <= len(said) <= 10
    assert said == whole[: len(said)]


def test_a_long_text_can_be_an_error_that_names_index_and_length():
    length = len(OWN["byte_level_bos"](" " + LONG, add_special_tokens=False).input_ids)
    with pytest.raises(
        TextTooLongError, match=rf"text 1 must have at most max_tokens=10 tokens, got {length}; use overflow='window'"
    ):
        prompts(max_tokens=10, overflow="error").tokenise(["Paris", LONG], {})


def test_a_text_of_exactly_max_tokens_is_not_long():
    (row,) = prompts(max_tokens=500).tokenise([LONG[:100]], {}).rows
    exactly = len(pooled(row))
    assert prompts(max_tokens=exactly, overflow="error").tokenise([LONG[:100]], {}).long_texts == 0
    with pytest.raises(TextTooLongError):
        prompts(max_tokens=exactly - 1, overflow="error").tokenise([LONG[:100]], {})


# ---- sizes


@pytest.mark.parametrize("template", [name for name, source in TEMPLATES.items() if "{slot}" not in source])
def test_no_row_is_longer_than_the_longest_row_says(template: str):
    tokenizer = prompts(template=template, max_tokens=20)
    others = {name: [""] for name in tokenizer.template.variables - {"text"}}
    left_out = len(others)  # their seam's white space
    assert max(len(row.ids) for row in tokenizer.tokenise([LONG], others).rows) <= tokenizer.longest_row() + left_out
