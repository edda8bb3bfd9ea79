"""Texts → the rows of those that are not blank, for whoever asks about rows instead of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from echo_core.errors import TextError
from echo_core.text.inputs import is_blank
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.rows import Row


@dataclass(frozen=True)
class Kept:
    """The rows of N texts; a row's ``owner`` is a place in ``places``, the numbers of the texts that are not blank."""

    count: int
    places: list[int]
    rows: list[Row]

    def tokens(self) -> list[int]:
        """The tokens of each of the N texts' rows."""
        tokens = [0] * self.count
        for row in self.rows:
            tokens[self.places[row.spans[0].owner]] += len(row.ids)
        return tokens


def keep_rows(prompts: PromptTokenizer, texts: Sequence[str], values: Mapping[str, Sequence[str]], empty: str) -> Kept:
    """The rows of N texts, checked for their type, said with N values of each further variable of the template.

    Raises:
        TextError: a text is blank, where ``empty`` is "error", too long or cannot be said; names its index.
    """
    places = [i for i, text in enumerate(texts) if not is_blank(text, i, empty)]
    chosen = {name: [column[i] for i in places] for name, column in values.items()}
    try:
        return Kept(len(texts), places, prompts.tokenise([texts[i] for i in places], chosen).rows)
    except TextError as error:
        raise error.at(places[error.index]) from error.__cause__
