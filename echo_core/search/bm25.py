"""BM25 over texts by id, by the library bm25s: words as they are written, beside what vectors mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from echo_core.errors import ConfigError
from echo_core.search.hybrid import Scores
from echo_core.text.inputs import check_one_each, check_texts, listed_ids

K1, B = 1.2, 0.75  # Lucene's defaults
STOP_WORDS = "en"  # English ones are left out; bm25s has lists of some languages, by these names


class BM25Index:
    """The words of N documents. It is made anew when one changes, as a word's weight depends on all documents."""

    def __init__(
        self, ids: Sequence[str], texts: Sequence[str], stop_words: str | list[str] | None = STOP_WORDS
    ) -> None:
        """Index the texts.

        Args:
            ids: of N documents, each once.
            texts: N. A word is a run of two or more letters or digits, in any case.
            stop_words: left out of documents and queries: a language of bm25s, a list, or None.

        Raises:
            ImportError: bm25s is not installed.
            ConfigError: another number of ids than of texts, an id that is there twice, or no such stop words.
            TypeError: no list of texts or of ids.
        """
        self.ids = tuple(listed_ids(ids))
        self._stop_words = _checked_stop_words(stop_words)
        documents = check_texts(texts)
        check_one_each(self.ids, len(documents), "texts")
        tokens = self._tokens(documents, return_ids=True)
        self._found = import_bm25s().BM25(k1=K1, b=B)
        self._is_empty = not any(map(len, tokens.ids))
        if not self._is_empty:
            self._found.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Scores:
        """The scores (Q, N) float32 of Q queries, in the order of ``ids``; 0 where no word is shared.

        Raises:
            TypeError: no list of texts.
        """
        asked = check_texts(queries)
        scores = np.zeros((len(asked), len(self.ids)), dtype=np.float32)
        if self._is_empty or not asked:
            return scores
        for line, words in zip(scores, self._tokens(asked, return_ids=False), strict=True):
            if words:
                line[:] = self._found.get_scores(words)
        return scores

    def _tokens(self, texts: list[str], return_ids: bool) -> Any:
        return import_bm25s().tokenize(
            texts, stopwords=self._stop_words or [], return_ids=return_ids, show_progress=False
        )


def _checked_stop_words(given: object) -> str | list[str] | None:
    """The stop words as bm25s takes them; it knows a language by its name alone, and takes True for English."""
    if isinstance(given, str):
        try:
            import_bm25s().tokenize(["a"], stopwords=given, show_progress=False)
        except ValueError as error:
            raise ConfigError(f"stop_words must be a language of bm25s, got {given!r} ({error})") from error
        return given
    if given is not None and not (isinstance(given, Iterable) and all(isinstance(word, str) for word in given)):
        raise TypeError(f"stop_words must be a language, a list of words or None, got {type(given).__name__}")
    return None if given is None else list(given)


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
