"""Sparse vectors for Chroma Cloud's sparse index: a function that Chroma stores and rebuilds."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chromadb.api import ClientAPI
from chromadb.api.types import Documents, SparseEmbeddingFunction, SparseVector
from chromadb.utils.embedding_functions import register_sparse_embedding_function

from echo_chroma.function import EchoEmbeddingFunction
from echo_chroma.stored import from_stored, to_stored
from echo_core.config import EchoConfig, Runtime
from echo_core.errors import ConfigError, StoreError
from echo_core.identity.space import check_space, space_metadata
from echo_core.methods.sparse_matrix import listed_rows
from echo_core.methods.sparse_options import SparseOptions, check_sparse_options

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NAME = "echo_embed_sparse"  # under which Chroma knows the function
_OPTIONS = "sparse"  # of the stored config
_FRAMES = 16  # from the function up to the client's method


@register_sparse_embedding_function
class EchoSparseEmbeddingFunction(SparseEmbeddingFunction[Documents]):  # type: ignore[misc]
    """Key tokens as the sparse vectors of a Chroma Cloud collection; weights are loaded at the first text.

        schema = Schema()
        schema.create_index(SparseVectorIndexConfig(EchoSparseEmbeddingFunction(), K.DOCUMENT), key="words")

    A Chroma in this process has no sparse index: making such a collection there raises ``StoreError``, which names
    ``echo_chroma.hybrid_query``.
    """

    def __init__(
        self,
        config: EchoConfig | str | os.PathLike[str] | None = None,
        options: SparseOptions | None = None,
        runtime: Runtime | None = None,
        *,
        weights: str | None = None,
    ) -> None:
        """Check the options.

        Args:
            config: as for ``EchoEmbeddingFunction``.
            options: what a sparse vector is made of; None: the defaults.
            runtime: device, dtype, batch size; never stored.
            weights: identity of the weights that the stored vectors were made with; set when Chroma rebuilds this.

        Raises:
            ConfigError: an option is unknown, of the wrong type or out of range.
            TypeError: ``options`` is something else.
            ModelError: there is no model of this name.
        """
        self._dense = EchoEmbeddingFunction(config, runtime, weights=weights)
        self.options = check_sparse_options(SparseOptions() if options is None else options)

    def __call__(self, input: Documents) -> list[SparseVector]:
        """One sparse vector a text, by the document template. Raises what ``encode_sparse_documents`` raises."""
        return _vectors(self._dense.encoder.encode_sparse_documents(input, self.options))

    def embed_query(self, input: Documents) -> list[SparseVector]:
        """One sparse vector a text, by the query template."""
        return _vectors(self._dense.encoder.encode_sparse_queries(input, self.options))

    @staticmethod
    def name() -> str:
        """The name under which Chroma stores this function."""
        return NAME

    @staticmethod
    def build_from_config(config: Mapping[str, Any]) -> EchoSparseEmbeddingFunction:
        """The function that ``get_config`` described; cheap, loads nothing.

        Raises:
            ConfigError: it is not what ``get_config`` writes.
        """
        fields = dict(config) if isinstance(config, Mapping) else {}
        options = fields.pop(_OPTIONS, None)
        if not isinstance(options, Mapping):
            rule = "must be the options that EchoSparseEmbeddingFunction.get_config writes"
            raise ConfigError(f"{_OPTIONS} of the stored config {rule}, got {options!r}")
        echo, weights = from_stored(fields)
        return EchoSparseEmbeddingFunction(echo, SparseOptions.from_dict(options), weights=weights)

    def get_config(self) -> dict[str, Any]:
        """What defines the vectors, as JSON types.

        Raises:
            StoreError: a Chroma in this process is about to make a sparse index of it, which it cannot.
        """
        _check_caller()
        options = {name: value for name, value in self.options.to_dict().items() if value is not None}
        return {**to_stored(self._dense.config, self._dense.space["weights"]), _OPTIONS: options}

    def validate_config_update(self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]) -> None:
        """Return if both configs give the same vectors.

        Raises:
            EmbeddingSpaceMismatch: they do not; names the fields that differ.
        """
        old, new = (EchoSparseEmbeddingFunction.build_from_config(config)._space for config in (old_config, new_config))
        check_space(space_metadata(old), new, "the collection")

    @staticmethod
    def validate_config(config: Mapping[str, Any]) -> None:
        """Return if a function can be built from the config. Raises like ``build_from_config``."""
        EchoSparseEmbeddingFunction.build_from_config(config)

    @property
    def _space(self) -> dict[str, Any]:
        return {**self._dense.space, _OPTIONS: self.options.describe()}


def _vectors(rows: csr_array) -> list[SparseVector]:
    return [SparseVector(ids, weights) for ids, weights in listed_rows(rows)]


def _check_caller() -> None:
    """Raise StoreError if a client whose Chroma runs in this process asks: it hands the function nothing else."""
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        caller = frame.f_locals.get("self")
        if isinstance(caller, ClientAPI) and "fastapi" not in caller.get_settings().chroma_api_impl.lower():
            problem = "a sparse index needs Chroma Cloud, got a Chroma in this process, which has none"
            raise StoreError(f"{problem}; echo_chroma.hybrid_query searches its collections by vectors and words")
        if frame.f_back is None:
            return
        frame = frame.f_back
