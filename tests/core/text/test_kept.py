"""Rows of the texts that are not blank, and how many tokens each text costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from encoders import LONG, encoder_of
from nasty_texts import PLAIN

from echo_core import EmptyTextError, UnencodableTextError


def test_the_tokens_of_a_text_are_those_that_the_model_runs(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, max_tokens=128)
    for text in PLAIN:
        before = encoder.statistics()
        encoder.encode_documents([text])
        after = encoder.statistics()
        ran = after.tokens - after.padding - before.tokens + before.padding
        assert encoder.count_tokens([text]) == [ran]


def test_all_windows_of_a_long_text_count(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, max_tokens=32)
    windows = encoder.explain_tokens(LONG).splitlines()
    assert len(windows) > 2
    assert encoder.count_tokens([LONG]) == [sum(line.count("|") + line.count("[[") + 1 for line in windows)]
    assert encoder.count_tokens([LONG, PLAIN[0]]) == [*encoder.count_tokens([LONG]), *encoder.count_tokens(PLAIN[:1])]


def test_a_blank_text_costs_nothing_where_it_gets_zeros_and_is_an_error_elsewhere(tiny_llama: Path):
    counts = encoder_of(tiny_llama, empty="zero").count_tokens(["", "Paris", " "])
    assert counts[0] == counts[2] == 0 < counts[1]
    with pytest.raises(EmptyTextError, match="text 1 must not be empty"):
        encoder_of(tiny_llama).count_tokens(["Paris", ""])


def test_an_error_names_the_text_by_its_place_among_all(tiny_llama: Path):
    with pytest.raises(UnencodableTextError) as error:
        encoder_of(tiny_llama, empty="zero").count_tokens(["", "Paris", "\ud800"])
    assert error.value.index == 2


def test_both_roles_and_an_instruction_count(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, query_template="finetuned-query")
    short, long = (encoder.count_tokens(["Paris"], "query", instruction=given)[0] for given in ("Find", "Find it all"))
    assert short < long
    assert encoder.count_tokens([]) == []
