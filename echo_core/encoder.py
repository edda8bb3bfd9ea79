"""The pipeline: text → template → tokens → batches → model → pooling → vectors."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_core.awaiting import in_thread
from echo_core.blocks import Block, Entry, distinct_entries, split_entries
from echo_core.checkpoint import find_checkpoint, load_config, save_checkpoint, weights_identity
from echo_core.coalesce import Coalescer, in_thread_of_its_own
from echo_core.config import EchoConfig, Runtime
from echo_core.errors import ConfigError, check_choice
from echo_core.head import filter_basis
from echo_core.inputs import Variables, check_collection, check_text, fill_variables
from echo_core.limits import check_limits
from echo_core.pipeline import Pipeline
from echo_core.progress import Progress
from echo_core.runner import load_runner
from echo_core.space import describe_space, fingerprint
from echo_core.tokenizer import TextTokenizer
from echo_core.tokens import PromptTokenizer, Row
from echo_core.vectors import Vectors, check_finish, mean_direction

log = logging.getLogger("echo_core")

ROLES = ("query", "document")


class EchoEncoder:
    """Turns a causal language model into an embedding model by saying each text twice (arXiv 2402.15449). Safe to share between threads."""

    def __init__(self, model: EchoConfig | str | os.PathLike[str] | None = None, runtime: Runtime | None = None) -> None:
        """Load a model: a name on the Hub, a folder, a whole EchoConfig, or nothing for the embedded default model.

        Raises:
            ModelError: no such model, or not a causal decoder with safetensors weights and a fast tokenizer.
            ConfigError: an option that this model or machine cannot serve.
        """
        self.config = model if isinstance(model, EchoConfig) else EchoConfig(os.fspath(model) if model is not None else None)
        self.runtime = runtime or Runtime()
        self._folder = find_checkpoint(self.config)
        self._weights = weights_identity(self._folder)  # now: the files may be written over while the loaded weights live on
        self._tokenizer = TextTokenizer.from_folder(self._folder, self.runtime.trust_remote_code)
        self._runner = in_thread_of_its_own(lambda: load_runner(self._folder, self.config, self.runtime))
        basis = None if self.config.filter is None else filter_basis(self._folder, self.runtime.trust_remote_code, self._weights)
        on_cpu = self._runner.decoder.device.type == "cpu"
        coalescer = Coalescer(self._runner.run, lambda: self._runner.budget, self._runner.packed, main_thread_works=on_cpu)
        self._pipelines = {
            role: Pipeline(
                PromptTokenizer(self._tokenizer, self.config.template(role), self.config, self._runner.decoder.max_positions),
                coalescer,
                self.config,
                self.dimension,
                str(self._runner.decoder.dtype).removeprefix("torch."),
                basis,
            )
            for role in ROLES
        }
        check_limits(self.config, self.runtime, self._runner.decoder, [pipeline.prompts for pipeline in self._pipelines.values()])
        check_finish(self.config, self._runner.decoder.width, basis)

    # ---- the public way in -------------------------------------------------------------------------------------------------------------

    def encode_documents(self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None) -> Vectors:
        """Vectors of N texts said with the document template: (N, D) float32, in the caller's order; no text: (0, D).

        Args:
            texts: a list (or other ordered collection) of strings.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables, each one string for all texts or a list of N.

        Raises:
            TypeError: not a collection, or an item that is no string; names the index.
            TextError: a text is empty, too long, not valid Unicode, or its vector is not finite; names the index.
            VariableError: a variable without a value, or a value without a variable.
        """
        return self._encode(texts, "document", instruction, variables)

    def encode_queries(self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None) -> Vectors:
        """Vectors of N texts said with the query template; else like ``encode_documents``."""
        return self._encode(texts, "query", instruction, variables)

    def iter_documents(
        self, texts: Iterable[str], *, instruction: str | None = None, variables: Mapping[str, str] | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """The vector (D,) float32 of each text of a stream of any length, in order; memory stays flat.

        Texts are read some thousands ahead. Equal texts that stand near each other are encoded once. Raises like ``encode_documents``, when
        the wrong text is read; the number of vectors given out so far says where to go on.
        """
        values = self._values("document", 1, instruction, variables)
        row = tuple(column[0] for column in values.values())
        entries = (Entry(number, check_text(text, number), row) for number, text in enumerate(check_collection(texts)))
        blocks = map(distinct_entries, split_entries(entries))
        total = len(texts) if isinstance(texts, Sized) else None
        return (vector for vectors in self._stream(blocks, "document", tuple(values), total) for vector in vectors)

    async def aencode_documents(self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None) -> Vectors:
        """``encode_documents`` without blocking the event loop."""
        return await in_thread(partial(self._encode, texts, "document", instruction, variables))

    async def aencode_queries(self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None) -> Vectors:
        """``encode_queries`` without blocking the event loop; concurrent calls share batches."""
        return await in_thread(partial(self._encode, texts, "query", instruction, variables))

    def encode_chunks(
        self, document: str, chunks: Sequence[tuple[int, int]], *, instruction: str | None = None, variables: Mapping[str, str] | None = None
    ) -> Vectors:
        """Vectors of C chunks, (start, end) character ranges of one document, each pooled in the document's second saying: (C, D) float32.

        Late chunking: the document is said whole (a long one in windows of ``max_tokens``), so a chunk's vector knows what stands round it.

        Raises:
            TextError: a range is not within the document, holds no visible text, or was cut off; names the chunk's index.
            ConfigError: the template's pooled region does not begin with {text}.
        """
        values = self._values("document", 1, instruction, variables)
        return self._pipelines["document"].run_chunks(check_text(document, 0), chunks, values)

    def fit_centre(self, texts: Iterable[str]) -> EchoEncoder:
        """An encoder that takes the mean direction of these texts out of every vector (``config.centre``); it shares this one's weights.

        Args:
            texts: some hundred documents of the corpus that is to be searched.

        Raises:
            ConfigError: fewer than two texts.
        """
        raw = self.raw().encode_documents(texts)
        if len(raw) < 2:
            raise ConfigError(f"centre must be fitted on two texts or more, better some hundred, got {len(raw)}")
        return self._finishing(dataclasses.replace(self.config, centre=mean_direction(raw)))

    def raw(self) -> EchoEncoder:
        """An encoder that gives the pooled states as they are: no centre, filter, cut or unit length; it shares this one's weights."""
        return self._finishing(dataclasses.replace(self.config, centre=None, filter=None, dimension=None, normalize=False))

    def explain_tokens(self, text: str, role: str = "document", *, instruction: str | None = None, variables: Variables | None = None) -> str:
        """The tokens that the model sees for a text, parted by "|", the pooled ones inside [[ ]]; one line a window."""
        values = self._values(role, 1, instruction, variables)
        rows = self._pipelines[role].prompts.tokenise([check_text(text, 0)], values).rows
        return "\n".join(_mark(row, [repr(self._tokenizer.token(int(i)))[1:-1] for i in row.ids]) for row in rows)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self.config.dimension or self._runner.decoder.width

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are said in one piece."""
        return self.config.max_tokens

    @property
    def space(self) -> dict[str, Any]:
        """What must be equal for two vectors to be compared; ``space_metadata`` makes strings for a store of it."""
        return describe_space(self.config, self._weights)

    @property
    def fingerprint(self) -> str:
        """A short hash of ``space``."""
        return fingerprint(self.space)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write config, weights and tokenizer into a folder that ``load`` and plain transformers can read."""
        save_checkpoint(self._folder, self.config, Path(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], runtime: Runtime | None = None) -> EchoEncoder:
        """The encoder that ``save`` wrote.

        Raises:
            ModelError: the folder was not written by ``save``.
        """
        return cls(load_config(Path(folder)), runtime)

    def __reduce__(self) -> tuple[Any, ...]:
        return EchoEncoder, (self.config, self.runtime)

    def __repr__(self) -> str:
        name = self.config.model or "the embedded default model"
        return f"EchoEncoder({name}, dimension={self.dimension}, device={self._runner.decoder.device}, dtype={self._runner.decoder.dtype})"

    # ---- the pipeline ------------------------------------------------------------------------------------------------------------------

    def _encode(
        self, texts: Iterable[str], role: str, instruction: str | None, variables: Variables | None, stop: threading.Event | None = None
    ) -> Vectors:
        checked = [check_text(text, index) for index, text in enumerate(check_collection(texts))]
        values = self._values(role, len(checked), instruction, variables)
        columns = zip(*values.values(), strict=True) if values else [()] * len(checked)
        whole = distinct_entries(Entry(i, text, row) for i, (text, row) in enumerate(zip(checked, columns, strict=True)))
        vectors = np.empty((len(whole.entries), self.dimension), dtype=np.float32)
        blocks = (Block(tuple(part), np.arange(len(part))) for part in split_entries(whole.entries))
        done = 0
        for part in self._stream(blocks, role, tuple(values), len(whole.entries), stop):
            vectors[done : done + len(part)] = part
            done += len(part)
        return vectors if len(whole.entries) == len(checked) else vectors[whole.places]

    def _stream(
        self, blocks: Iterable[Block], role: str, names: Sequence[str], total: int | None, stop: threading.Event | None = None
    ) -> Iterator[Vectors]:
        with Progress(total, self.runtime.progress, stop) as progress:
            yield from self._pipelines[role].run(blocks, names, progress)

    def _finishing(self, config: EchoConfig) -> EchoEncoder:
        """An encoder on the same weights with a config that differs only in what is done to pooled states."""
        other = object.__new__(EchoEncoder)  # copy.copy would load the weights again, as unpickling does
        other.__dict__.update(self.__dict__, config=config)
        other._pipelines = {role: dataclasses.replace(p, config=config, dimension=other.dimension) for role, p in self._pipelines.items()}
        return other

    def _values(self, role: str, count: int, instruction: str | None, variables: Variables | None) -> dict[str, list[str]]:
        check_choice("role", role, ROLES)
        return fill_variables(self._pipelines[role].prompts.template, count, self.config.instruction, instruction, variables)


_shared: dict[tuple[EchoConfig, Runtime], EchoEncoder] = {}
_sharing = threading.Lock()


def shared_encoder(config: EchoConfig, runtime: Runtime | None = None) -> EchoEncoder:
    """The process-wide encoder of a config and a runtime, loaded at the first call; what adapters use, so that weights are loaded once."""
    key = (config, runtime or Runtime())
    with _sharing:
        if key not in _shared:
            _shared[key] = EchoEncoder(*key)
        return _shared[key]


def _mark(row: Row, tokens: Sequence[str]) -> str:
    span = row.spans[0]
    parts = ("|".join(part) for part in (tokens[: span.start], tokens[span.start : span.end], tokens[span.end :]))
    return "{}[[{}]]{}".format(*parts)
