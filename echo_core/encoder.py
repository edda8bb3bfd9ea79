"""The public way in: an encoder loads a model once, and gives vectors by its pipelines, one for each role."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_core.config import EchoConfig, Runtime, checked_runtime
from echo_core.engine.device import choose_device
from echo_core.engine.threads import in_thread
from echo_core.errors import check_fields
from echo_core.identity.checkpoint import load_config, save_checkpoint
from echo_core.identity.presets import config_of
from echo_core.identity.space import check_space, describe_space, fingerprint, space_metadata
from echo_core.methods.finish import Vectors, raw_config
from echo_core.methods.fitting import mean_direction
from echo_core.pipeline.assembly import Engine, build_pipelines, load_engine
from echo_core.pipeline.sparse import Sparse
from echo_core.process.forks import process_lock
from echo_core.text.inputs import Variables, check_text, check_texts
from echo_core.text.sentences import first_sentence


class EchoEncoder(Sparse):
    """Turns a causal language model into an embedding model by saying each text twice (arXiv 2402.15449).

    It is safe to share between threads.
    """

    def __init__(
        self,
        model: EchoConfig | str | os.PathLike[str] | None = None,
        runtime: Runtime | None = None,
        *,
        engine: Engine | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a name on the Hub, a folder, a GGUF file (local, or "owner/repository/file.gguf"), a PEFT adapter by
                name or folder, a whole EchoConfig, or None for the embedded default model. A known checkpoint that is
                named alone takes the options that were measured best for it.
            runtime: how vectors are computed; None: what suits the machine.
            engine: of an encoder that is loaded already, whose weights this one shall share; None: load.

        Raises:
            ModelError: no such model, or not a causal decoder with safetensors weights and a fast tokenizer.
            ConfigError: an option that this model, this machine or the given engine cannot serve.
            TypeError: ``model`` or ``runtime`` is none of these.
        """
        self.config = config_of(model)
        self.runtime = checked_runtime(runtime)
        self._engine = engine or load_engine(self.config, self.runtime)
        self._pipelines = build_pipelines(self._engine, self.config)

    def encode_documents(
        self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None
    ) -> Vectors:
        """Vectors of N texts said with the document template: (N, D) float32, in order; no text: (0, D).

        Args:
            texts: a list (or other ordered collection) of strings.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables, each one string for all texts or a list of N.

        Raises:
            TypeError: not a collection, or an item that is no string; names the index.
            TextError: a text is empty, too long, not valid Unicode, or its vector is not finite; names the index.
            VariableError: a variable without a value, or a value without a variable.
        """
        return self._pipelines["document"].encode(texts, instruction, variables)

    def encode_queries(
        self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None
    ) -> Vectors:
        """Vectors of N texts said with the query template; else like ``encode_documents``."""
        return self._pipelines["query"].encode(texts, instruction, variables)

    def iter_documents(
        self, texts: Iterable[str], *, instruction: str | None = None, variables: Mapping[str, str] | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """The vector (D,) float32 of each text of a stream of any length, in order; memory stays flat.

        Texts are read some thousands ahead. Equal texts that stand near each other are encoded once. Raises like
        ``encode_documents``, when the wrong text is read; the number of vectors given out so far says where to go on.
        """
        return self._pipelines["document"].stream(texts, instruction, variables)

    async def aencode_documents(
        self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None
    ) -> Vectors:
        """``encode_documents`` without blocking the event loop."""
        return await in_thread(partial(self._pipelines["document"].encode, texts, instruction, variables))

    async def aencode_queries(
        self, texts: Iterable[str], *, instruction: str | None = None, variables: Variables | None = None
    ) -> Vectors:
        """``encode_queries`` without blocking the event loop; concurrent calls share batches."""
        return await in_thread(partial(self._pipelines["query"].encode, texts, instruction, variables))

    def encode_chunks(
        self,
        document: str,
        chunks: Sequence[tuple[int, int]],
        *,
        instruction: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Vectors:
        """Vectors of C chunks of one document, each pooled in the document's second saying: (C, D) float32.

        Late chunking: the document is said whole (a long one in windows of ``max_tokens``), so a chunk's vector knows
        what stands round it.

        Args:
            document: the text.
            chunks: (start, end) character ranges of it.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables, a string each.

        Raises:
            TextError: a range is not within the document, holds no visible text, or was cut off; names its index.
            ConfigError: the template's pooled region does not begin with {text}.
        """
        return self._pipelines["document"].encode_chunks(check_text(document, 0), chunks, instruction, variables)

    def fit_centre(self, documents: Iterable[str], queries: Iterable[str] | None = None) -> EchoEncoder:
        """An encoder that takes the mean direction of these texts out of its vectors; it shares this one's weights.

        Args:
            documents: some hundred texts of the corpus that is to be searched; their mean becomes ``config.centre``.
            queries: some hundred queries, for ``config.query_centre``; None: the documents' first sentences (measured).

        Raises:
            ConfigError: fewer than two texts.
            VariableError: a template has a variable that the config has no value for.
        """
        raw, texts = self.raw(), check_texts(documents)
        asked = [first_sentence(text) for text in texts] if queries is None else queries
        centre, own = mean_direction(raw.encode_documents(texts)), mean_direction(raw.encode_queries(asked))
        return self.with_options(centre=centre, query_centre=own)

    def raw(self) -> EchoEncoder:
        """An encoder on the same weights of the pooled states as they are: no centre, filter, cut or unit length."""
        return EchoEncoder(raw_config(self.config), self.runtime, engine=self._engine)

    def with_options(self, **options: Any) -> EchoEncoder:
        """An encoder on the same weights whose config differs in these fields.

        Raises:
            ConfigError: a field that does not exist, or one that the loaded model depends on (``assembly.FIXED``).
        """
        check_fields(EchoConfig, options)
        return EchoEncoder(dataclasses.replace(self.config, **options), self.runtime, engine=self._engine)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self.config.dimension or self._engine.runner.decoder.width

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are said in one piece."""
        return self.config.max_tokens

    @property
    def texts_cut(self) -> int:
        """Texts that ``overflow="truncate"`` has cut so far."""
        return self._pipelines["document"].cut_texts.count

    @property
    def space(self) -> dict[str, Any]:
        """What must be equal for two vectors to be compared; ``space_metadata`` makes strings for a store of it."""
        return describe_space(self.config, self._engine.weights)

    @property
    def fingerprint(self) -> str:
        """A short hash of ``space``."""
        return fingerprint(self.space)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write config, weights and tokenizer into a folder that ``load`` and plain transformers can read.

        Raises:
            EmbeddingSpaceMismatch: the model's files are no longer those that this encoder has loaded.
        """
        self._engine.check_unchanged()
        save_checkpoint(self._engine.folder, self.config, Path(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], runtime: Runtime | None = None) -> EchoEncoder:
        """The encoder that ``save`` wrote.

        Raises:
            ModelError: the folder was not written by ``save``.
        """
        return cls(load_config(Path(folder)), runtime)

    @classmethod
    def _unpickle(cls, config: EchoConfig, runtime: Runtime, stored: dict[str, str]) -> EchoEncoder:
        """The encoder that was pickled; EmbeddingSpaceMismatch if its model's files have changed since."""
        encoder = cls(config, runtime)
        check_space(stored, encoder.space, "a pickled encoder")
        return encoder

    def __reduce__(self) -> tuple[Any, ...]:
        return self._unpickle, (self.config, self.runtime, space_metadata(self.space))

    def __repr__(self) -> str:
        name, decoder = self.config.model or "the embedded default model", self._engine.runner.decoder
        return f"EchoEncoder({name}, dimension={self.dimension}, device={decoder.device}, dtype={decoder.dtype})"


_shared: dict[tuple[EchoConfig, Runtime, str], EchoEncoder] = {}


def shared_encoder(config: EchoConfig, runtime: Runtime | None = None) -> EchoEncoder:
    """The process-wide encoder of a config and a runtime, loaded at the first call; adapters use it.

    "cuda" and "auto" mean the calling thread's current GPU, which is one more key.
    """
    given = checked_runtime(runtime)
    key = (config, given, str(choose_device(given.device)))
    with process_lock("shared encoders"):
        if key not in _shared:
            _shared[key] = EchoEncoder(config, given)
        return _shared[key]
