from __future__ import annotations

import html
import re

import numpy as np
import pytest

from echo_core.methods.explanation import Said, explain, shares_by_word
from echo_core.methods.key_tokens import Word


def words(*names: str) -> list[Word]:
    return [Word(name, 1.0, (name,)) for name in names]


def test_shares_add_up_to_the_score_from_both_sides():
    chance = np.random.default_rng(0)
    query = Said(("Why", " owls"), chance.normal(size=(2, 8)).astype(np.float32))
    document = Said(("The", " owl", " hunts"), chance.normal(size=(3, 8)).astype(np.float32))
    found = explain(query, document, words("owl"), words("night", "Owl"))
    assert found.score == pytest.approx(float(query.vector @ document.vector))
    for shares in (found.query_shares, found.document_shares):
        assert sum(share for _, share in shares) == pytest.approx(found.score, abs=1e-5)
    assert found.words_in_common == ("Owl",)


def test_tokens_are_added_up_by_the_words_that_white_space_parts():
    shares = ((" sn", 0.1), ("oring", 0.2), (" is", 0.3), ("\n\n", 0.4), ("Loud", 0.5))
    assert shares_by_word(shares) == (("snoring", pytest.approx(0.3)), ("is", 0.3), ("Loud", pytest.approx(0.9)))


def test_it_prints_the_words_of_both_and_what_carries_the_score():
    said = Said((" owls", " hunt"), np.array([[3.0, 0], [0, 1]], dtype=np.float32))
    text = str(explain(said, said, words("owl", "night"), words("owl")))
    assert "score 10.000" in text
    assert re.search(r"query reads as +owl, night\n", text)
    assert re.search(r"carried by +owls 9.000, hunt 1.000", text)


def test_the_heat_map_escapes_every_text_and_keeps_every_character():
    evil = '<script>alert("x")</script>'
    said = Said((evil, " & more"), np.eye(2, dtype=np.float32))
    drawn = explain(said, said, words(evil), words(evil)).to_html()
    assert "<script" not in drawn
    assert html.escape(evil) in drawn
    paragraphs = [html.unescape(re.sub(r"<[^>]+>", "", part)) for part in re.findall(r"<p>(.*?)</p>", drawn)]
    assert evil + " & more" in paragraphs
    assert "http" not in drawn
