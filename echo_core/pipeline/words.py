"""The half of an encoder that lets people look into it: tokens, words of a vector, and why a document was found."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from echo_core.config import POOLINGS, ROLES, EchoConfig
from echo_core.engine.layers import listed_layers, states_at
from echo_core.engine.statistics import Statistics
from echo_core.errors import check_choice, check_integer
from echo_core.methods.embed_filter import filter_basis, read_head
from echo_core.methods.finish import Vectors, join_spans, raw_config
from echo_core.methods.key_tokens import SHARED, Word, merge_tokens, top_tokens
from echo_core.pipeline.assembly import Engine, build_pipelines
from echo_core.pipeline.samples import Samples
from echo_core.pipeline.stages import Pipeline
from echo_core.process.forks import once
from echo_core.text.inputs import Variables, check_text, check_texts
from echo_core.text.kept import Kept, keep_rows
from echo_core.text.rows import Row

log = logging.getLogger("echo_core")

# Aligned tokens that are looked through for each word asked for, as many are variants of others, and at the least: so
# the first words of some twenty are the same however many are asked for.
TOKENS_A_WORD, TOKENS = 12, 240


class Reading:
    """What an encoder tells about itself; ``EchoEncoder`` is one."""

    config: EchoConfig
    _engine: Engine
    _pipelines: Mapping[str, Pipeline]

    def explain_tokens(
        self, text: str, role: str = "document", *, instruction: str | None = None, variables: Variables | None = None
    ) -> str:
        """The tokens that the model sees for a text, parted by "|", the pooled ones inside [[ ]]; one line a window."""
        token = self._engine.tokenizer.token
        rows = rows_of(self._pipeline(role), check_text(text, 0), instruction, variables)
        return "\n".join(row.marked([repr(token(int(i)))[1:-1] for i in row.ids]) for row in rows)

    def count_tokens(
        self,
        texts: Iterable[str],
        role: str = "document",
        *,
        instruction: str | None = None,
        variables: Variables | None = None,
    ) -> list[int]:
        """Tokens that the model is given for each of N texts, prompt and sayings in all windows; nothing is run."""
        return self._kept(texts, role, instruction, variables).tokens()

    def words(
        self,
        texts: Iterable[str],
        k: int = 12,
        role: str = "document",
        *,
        instruction: str | None = None,
        variables: Variables | None = None,
        merged: bool = True,
        taken_out: str = "mean",
    ) -> list[list[Word]]:
        """For each text the words that its vector reads as through the model's LM head, heaviest first.

        Args:
            texts: N texts.
            k: words of each; fewer where the tokens that are looked through make fewer.
            role: the template that they are said with.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables.
            merged: words for a reader, see ``methods/key_tokens.py``: variants in case and number are one, pieces of
                words and stop words are left out; False: the tokens and scores of the paper, which sparse vectors have.
            taken_out: what all texts share: the "mean" of a sample's states, or its part along "u1", see ``SHARED``.

        Raises:
            ModelError: the checkpoint has no LM head.
            ConfigError: an unknown role or ``taken_out``, ``merged`` is neither True nor False, or ``k`` below 1.
        """
        check_integer("k", k, 1)
        check_choice("role", role, ROLES)
        check_choice("merged", merged, (True, False))
        check_choice("taken_out", taken_out, SHARED)
        head = self._head  # where there is none, that is said before the model runs
        states = self._raw_pipelines[role].encode(texts, instruction, variables)
        own = self._samples.own_part(states, role, taken_out, for_reader=merged)
        if merged:
            return [merge_tokens(*pair)[:k] for pair in self._read(own, head, max(TOKENS, k * TOKENS_A_WORD), True)]
        return [[Word(t, w, (t,)) for t, w in zip(*pair, strict=True)] for pair in self._read(own, head, k)]

    def encode_layers(
        self,
        texts: Iterable[str],
        layers: Sequence[int] | None = None,
        role: str = "document",
        *,
        pooling: str | None = None,
        instruction: str | None = None,
        variables: Variables | None = None,
    ) -> Vectors:
        """The pooled states of N texts at L layers, from one pass of the model: (L, N, D) float32, unfinished.

        Args:
            texts: N texts; a blank one gets zeros where ``empty="zero"``.
            layers: of those up to the read-out, 1… from the start or -1… from the end, in rising order; None: all.
            role: the template that they are said with.
            pooling: of POOLINGS; None: the config's.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables.

        Raises:
            ConfigError: no layer or one that does not run, an unknown role or pooling.
        """
        check_choice("pooling", pooling, (*POOLINGS, None))
        read = listed_layers(range(1, self.layers + 1) if layers is None else layers)
        kept = self._kept(texts, role, instruction, variables)
        states = states_at(self._engine.runner, kept.rows, read, pooling or self.config.pooling)
        spans = [span for row in kept.rows for span in row.spans]
        vectors = np.zeros((len(read), kept.count, states.shape[-1]), dtype=np.float32)
        vectors[:, kept.places] = [join_spans(layer, spans, len(kept.places)) for layer in states]
        return vectors

    def statistics(self) -> Statistics:
        """What the model has run since it was loaded, for all encoders that share it."""
        return self._engine.runner.statistics()

    @property
    def layers(self) -> int:
        """Layers of the model that run, up to the read-out."""
        return len(self._engine.runner.decoder.readout.layers)

    def filter_basis(self) -> NDArray[np.float32]:
        """The basis (D, D) that ``filter`` keeps the first columns of, see ``methods/embed_filter.py``.

        Raises:
            ModelError: the checkpoint has no LM head.
        """
        return filter_basis(self._engine.folder, self._engine.runtime.trust_remote_code, self._engine.weights)

    def _read(
        self, vectors: Vectors, head: Tensor, count: int, evened: bool = False
    ) -> Iterator[tuple[list[str], list[float]]]:
        """The tokens that each vector is aligned with most, and their scores; none of a blank text's."""
        ids, scores = top_tokens(vectors, head, min(count, len(head)), evened=evened)
        token = self._engine.tokenizer.token
        for row, weights, said in zip(ids.tolist(), scores.tolist(), map(np.any, vectors), strict=True):
            yield ([token(i) for i in row], weights) if said else ([], [])

    def _kept(self, texts: Iterable[str], role: str, instruction: str | None, variables: Variables | None) -> Kept:
        pipeline, checked = self._pipeline(role), check_texts(texts)
        values = pipeline.values(len(checked), instruction, variables)
        return keep_rows(pipeline.prompts, checked, values, self.config.empty)

    def _pipeline(self, role: str) -> Pipeline:
        check_choice("role", role, ROLES)
        return self._pipelines[role]

    @once
    def _raw_pipelines(self) -> Mapping[str, Pipeline]:
        return build_pipelines(self._engine, raw_config(self.config))

    @once
    def _head(self) -> Tensor:
        if not self._engine.runner.decoder.readout.is_output:
            log.warning("words are read best from the last layer, got layer=%s; try layer=-1", self.config.layer)
        return read_head(self._engine.folder, self._engine.runtime.trust_remote_code)

    @once
    def _samples(self) -> Samples:
        return Samples(self._engine, self.config)


def rows_of(pipeline: Pipeline, text: str, instruction: str | None, variables: Variables | None) -> list[Row]:
    """The rows of one text that is not blank, one a window."""
    return keep_rows(pipeline.prompts, [text], pipeline.values(1, instruction, variables), "error").rows
