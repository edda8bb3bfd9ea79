from __future__ import annotations

import pytest

from echo_core.text.sentences import first_sentence


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Bees shiver. They keep warm.", "Bees shiver."),
        ("What is fog? A cloud.", "What is fog?"),
        ("Version 2.11 of it\nis out! At last.", "Version 2.11 of it\nis out!"),
        ("蜜蜂会发抖。它们取暖。", "蜜蜂会发抖。"),
        ("no end", "no end"),
        ("One sentence.", "One sentence."),
        ("", ""),
    ],
)
def test_a_text_ends_after_its_first_sentence(text: str, first: str):
    assert first_sentence(text) == first
