"""Texts in capitals, said in sentence case: models have seen few words in capitals, and lose the meaning of most.

Headings, old catalogues, legal texts and shouting users write so. ``EchoConfig(caps="sentence")`` asks for it; all
other texts are said as they are written.
"""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"(?:^|[.!?…]\s+)[^\w.!?…]*(\w)")


def as_said(text: str, caps: str | None) -> str:
    """The text as a template says it: with ``caps="sentence"`` one of several words in capitals becomes sentence case.

    The number of characters stays, so that offsets in the text stay right: a character whose lower case is longer is
    left as it is.
    """
    return in_sentence_case(text) if caps == "sentence" and is_in_capitals(text) else text


def is_in_capitals(text: str) -> bool:
    """True for a text of two words or more with capital letters and without any small one."""
    return text.isupper() and len(text.split()) > 1


def in_sentence_case(text: str) -> str:
    """The text in small letters, but for the first letter of each sentence."""
    small = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    return _SENTENCE.sub(lambda found: found.group()[:-1] + text[found.end() - 1], small)
