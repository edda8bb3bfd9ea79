"""A user's sample, labelled or not, as queries and documents with a figure of merit.

Pure functions on vectors, no model.

Three kinds: (text, text, score) triples are judged by Spearman's rank correlation; (query, document) pairs by nDCG@10
of each query's own document among all of the sample; single texts, without any label, by whether the first half of a
text finds its second half in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_core.errors import ConfigError, is_number
from echo_core.methods.finish import Vectors, unit
from echo_core.text.inputs import check_collection

Merit = Callable[[NDArray[np.intp]], float]  # the figure over some of the items, × 100
LEAST = 16  # items: with fewer, a half says nothing
_DEPTH = 10


@dataclass(frozen=True)
class Sample:
    """N queries and documents that belong together, one pair an item.

    And the scores that people gave the pairs, if any.
    """

    queries: list[str]
    documents: list[str]
    scores: tuple[float, ...] | None
    metric: str

    def __len__(self) -> int:
        return len(self.queries)

    def part(self, places: Sequence[int]) -> Sample:
        """Some of the items."""
        scores = None if self.scores is None else tuple(self.scores[i] for i in places)
        return Sample([self.queries[i] for i in places], [self.documents[i] for i in places], scores, self.metric)

    def judge(self, queries: Vectors, documents: Vectors) -> Merit:
        """The figure of merit of the vectors (N, D) of queries and documents, for any choice of items."""
        ours, theirs = unit(queries), unit(documents)
        if self.scores is None:
            gains = _gains(ours, theirs, self.documents)
            return lambda chosen: 100 * float(gains[chosen].mean())
        cosines, gold = np.einsum("nd,nd->n", ours, theirs), np.asarray(self.scores)
        return lambda chosen: 100 * spearman(cosines[chosen], gold[chosen])


def read_sample(items: Iterable[object]) -> Sample:
    """The sample behind a list of texts, of (query, document) pairs or of (text, text, score) triples.

    Raises:
        ConfigError: fewer than LEAST items, or items of no or of several kinds.
        TypeError: no list, but one string, a dict or a table.
    """
    items = list(check_collection(items))
    kinds = {_kind(item) for item in items}
    if len(items) < LEAST or len(kinds) != 1 or None in kinds:
        wanted = "texts of two words or more, (query, document) pairs or (text, text, score) triples, all of one kind"
        other = next(
            (f"; item {i} is none of them: {item!r:.60}" for i, item in enumerate(items) if not _kind(item)), ""
        )
        kept = len(kinds - {None})
        raise ConfigError(f"sample must be {LEAST} or more {wanted}, got {len(items)} items of {kept} kinds{other}")
    if kinds == {"text"}:
        halves = [_halves(str(item)) for item in items]
        return Sample(
            [first for first, _ in halves], [second for _, second in halves], None, "nDCG@10 of second halves"
        )
    rows: list[tuple[str, str, float]] = [(*item, 0.0)[:3] for item in items]  # type: ignore[misc]
    scores = tuple(float(row[2]) for row in rows) if kinds == {"triple"} else None
    return Sample(
        [row[0] for row in rows], [row[1] for row in rows], scores, "nDCG@10" if scores is None else "Spearman"
    )


def spearman(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Correlation of the ranks, ties sharing theirs; 0 where either is constant."""
    first, second = (_ranks(values) - (len(values) - 1) / 2 for values in (one, other))
    length = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / length) if length else 0.0


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[places])


def _gains(queries: Vectors, documents: Vectors, texts: Sequence[str]) -> NDArray[np.float64]:
    """nDCG@10 of each query: its one right document, equal ones counted once, at rank r gives 1 / log2(1 + r)."""
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    distinct = sorted(first.values())
    right = np.searchsorted(distinct, [first[text] for text in texts])
    similarities = queries @ documents[distinct].T
    own = similarities[np.arange(len(queries)), right]
    ranks = (similarities >= own[:, None]).sum(axis=1)  # a tie counts against it
    return np.where(ranks <= _DEPTH, 1 / np.log2(1 + ranks), 0.0)


def _kind(item: object) -> str | None:
    if isinstance(item, str):
        return "text" if len(item.split()) > 1 else None
    if not isinstance(item, tuple | list) or not all(isinstance(part, str) and part.strip() for part in item[:2]):
        return None
    numbers = [is_number(part) or (isinstance(part, np.number) and bool(np.isfinite(part))) for part in item[2:]]
    return {(2, ()): "pair", (3, (True,)): "triple"}.get((len(item), tuple(numbers)))


def _halves(text: str) -> tuple[str, str]:
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
