"""The stages in order, for one role of one encoder: blocks of texts → rows → batches → states → pooled → vectors.

While the model works on a block, the next one is tokenised. Rows of concurrent calls meet in the scheduler.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig
from echo_core.engine.jobs import Job
from echo_core.engine.scheduler import Scheduler
from echo_core.errors import NotFiniteError, TextError
from echo_core.methods.finish import Vectors, finish, first_not_finite, join_spans
from echo_core.methods.late_chunking import check_chunks, chunk_rows
from echo_core.process.progress import CutTexts, Progress
from echo_core.text.inputs import Variables, check_collection, check_text, check_texts, fill_variables, is_blank
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.rows import Row
from echo_core.text.stream import Block, Entry, distinct_entries, split_entries


@dataclass(frozen=True)
class _Work:
    """A block on its way: the entries that are not blank, their rows and the job that runs them."""

    block: Block
    kept: list[int]  # places in block.entries
    rows: list[Row]
    long_texts: int
    job: Job


@dataclass(frozen=True)
class Pipeline:
    """Texts of one role in, their vectors out, in order."""

    role: str
    prompts: PromptTokenizer
    scheduler: Scheduler
    config: EchoConfig
    dimension: int
    dtype: str  # for messages
    progress: bool | None  # as in Runtime
    basis: NDArray[np.float32] | None  # of the filter, see methods/embed_filter.py
    cut_texts: CutTexts
    first_block: int | None = None  # texts of a call's first block; None: as many as of the others

    def encode(
        self,
        texts: Iterable[str],
        instruction: str | None,
        variables: Variables | None,
        stop: threading.Event | None = None,
    ) -> Vectors:
        """The vectors of N texts, (N, D) float32, in order; raises like ``EchoEncoder.encode_documents``."""
        checked = check_texts(texts)
        values = self.values(len(checked), instruction, variables)
        columns = zip(*values.values(), strict=True) if values else [()] * len(checked)
        entries = (Entry(i, text, row) for i, (text, row) in enumerate(zip(checked, columns, strict=True)))
        whole = distinct_entries(entries)
        vectors = np.empty((len(whole.entries), self.dimension), dtype=np.float32)
        blocks = (Block(tuple(part), np.arange(len(part))) for part in split_entries(whole.entries, self.first_block))
        done = 0
        for part in self._run(blocks, tuple(values), len(whole.entries), stop):
            vectors[done : done + len(part)] = part
            done += len(part)
        return vectors if len(whole.entries) == len(checked) else vectors[whole.places]

    def stream(
        self, texts: Iterable[str], instruction: str | None, variables: Mapping[str, str] | None
    ) -> Iterator[NDArray[np.float32]]:
        """The vector (D,) float32 of each text of a stream, in order; raises like ``EchoEncoder.iter_documents``."""
        values = self.values(1, instruction, variables)
        row = tuple(column[0] for column in values.values())
        entries = (Entry(number, check_text(text, number), row) for number, text in enumerate(check_collection(texts)))
        blocks = map(distinct_entries, split_entries(entries, self.first_block))
        total = len(texts) if isinstance(texts, Sized) else None
        return (vector for vectors in self._run(blocks, tuple(values), total) for vector in vectors)

    def encode_chunks(
        self,
        document: str,
        chunks: Sequence[tuple[int, int]],
        instruction: str | None,
        variables: Mapping[str, str] | None,
    ) -> Vectors:
        """The vectors of C character ranges of one document, (C, D) float32, pooled in its second saying."""
        ranges = check_chunks(document, chunks)
        values = self.values(1, instruction, variables)
        if not ranges:
            return np.zeros((0, self.dimension), dtype=np.float32)
        rows = chunk_rows(self.prompts.tokenise([document], values).rows, self.prompts.pooled_tokens(document), ranges)
        spans = [span for row in rows for span in row.spans]
        order = sorted(range(len(spans)), key=lambda i: spans[i].owner)  # a chunk may go on in the next window
        pooled = self.scheduler.submit(rows).result().numpy()[order]
        return self._finished(join_spans(pooled, [spans[i] for i in order], len(ranges)), range(len(ranges)))

    def values(
        self, count: int, instruction: str | None, variables: Mapping[str, str | Sequence[str]] | None
    ) -> dict[str, list[str]]:
        """A value of each further variable of the template for each of ``count`` texts; see ``fill_variables``."""
        return fill_variables(self.prompts.template, count, self.config.instruction, instruction, variables)

    def _run(
        self, blocks: Iterable[Block], names: Sequence[str], total: int | None, stop: threading.Event | None = None
    ) -> Iterator[Vectors]:
        """The vectors of each block's texts; its entries have values for the variables ``names``."""
        under_way: deque[_Work] = deque()
        long_texts = 0
        with Progress(total, self.progress, stop) as progress:
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
        if self.config.overflow == "truncate":
            self.cut_texts.add(long_texts, self.config.max_tokens)

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

        return _Work(block, kept, rows, tokenised.long_texts, self.scheduler.submit(rows, on_batch))

    def _finish(self, work: _Work) -> Vectors:
        """Pooled spans → vectors, one for each of the caller's texts."""
        vectors = np.zeros((len(work.block.entries), self.dimension), dtype=np.float32)
        if work.kept:
            spans = [span for row in work.rows for span in row.spans]
            pooled = join_spans(work.job.result().numpy(), spans, len(work.kept))
            vectors[work.kept] = self._finished(pooled, [work.block.entries[i].number for i in work.kept])
        return vectors if len(work.block.places) == len(vectors) else vectors[work.block.places]

    def _finished(self, pooled: Vectors, numbers: Sequence[int]) -> Vectors:
        """Vectors of pooled states, whose texts have these numbers in the caller's order."""
        bad = first_not_finite(pooled)
        if bad is not None:
            problem = f"must get finite numbers from the model, got NaN or infinity in {self.dtype}"
            raise NotFiniteError(numbers[bad], f"{problem}; try Runtime(dtype='float32')")
        return finish(pooled, self.config, self.basis, self.role)
