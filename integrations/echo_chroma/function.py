"""The embedding function: what Chroma calls, stores and rebuilds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function
from numpy.typing import NDArray

from echo_chroma.guard import check_caller
from echo_chroma.stored import NAME, from_stored, to_stored
from echo_core.config import EchoConfig, Runtime, checked_runtime
from echo_core.errors import EmbeddingSpaceMismatch, VariableError
from echo_core.identity.checkpoint import find_checkpoint, with_absolute_model
from echo_core.identity.presets import config_of
from echo_core.identity.space import check_space, describe_space, space_metadata
from echo_core.identity.weights import weights_identity
from echo_core.search.drift import DriftMap, check_arguments

if TYPE_CHECKING:
    from echo_core.encoder import EchoEncoder

Model: TypeAlias = "EchoEncoder | EchoConfig | str | os.PathLike[str] | None"


@register_embedding_function
class EchoEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]
    """Echo embeddings for Chroma: documents are said with the document template, queries with the query template.

    Making one is cheap: weights are loaded at the first text and shared by the whole process.

    A collection's ``add``, ``upsert``, ``update``, ``query`` and ``modify`` refuse a function of another space than the
    collection's, before anything is embedded or written. What cannot be known here, and is not refused: ready-made
    vectors (``query_embeddings``, ``embeddings``); a collection that says nothing of its vectors, as one made with
    ``embedding_function=None``; and a server that lies about both its function and its weights, whose model would be
    loaded. ``open_collection`` with a config of your own knows the last two.
    """

    def __init__(
        self,
        config: Model = None,
        runtime: Runtime | None = None,
        *,
        weights: str | None = None,
        drift: DriftMap | None = None,
    ) -> None:
        """Check the options.

        Args:
            config: a whole EchoConfig, or a model's name, folder or file, or nothing for the embedded default model. A
                model that is named alone gets the options that were measured best for it. An EchoEncoder is used as
                it is.
            runtime: device, dtype, batch size; never stored.
            weights: identity of the weights that the stored vectors were made with; set when Chroma rebuilds this.
            drift: leads to the vectors of an older collection, which is searched through it and takes no texts.

        Raises:
            ConfigError: an option is unknown, of the wrong type or out of range.
            ModelError: there is no model of this name.
            TypeError: ``config`` or ``runtime`` is something else.
        """
        check_arguments(None, drift)
        self._given: Any = config if hasattr(config, "encode_queries") else None  # its class would import torch
        given: Any = getattr(self._given, "config", config)
        self.config = with_absolute_model(config_of(given))
        self.runtime = checked_runtime(getattr(self._given, "runtime", None) if runtime is None else runtime)
        self.drift = drift
        self._weights = weights

    def __call__(self, input: Documents) -> list[NDArray[np.float32]]:
        """One vector (D,) float32 a text, by the document template.

        Raises:
            EmbeddingSpaceMismatch: the collection that asks holds vectors of another space.
            Exception: what ``EchoEncoder.encode_documents`` raises.
        """
        self.check_writes()
        check_caller(self.space)
        try:
            return list(self.encoder.encode_documents(input))
        except VariableError as error:
            raise VariableError(f"{error}; echo_chroma.add_documents(…, variables=…) takes values") from error

    def embed_query(self, input: Documents) -> list[NDArray[np.float32]]:
        """One vector (D,) float32 a text, by the query template; raises like a call for documents."""
        check_caller(self.stored_space)
        vectors = self.encoder.encode_queries(input)
        return list(vectors if self.drift is None else self.drift(vectors))

    @property
    def encoder(self) -> EchoEncoder:
        """The process-wide encoder of this config, loaded at the first use.

        Raises:
            EmbeddingSpaceMismatch: the model of this config is no longer the one that the collection was made with.
        """
        from echo_core import shared_encoder

        encoder = self._given or shared_encoder(self.config, self.runtime)
        if self._weights is not None:
            where = "the collection that this embedding function comes from"
            check_space(space_metadata(self.space), encoder.space, where)
        return encoder

    @property
    def space(self) -> dict[str, Any]:
        """What must be equal for two vectors to be compared; reads the checkpoint's files once, loads no weights."""
        if self._weights is None:
            self._weights = weights_identity(find_checkpoint(self.config))
        return describe_space(self.config, self._weights)

    @property
    def stored_space(self) -> Mapping[str, Any]:
        """The space of the vectors that this function searches: its own, or the one that its drift map leads to."""
        return self.space if self.drift is None else self.drift.old_space or {}

    def check_writes(self) -> None:
        """Return if texts may be stored with this function.

        Raises:
            EmbeddingSpaceMismatch: it searches through a drift map; what is stored must be of the collection's space.
        """
        if self.drift is not None:
            way_out = "echo_chroma.migrate makes it a collection of the new vectors; or open it with the stored options"
            raise EmbeddingSpaceMismatch(f"a collection opened with drift= can be searched, not written to; {way_out}")

    @staticmethod
    def name() -> str:
        """The name under which Chroma stores this function."""
        return NAME

    @staticmethod
    def build_from_config(config: Mapping[str, Any]) -> EchoEmbeddingFunction:
        """The function that ``get_config`` described; cheap, loads nothing. Raises like ``from_stored``."""
        echo, weights = from_stored(config)
        return EchoEmbeddingFunction(echo, weights=weights)

    def get_config(self) -> dict[str, Any]:
        """What defines the vectors, as JSON types: the config's fields that are set, and the weights' identity.

        Raises:
            EmbeddingSpaceMismatch: ``collection.modify`` is about to write this into a collection of another space;
                Chroma itself checks only after it has written.
        """
        self.check_writes()
        check_caller(self.space)
        return to_stored(self.config, self.space["weights"])

    def default_space(self) -> str:
        """Cosine: only a vector's direction has meaning."""
        return "cosine"

    def supported_spaces(self) -> Sequence[str]:
        """Every distance, if vectors have unit length; else cosine alone."""
        return ["cosine", "l2", "ip"] if self.config.normalize else ["cosine"]

    def validate_config_update(self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]) -> None:
        """Return if both configs give the same vectors.

        Raises:
            EmbeddingSpaceMismatch: they do not; names the fields that differ.
        """
        old, new = (EchoEmbeddingFunction.build_from_config(config).space for config in (old_config, new_config))
        check_space(space_metadata(old), new, "the collection")

    @staticmethod
    def validate_config(config: Mapping[str, Any]) -> None:
        """Return if a function can be built from the config. Raises like ``build_from_config``."""
        EchoEmbeddingFunction.build_from_config(config)
