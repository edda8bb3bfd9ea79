"""BM25 over texts by id, by the library bm25s: words as they are written, beside what vectors mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from echo_core.search.hybrid import Scores

K1, B = 1.2, 0.75  # Lucene's defaults
STOP_WORDS = "en"  # English ones are left out; bm25s has lists of some languages, by these names


class BM25Index:
    """The words of N documents. It is made anew when one changes, as a word's weight depends on all documents."""

    def __init__(
        self, ids: Sequence[str], texts: Sequence[str], stop_words: str | list[str] | None = STOP_WORDS
    ) -> None:
        """Index the texts.

        Args:
            ids: of N documents.
            texts: N.
            stop_words: left out of documents and queries: a language of bm25s, a list, or None.

        Raises:
            ImportError: bm25s is not installed.
        """
        self.ids = tuple(ids)
        self._stop_words = stop_words
        self._library = import_bm25s()
        tokens = self._tokens(texts, return_ids=True)
        self._found = self._library.BM25(k1=K1, b=B)
        self._is_empty = not any(map(len, tokens.ids))
        if not self._is_empty:
            self._found.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Scores:
        """The scores (Q, N) float32 of Q queries, in the order of ``ids``; 0 where no word is shared."""
        scores = np.zeros((len(queries), len(self.ids)), dtype=np.float32)
        if self._is_empty or not queries:
            return scores
        for line, words in zip(scores, self._tokens(queries, return_ids=False), strict=True):
            if words:
                line[:] = self._found.get_scores(words)
        return scores

    def _tokens(self, texts: Sequence[str], return_ids: bool) -> Any:
        return self._library.tokenize(
            list(texts), stopwords=self._stop_words or [], return_ids=return_ids, show_progress=False
        )


def import_bm25s() -> Any:
    """The library.

    Raises:
        ImportError: it is not installed; names the extra.
    """
    try:
        import bm25s
    except ModuleNotFoundError as error:
        raise ImportError("BM25 needs bm25s; install it with: pip install 'echo-embed[hybrid]'") from error
    return bm25s
