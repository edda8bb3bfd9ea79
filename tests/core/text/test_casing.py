from __future__ import annotations

import numpy as np
import pytest
from encoders import encoder_of
from hypothesis import given
from hypothesis import strategies as st

from echo_core import ConfigError, EchoConfig, EchoEncoder
from echo_core.identity.space import describe_space
from echo_core.text.casing import as_said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("HOW DO BEES SURVIVE? THEY CLUSTER.", "How do bees survive? They cluster."),
        ("  (THE LAW) OF 1832, SECTION 4", "  (The law) of 1832, section 4"),
        ("ÄPFEL UND ÖL", "Äpfel und öl"),
        ("3 SHIPS… TWO LEFT", "3 ships… Two left"),
        ("ISTANBUL İÇİN", "Istanbul İçİn"),  # the small letter of İ would be two characters
    ],
)
def test_a_text_in_capitals_is_said_in_sentence_case(text, said):
    assert as_said(text, "sentence") == said
    assert as_said(text, None) == text


@pytest.mark.parametrize("text", ["NASA", "The NASA report", "how do bees survive", "1832 4 7", "日本語 です", ""])
def test_any_other_text_is_said_as_it_is_written(text):
    assert as_said(text, "sentence") == text


@given(st.text(max_size=60))
def test_the_number_of_characters_stays(text):
    assert len(as_said(text.upper(), "sentence")) == len(text.upper())


def test_an_encoder_with_it_embeds_capitals_as_sentence_case_and_all_else_as_without(tiny_llama):
    plain, spoken = encoder_of(tiny_llama), encoder_of(tiny_llama, caps="sentence")
    shouted, written = "WHY DO OWLS HUNT AT NIGHT?", "Why do owls hunt at night?"
    for way in ("encode_queries", "encode_documents"):
        assert np.array_equal(getattr(spoken, way)([shouted]), getattr(plain, way)([written]))
        assert np.array_equal(getattr(spoken, way)([written]), getattr(plain, way)([written]))
    chunks = [(0, 11), (12, len(shouted))]
    assert np.array_equal(spoken.encode_chunks(shouted, chunks), plain.encode_chunks(written, chunks))


def test_it_is_part_of_the_space_where_it_is_on_alone():
    assert "caps" not in describe_space(EchoConfig(), "w")
    assert describe_space(EchoConfig(caps="sentence"), "w")["caps"] == "sentence"


def test_another_value_is_refused():
    with pytest.raises(ConfigError, match="caps must be one of None, 'sentence', got 'lower'"):
        EchoEncoder(EchoConfig(caps="lower"))
