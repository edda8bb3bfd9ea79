"""Why a passage was found: how much of a score each token carries, exact under pooling by weights.

A vector is L(Σ wₜ sₜ) / n, with the states sₜ of the pooled tokens, the weights wₜ of the pooling, what is linear in
``finish`` (mean direction out, filter, cut) as L, and one length n. So the cosine of two vectors is a sum over the
tokens of either: wₜ L(sₜ)·v / n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig
from echo_core.methods.finish import Vectors, finish
from echo_core.methods.heat_map import Share, draw
from echo_core.methods.key_tokens import Word, words_in_common
from echo_core.text.rows import PooledText, Row


@dataclass(frozen=True)
class Said:
    """A text as it was pooled: its T tokens' texts, and their parts (T, D) of the vector, which add up to it."""

    tokens: tuple[str, ...]
    parts: Vectors

    @property
    def vector(self) -> Vectors:
        """The vector (D,) float32."""
        return np.asarray(self.parts.sum(axis=0, dtype=np.float64), dtype=np.float32)


@dataclass(frozen=True)
class Explanation:
    """The score of a query and a document, and what it is made of. Prints as text; a notebook shows a heat map."""

    score: float
    query_shares: tuple[Share, ...]  # (token, its share of the score), in order; they add up to the score
    document_shares: tuple[Share, ...]
    query_words: tuple[Word, ...]  # that the vectors read as
    document_words: tuple[Word, ...]

    @property
    def words_in_common(self) -> tuple[str, ...]:
        """Words that both vectors read as, in the order of the document's."""
        return words_in_common(self.query_words, self.document_words)

    @property
    def document_word_shares(self) -> tuple[Share, ...]:
        """The document's words, as white space parts them, with their shares of the score."""
        return shares_by_word(self.document_shares)

    @property
    def query_word_shares(self) -> tuple[Share, ...]:
        """The query's words, as white space parts them, with their shares of the score."""
        return shares_by_word(self.query_shares)

    def __str__(self) -> str:
        carried: dict[str, float] = {}  # a word that stands there often, once
        for word, share in self.document_word_shares:
            carried[word] = carried.get(word, 0.0) + share
        heaviest = sorted(carried.items(), key=lambda share: -share[1])[:8]
        lines = [
            f"score {self.score:.3f}",
            f"query reads as     {_listed(self.query_words)}",
            f"document reads as  {_listed(self.document_words)}",
            f"in common          {', '.join(self.words_in_common) or 'none'}",
            f"carried by         {', '.join(f'{word} {share:.3f}' for word, share in heaviest)}",
        ]
        return "\n".join(lines)

    def to_html(self) -> str:
        """A heat map of both texts: one self-contained element, its texts escaped, readable on light and dark pages."""
        return draw(
            [
                ("Score", f"{self.score:.3f}"),
                ("Query", self.query_shares),
                ("reads as", _listed(self.query_words)),
                ("Document", self.document_shares),
                ("reads as", _listed(self.document_words)),
                ("In common", ", ".join(self.words_in_common) or "none"),
            ]
        )

    def _repr_html_(self) -> str:
        return self.to_html()


def finish_parts(
    parts: Vectors, config: EchoConfig, basis: NDArray[np.float32] | None = None, role: str = "document"
) -> Vectors:
    """The parts (T, D') of one vector that the parts (T, D) of its pooled state become: they add up to its ``finish``.

    All of ``finish`` but the length is linear, and the length is one number for all parts.
    """
    vectors = finish(parts, replace(config, normalize=False), basis, role)
    length = float(np.linalg.norm(vectors.sum(axis=0, dtype=np.float64))) if config.normalize else 1.0
    return np.asarray(vectors / np.float32(length or 1.0))


def explain(query: Said, document: Said, query_words: Sequence[Word], document_words: Sequence[Word]) -> Explanation:
    """The explanation of a query and a document as they were pooled, with the words that their vectors read as."""
    ours, theirs = query.vector, document.vector
    return Explanation(
        float(ours @ theirs),
        tuple(zip(query.tokens, (query.parts @ theirs).tolist(), strict=True)),
        tuple(zip(document.tokens, (document.parts @ ours).tolist(), strict=True)),
        tuple(query_words),
        tuple(document_words),
    )


def pooled_strings(text: str, said: PooledText, rows: Sequence[Row], token: Callable[[int], str]) -> list[str]:
    """The texts of all pooled tokens of a text's rows, in order: together the characters that were pooled.

    Of the tokens that share a character's bytes, the first one has it and the others are empty.

    Args:
        text: as it was said.
        said: where the tokens of its pooled saying stand.
        rows: of the text, one a window.
        token: gives the text of an id; for what is pooled besides the text.
    """
    strings: list[str] = []
    for row, (start, end) in zip(rows, said.windows, strict=True):
        ids = row.ids[row.spans[0].start : row.spans[0].end].tolist()
        places = [said.ends[start - 1] if start else 0, *said.ends[start:end]]
        strings += [token(i) for i in ids[: said.offset]]
        strings += [text[a:b] for a, b in pairwise(places)]
        strings += [token(i) for i in ids[said.offset + end - start :]]
    return strings


def shares_by_word(shares: Sequence[Share]) -> tuple[Share, ...]:
    """Tokens' shares added up by word: a word begins at a token with white space before it."""
    number, numbers = 0, []
    for token, _ in shares:
        number += token[:1].isspace()
        numbers.append(number)
    groups = groupby(zip(numbers, shares, strict=True), key=lambda item: item[0])
    joined = ([share for _, share in group] for _, group in groups)
    found = (("".join(token for token, _ in part).strip(), sum(share for _, share in part)) for part in joined)
    return tuple((word, share) for word, share in found if word)


def _listed(words: Sequence[Word]) -> str:
    return ", ".join(word.word for word in words)
