"""Texts to measure with, made from a seed: words of syllables, frequent ones short, in the lengths of real use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

TOKENS_PER_WORD = 1.06  # of the benchmark's tokenizer on these words; the JSON holds the measured tokens
_VOWELS, _CONSONANTS = "aeiou", "bcdfghklmnprstvw"


@cache
def _words() -> tuple[str, ...]:
    random = np.random.default_rng(1)
    made: dict[str, None] = {}
    while len(made) < 8000:
        syllables = 1 + (len(made) > 200) + (len(made) > 2000)
        parts = (random.choice(list(_CONSONANTS)) + random.choice(list(_VOWELS)) for _ in range(syllables))
        made["".join(parts) + random.choice(["n", "r", "s", "t", ""])] = None
    return tuple(made)


def sample_words(count: int, seed: int = 2) -> list[str]:
    """Words by Zipf's law."""
    words = _words()
    ranks = np.minimum(np.random.default_rng(seed).zipf(1.3, count), len(words)) - 1
    return [words[rank] for rank in ranks]


def texts_of(lengths: np.ndarray, seed: int) -> list[str]:
    """One text for each length in tokens (about)."""
    counts = np.maximum(1, np.round(lengths / TOKENS_PER_WORD)).astype(int)
    words = sample_words(int(counts.sum()), seed)
    ends = np.cumsum(counts)
    return [" ".join(words[end - count : end]).capitalize() for count, end in zip(counts, ends, strict=True)]


def chunks(count: int, seed: int = 3) -> list[str]:
    """Chunks of a RAG index: lognormal, 10 to 400 tokens, mean about 120."""
    lengths = np.random.default_rng(seed).lognormal(np.log(98), 0.65, count)
    return texts_of(np.clip(lengths, 10, 400), seed)


def queries(count: int, seed: int = 4) -> list[str]:
    """Search queries of 5 to 20 tokens."""
    return texts_of(np.random.default_rng(seed).integers(5, 21, count), seed)


def long_documents(count: int, seed: int = 5) -> list[str]:
    """Documents of 1,000 to 4,000 tokens, for a max_tokens that holds 512 a saying."""
    return texts_of(np.random.default_rng(seed).integers(1000, 4001, count), seed)


def mixture(count: int, seed: int = 6) -> list[str]:
    """Queries, chunks and a few long documents, shuffled."""
    long = max(1, count // 50)
    short = (count - long) // 2
    texts = queries(short, seed) + chunks(count - long - short, seed) + long_documents(long, seed)
    return [texts[i] for i in np.random.default_rng(seed).permutation(count)]


WORKLOADS: dict[str, Callable[..., list[str]]] = {
    "chunks": chunks,
    "queries": queries,
    "long": long_documents,
    "mixture": mixture,
}
