"""Sparse vectors: the tokens that a state is aligned with (arXiv 2406.17378), as a row over the model's vocabulary.

A row's weights are log(1 + relu(score)), as SPLADE's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_core.methods.finish import Vectors
from echo_core.methods.key_tokens import STOP_WORDS, top_tokens
from echo_core.methods.sparse_matrix import Row
from echo_core.methods.sparse_options import SparseOptions

TEXTS = 512  # whose scores are there at one time
PROMPTREPS_SCALE = 100  # of its weights, which it rounds to whole numbers


def weigh(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """log(1 + relu(score)) of each score, float32."""
    return np.asarray(np.log1p(np.maximum(scores, 0)), dtype=np.float32)


def own_words(text: str) -> str:
    """The text's words in lower case without stop words, each after a space, as they are said to the tokenizer."""
    return "".join(f" {word}" for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS)


def sparse_rows(
    vectors: Vectors, own: Sequence[Sequence[int]] | None, head: Tensor, options: SparseOptions, role: str
) -> Iterator[Row]:
    """The row of each of N texts.

    Args:
        vectors: (N, D) states, less what all texts share; zeros for a text that says nothing.
        own: the ids of each text's own words, where the options ask for them (``needs_words``).
        head: (V, D), any float dtype.
        options: what a row is made of.
        role: of the texts.
    """
    count = options.count(role)
    rows: Iterator[Row]
    if options.tokens == "text" and own is not None:
        rows = (_own_row(vector, ids, head, count) for vector, ids in zip(vectors, own, strict=True))
    else:
        rows = aligned_rows(vectors, head, count)
    if options.queries == "expanded" and role == "query" and own is not None:
        return (_expanded(row, ids) for row, ids in zip(rows, own, strict=True))
    return rows


def needs_words(options: SparseOptions, role: str) -> bool:
    """True where a text's own words count."""
    return options.tokens == "text" or (options.queries == "expanded" and role == "query")


def aligned_rows(vectors: Vectors, head: Tensor, count: int) -> Iterator[Row]:
    """The ``count`` tokens that each of N vectors is aligned with most, those with a score above 0."""
    if count == 0:
        yield from ((np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in vectors)
        return
    for start in range(0, len(vectors), TEXTS):
        ids, scores = top_tokens(vectors[start : start + TEXTS], head, min(count, len(head)))
        for row, weights in zip(ids.numpy(), weigh(scores.numpy()), strict=True):
            yield row[weights > 0], weights[weights > 0]


def _own_row(vector: NDArray[np.float32], own: Sequence[int], head: Tensor, count: int) -> Row:
    """The weights of a text's own tokens as PromptReps has them: whole numbers, a hundred for 1."""
    ids = np.unique(np.asarray(own, dtype=np.int64))
    scores = head[torch.from_numpy(ids)].float().numpy() @ vector
    weights = np.round(PROMPTREPS_SCALE * weigh(scores))
    best = np.argsort(-weights, kind="stable")[:count]
    best = best[weights[best] > 0]
    return ids[best], weights[best]


def _expanded(aligned: Row, own: Sequence[int]) -> Row:
    ids = np.union1d(aligned[0], np.asarray(own, dtype=np.int64))
    return ids, np.ones(len(ids), dtype=np.float32)
