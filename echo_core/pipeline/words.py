"""The half of an encoder that lets people look into it: tokens, words of a vector, and why a document was found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from echo_core.config import POOLINGS, ROLES, EchoConfig
from echo_core.engine.layers import listed_layers, states_at
from echo_core.engine.pooling import POOLERS
from echo_core.engine.statistics import Statistics
from echo_core.errors import check_choice, check_integer
from echo_core.methods.embed_filter import filter_basis, read_head
from echo_core.methods.explanation import Explanation, Said, explain, finish_parts, pooled_strings
from echo_core.methods.finish import Vectors, join_spans, raw_config
from echo_core.methods.key_tokens import Word, merge_tokens, top_tokens
from echo_core.methods.share_matrix import check_target, plot_shares
from echo_core.pipeline.assembly import Engine, build_pipelines
from echo_core.pipeline.samples import Samples
from echo_core.pipeline.stages import Pipeline
from echo_core.text.casing import as_said
from echo_core.text.inputs import Variables, check_text, check_texts, named_text, said_texts
from echo_core.text.kept import Kept, keep_rows
from echo_core.text.rows import Row

log = logging.getLogger("echo_core")

TOKENS_A_WORD = 12  # aligned tokens that are looked through for each word asked for, as many are variants of others


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
        rows = _rows_of(self._pipeline(role), check_text(text, 0), instruction, variables)
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
            k: words of each; fewer where the vector reads as fewer.
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
        states = self._raw_pipelines[role].encode(texts, instruction, variables)
        own = self._samples.own_part(states, role, taken_out, for_reader=merged)
        if merged:
            return [merge_tokens(*pair)[:k] for pair in self._read(own, k * TOKENS_A_WORD, evened=True)]
        return [[Word(t, w, (t,)) for t, w in zip(*pair, strict=True)] for pair in self._read(own, k)]

    def explain(self, query: str, document: str, *, instruction: str | None = None, k: int = 12) -> Explanation:
        """Why a document was found: each token's exact share of the score, and the words that both vectors read as.

        Args:
            query: said with the query template.
            document: said with the document template.
            instruction: value of ``{instruction}``, where a template has it; refused (VariableError) where none has.
            k: words of each.

        Raises:
            EmptyTextError: a blank text.
            ConfigError: a template whose pooled region does not begin with {text}.
            ModelError: the checkpoint has no LM head.
        """
        texts = {"query": named_text(query, "query", 0), "document": named_text(document, "document", 1)}
        takers = [role for role in ROLES if self._needs_instruction(role)] or ROLES  # one without a place refuses it
        given = {role: instruction if role in takers else None for role in ROLES}
        token, pipelines = self._engine.tokenizer.token, self._pipelines
        said = {role: _said(pipelines[role], texts[role], given[role], token) for role in ROLES}
        read = {role: self.words([texts[role]], k, role, instruction=given[role])[0] for role in ROLES}
        return explain(said["query"], said["document"], read["query"], read["document"])

    def explain_all(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None, k: int = 12, plot: Any = None
    ) -> list[Explanation]:
        """``explain`` of one query with each of several documents, with a picture of all if it is asked for.

        Args:
            query: said with the query template.
            documents: each said with the document template; a wrong one is named by its index, before any is run.
            instruction: value of ``{instruction}``, where a template has it.
            k: words of each.
            plot: a file to draw a matrix into, or Axes of matplotlib, see ``methods/share_matrix.py``; None: neither.
        """
        passages = said_texts(documents)
        check_target(plot)
        self.count_tokens(passages, instruction=instruction if self._needs_instruction("document") else None)
        found = [self.explain(query, document, instruction=instruction, k=k) for document in passages]
        if plot is not None:
            plot_shares(found, passages, plot)
        return found

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

    def _read(self, vectors: Vectors, count: int, evened: bool = False) -> Iterator[tuple[list[str], list[float]]]:
        """The tokens that each vector is aligned with most, and their scores; none of a blank text's."""
        ids, scores = top_tokens(vectors, self._head, min(count, len(self._head)), evened=evened)
        token = self._engine.tokenizer.token
        for row, weights, said in zip(ids.tolist(), scores.tolist(), map(np.any, vectors), strict=True):
            yield ([token(i) for i in row], weights) if said else ([], [])

    def _kept(self, texts: Iterable[str], role: str, instruction: str | None, variables: Variables | None) -> Kept:
        pipeline, checked = self._pipeline(role), check_texts(texts)
        values = pipeline.values(len(checked), instruction, variables)
        return keep_rows(pipeline.prompts, checked, values, self.config.empty)

    def _needs_instruction(self, role: str) -> bool:
        return "instruction" in self._pipelines[role].prompts.template.variables

    def _pipeline(self, role: str) -> Pipeline:
        check_choice("role", role, ROLES)
        return self._pipelines[role]

    @cached_property
    def _raw_pipelines(self) -> Mapping[str, Pipeline]:
        return build_pipelines(self._engine, raw_config(self.config))

    @cached_property
    def _head(self) -> Tensor:
        if not self._engine.runner.decoder.readout.is_output:
            log.warning("words are read best from the last layer, got layer=%s; try layer=-1", self.config.layer)
        return read_head(self._engine.folder, self._engine.runtime.trust_remote_code)

    @cached_property
    def _samples(self) -> Samples:
        return Samples(self._raw_pipelines)


def _rows_of(pipeline: Pipeline, text: str, instruction: str | None, variables: Variables | None) -> list[Row]:
    """The rows of one text that is not blank, one a window."""
    return keep_rows(pipeline.prompts, [text], pipeline.values(1, instruction, variables), "error").rows


def _said(pipeline: Pipeline, text: str, instruction: str | None, token: Callable[[int], str]) -> Said:
    """A text's pooled tokens, and each one's part of its vector."""
    rows, config = _rows_of(pipeline, text, instruction, None), pipeline.config
    lengths = np.array([row.spans[0].end - row.spans[0].start for row in rows])
    states = pipeline.scheduler.submit([row.token_by_token() for row in rows]).result().numpy()
    pool = POOLERS[config.pooling]
    weights = [pool(np.arange(1, n + 1), np.full(n, n)) * n for n in lengths.tolist()]  # a window counts by its tokens
    parts = states * (np.concatenate(weights) / lengths.sum())[:, None].astype(np.float32)
    strings = pooled_strings(as_said(text, config.caps), pipeline.prompts.pooled_tokens(text), rows, token)
    return Said(tuple(strings), finish_parts(parts, config, pipeline.basis, pipeline.role))
