"""The first sentence of a text, which stands for a question about it where there are no questions."""

from __future__ import annotations

import re

_END = re.compile(r"[.!?…](?=\s)|[。！？]")


def first_sentence(text: str) -> str:
    """The text up to where its first sentence ends; all of it, if no end is found."""
    end = _END.search(text)
    return text if end is None else text[: end.end()]
