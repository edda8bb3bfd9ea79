"""The stages in order, for one role of one encoder: blocks of texts → rows → batches → states → pooled → vectors.

While the model works on a block, the next one is tokenised. Rows of concurrent calls meet in the coalescer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_core.blocks import Block, Entry
from echo_core.chunks import check_chunks, chunk_rows
from echo_core.coalesce import Coalescer, Job
from echo_core.config import EchoConfig
from echo_core.errors import NotFiniteError, TextError
from echo_core.inputs import is_blank
from echo_core.progress import Progress
from echo_core.tokens import PromptTokenizer, Row
from echo_core.vectors import Vectors, finish, first_not_finite, join_spans

log = logging.getLogger("echo_core")


@dataclass(frozen=True)
class _Work:
    """A block on its way: the entries that are not blank, their rows and the job that runs them."""

    block: Block
    kept: list[int]  # places in block.entries
    rows: list[Row]
    long_texts: int
    job: Job

    def entries(self) -> list[Entry]:
        return [self.block.entries[i] for i in self.kept]


@dataclass(frozen=True)
class Pipeline:
    """Blocks of texts in, their vectors out, in order."""

    prompts: PromptTokenizer
    coalescer: Coalescer
    config: EchoConfig
    dimension: int
    dtype: str  # for messages
    basis: NDArray[np.float32] | None = None  # of the filter, see head.py

    def run(self, blocks: Iterable[Block], names: Sequence[str], progress: Progress) -> Iterator[Vectors]:
        """The vectors of each block's texts, (N, D) float32.

        Args:
            blocks: as ``blocks.py`` makes them.
            names: of the template's variables besides ``text``, in the order of the entries' values.
            progress: hears of each batch.
        """
        under_way: deque[_Work] = deque()
        long_texts = 0
        try:
            for block in blocks:
                under_way.append(self._start(block, names, progress))
                long_texts += under_way[-1].long_texts
                if len(under_way) > 1:
                    yield self._finish(under_way.popleft())
            while under_way:
                yield self._finish(under_way.popleft())
        finally:
            for work in under_way:
                work.job.abandoned = True
        if long_texts and self.config.overflow == "truncate":
            log.warning("%d texts were cut at max_tokens=%d; overflow='window' keeps them whole", long_texts, self.config.max_tokens)

    def run_chunks(self, document: str, chunks: Sequence[tuple[int, int]], variables: Mapping[str, Sequence[str]]) -> Vectors:
        """The vectors of C character ranges of one document, (C, D) float32, pooled in its second saying."""
        ranges = check_chunks(document, chunks)
        if not ranges:
            return np.zeros((0, self.dimension), dtype=np.float32)
        rows = chunk_rows(self.prompts.tokenise([document], variables).rows, self.prompts.pooled_tokens(document), ranges)
        spans = [span for row in rows for span in row.spans]
        order = sorted(range(len(spans)), key=lambda i: spans[i].owner)  # a chunk may go on in the next window
        pooled = self.coalescer.submit(rows).result().numpy()[order]
        return self._finished(join_spans(pooled, [spans[i] for i in order], len(ranges)), range(len(ranges)))

    def _start(self, block: Block, names: Sequence[str], progress: Progress) -> _Work:
        """Texts → template → tokens → the model's queue."""
        kept = [i for i, entry in enumerate(block.entries) if not is_blank(entry.text, entry.number, self.config.empty)]
        entries = [block.entries[i] for i in kept]
        variables = {name: [entry.values[i] for entry in entries] for i, name in enumerate(names)}
        try:
            tokenised = self.prompts.tokenise([entry.text for entry in entries], variables)
        except TextError as error:
            raise error.at(entries[error.index].number) from error.__cause__
        rows = tokenised.rows
        first_rows = {i for i, row in enumerate(rows) if i == 0 or rows[i - 1].spans[0].owner != row.spans[0].owner}

        def on_batch(batch: Sequence[int]) -> None:
            progress.add(sum(i in first_rows for i in batch), sum(len(rows[i].ids) for i in batch))

        return _Work(block, kept, rows, tokenised.long_texts, self.coalescer.submit(rows, on_batch))

    def _finish(self, work: _Work) -> Vectors:
        """Pooled spans → vectors, one for each of the caller's texts."""
        vectors = np.zeros((len(work.block.entries), self.dimension), dtype=np.float32)
        if work.kept:
            spans = [span for row in work.rows for span in row.spans]
            pooled = join_spans(work.job.result().numpy(), spans, len(work.kept))
            vectors[work.kept] = self._finished(pooled, [entry.number for entry in work.entries()])
        return vectors if len(work.block.places) == len(vectors) else vectors[work.block.places]

    def _finished(self, pooled: Vectors, numbers: Sequence[int]) -> Vectors:
        """Vectors of pooled states, whose texts have these numbers in the caller's order."""
        bad = first_not_finite(pooled)
        if bad is not None:
            problem = f"must get finite numbers from the model, got NaN or infinity in {self.dtype}; try Runtime(dtype='float32')"
            raise NotFiniteError(numbers[bad], problem)
        return finish(pooled, self.config, self.basis)
