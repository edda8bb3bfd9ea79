"""The half of an encoder that gives sparse vectors, alone or beside the dense ones of the same pass of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from echo_core.config import ROLES
from echo_core.errors import ConfigError, check_choice
from echo_core.identity.space import describe_space
from echo_core.methods.finish import Vectors, finish, raw_config
from echo_core.methods.key_tokens import SHARED
from echo_core.methods.sparse import needs_words, own_words, sparse_rows
from echo_core.methods.sparse_matrix import to_csr
from echo_core.methods.sparse_options import SparseOptions, check_sparse_options, check_width
from echo_core.pipeline.explanations import Explaining
from echo_core.text.inputs import Variables, check_texts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

DEFAULT = SparseOptions()


class Sparse(Explaining):
    """Texts to rows over the model's vocabulary; ``EchoEncoder`` is one."""

    def encode_sparse_documents(
        self,
        texts: Iterable[str],
        options: SparseOptions = DEFAULT,
        *,
        instruction: str | None = None,
        variables: Variables | None = None,
    ) -> csr_array:
        """Sparse vectors of N texts said with the document template: (N, V) float32 of scipy, in order.

        A row holds the tokens that the text's pooled states are aligned with, weighing log(1 + relu(score)); a blank
        text's (``empty="zero"``) holds none.

        Args:
            texts: N texts.
            options: how many tokens, and of what; a TypeError if they are something else.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables.

        Raises:
            ImportError: scipy is not installed.
            ModelError: the checkpoint has no LM head.
            ConfigError: states of another layer than the last, which the LM head cannot read.
            Exception: what ``encode_documents`` raises.
        """
        check_sparse_options(options)
        return self._sparse(*self._stated(texts, "document", instruction, variables), "document", options)

    def encode_sparse_queries(
        self,
        texts: Iterable[str],
        options: SparseOptions = DEFAULT,
        *,
        instruction: str | None = None,
        variables: Variables | None = None,
    ) -> csr_array:
        """Sparse vectors of N texts said with the query template; else like ``encode_sparse_documents``."""
        check_sparse_options(options)
        return self._sparse(*self._stated(texts, "query", instruction, variables), "query", options)

    def encode_both(
        self,
        texts: Iterable[str],
        role: str = "document",
        options: SparseOptions = DEFAULT,
        *,
        instruction: str | None = None,
        variables: Variables | None = None,
    ) -> tuple[Vectors, csr_array]:
        """The dense vectors (N, D) and the sparse ones (N, V) of N texts, from one pass of the model.

        Args:
            texts: N texts.
            role: "document" or "query".
            options: of the sparse ones.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables.
        """
        check_choice("role", role, ROLES)
        check_sparse_options(options)
        listed, states = self._stated(texts, role, instruction, variables)
        dense = finish(states, self.config, self._pipelines[role].basis, role)
        return dense, self._sparse(listed, states, role, options)

    def fit_sparse(
        self, documents: Iterable[str], queries: Iterable[str] | None = None, options: SparseOptions = DEFAULT
    ) -> SparseOptions:
        """The options with what these texts share in place of what a sample's texts share.

        Args:
            documents: some hundred texts of the corpus that is to be searched.
            queries: some hundred queries, which then lose what they share themselves; None: what the documents share.
            options: the others.

        Raises:
            ConfigError: fewer than two texts.
        """
        check_sparse_options(options)
        own = None if queries is None else self._shared_by(queries, "query", options)
        return dataclasses.replace(options, shared=self._shared_by(documents, "document", options), query_shared=own)

    def _shared_by(self, texts: Iterable[str], role: str, options: SparseOptions) -> tuple[float, ...]:
        _, states = self._stated(texts, role, None, None)
        if len(states) < 2:
            rule = "must be fitted on two texts or more, better some hundred"
            raise ConfigError(f"shared {rule}, got {len(states)}")
        return tuple(round(float(x), 6) for x in SHARED[options.taken_out](states))

    def sparse_space(self, options: SparseOptions = DEFAULT) -> dict[str, Any]:
        """What must be equal for two sparse vectors to be compared: the states' space, and the options.

        What is done to dense vectors at last (centre, filter, cut, unit length) does not count.
        """
        described = check_sparse_options(options).describe()
        return {**describe_space(raw_config(self.config), self._engine.weights), "sparse": described}

    def _stated(
        self, texts: Iterable[str], role: str, instruction: str | None, variables: Variables | None
    ) -> tuple[list[str], Vectors]:
        """The texts in a list, and their pooled states (N, D)."""
        if not self._engine.runner.decoder.readout.is_output:
            rule = "must be -1 for sparse vectors: the LM head reads the last layer alone"
            way_out = "EchoConfig(model, layer=-1) has both kinds of vectors"
            raise ConfigError(f"layer {rule}, got {self.config.layer!r}; {way_out}")
        listed = check_texts(texts)
        return listed, self._raw_pipelines[role].encode(listed, instruction, variables)

    def _sparse(self, texts: list[str], states: Vectors, role: str, options: SparseOptions) -> csr_array:
        own = None
        if needs_words(options, role):
            own = self._engine.tokenizer.encode([own_words(text) for text in texts], continuing=True)
        rows = sparse_rows(self._without_shared(states, role, options), own, self._head, options, role)
        return to_csr(rows, len(self._head))

    def _without_shared(self, states: Vectors, role: str, options: SparseOptions) -> Vectors:
        shared = options.shared_of(role)
        if shared is None:
            return self._samples.own_part(states, role, options.taken_out)
        check_width("shared", shared, states.shape[1])
        return np.asarray((states - np.asarray(shared, dtype=np.float32)) * states.any(axis=1, keepdims=True))
