"""Late chunking: where a document's chunks, given as character ranges, stand in the rows that say the whole document.

The idea is that of arXiv 2409.04701; here each chunk is pooled in the second saying, where its tokens have seen all of
the document already.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from echo_core.errors import ChunkError
from echo_core.text.rows import PooledText, Row, Span


def check_chunks(document: str, chunks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, each checked to lie within the document and to hold a visible character.

    Raises:
        ChunkError: one does not; names its index.
    """
    for index, (start, end) in enumerate(chunks):
        if not (0 <= start < end <= len(document) and document[start:end].strip()):
            rule = f"must be a (start, end) range of visible text within {len(document)} characters"
            raise ChunkError(index, f"{rule}, got {(start, end)}")
    return [(start, end) for start, end in chunks]


def token_ranges(ends: Sequence[int], chunks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The tokens (start, end) of each chunk: those whose last character stands in it, and at least one.

    So neighbouring chunks never share a token.

    Args:
        ends: for each token of the document, the offset after its last character.
        chunks: (start, end) character ranges.
    """
    ranges = []
    for first_character, end_character in chunks:
        start, end = bisect_left(ends, first_character + 1), bisect_left(ends, end_character + 1)
        start = start if start < end else min(start, len(ends) - 1)
        ranges.append((start, max(end, start + 1)))
    return ranges


def chunk_rows(rows: Sequence[Row], said: PooledText, chunks: Sequence[tuple[int, int]]) -> list[Row]:
    """The rows of a document's windows with the chunks' tokens as spans, owned by the chunk.

    Rows without one are left out.

    Args:
        rows: one a window, its span the pooled region.
        said: the document's tokens.
        chunks: (start, end) character ranges, checked.

    Raises:
        ChunkError: a chunk lies after the cut of ``overflow="truncate"``.
    """
    tokens = token_ranges(said.ends, chunks)
    covered = max(end for _, end in said.windows)
    cut_off = next((index for index, (start, _) in enumerate(tokens) if start >= covered), None)
    if cut_off is not None:
        rule = f"must lie within the first {covered} tokens, which overflow='truncate' keeps"
        raise ChunkError(cut_off, f"{rule}; use overflow='window'")
    found = []
    for row, window in zip(rows, said.windows, strict=True):
        shift = row.spans[0].start + said.offset - window[0]
        cuts = ((i, max(start, window[0]), min(end, window[1])) for i, (start, end) in enumerate(tokens))
        spans = tuple(Span(i, start + shift, end + shift) for i, start, end in cuts if start < end)
        found += [replace(row, spans=spans)] if spans else []
    return found
