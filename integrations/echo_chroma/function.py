"""The embedding function: what Chroma calls, stores and rebuilds. Knows nothing of collections."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function
from numpy.typing import NDArray

from echo_chroma.stored import from_stored, to_stored
from echo_core.config import EchoConfig, Runtime
from echo_core.errors import VariableError
from echo_core.identity.checkpoint import find_checkpoint, with_absolute_model
from echo_core.identity.space import check_space, describe_space, space_metadata
from echo_core.identity.weights import weights_identity

if TYPE_CHECKING:
    from echo_core.encoder import EchoEncoder


@register_embedding_function
class EchoEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]
    """Echo embeddings for Chroma: documents are said with the document template, queries with the query template.

    Making one is cheap: weights are loaded at the first text and shared by the whole process.
    """

    def __init__(
        self,
        config: EchoConfig | str | os.PathLike[str] | None = None,
        runtime: Runtime | None = None,
        *,
        weights: str | None = None,
    ) -> None:
        """Check the options.

        Args:
            config: a whole EchoConfig, a model's name or folder, or nothing for the embedded default model.
            runtime: device, dtype, batch size; never stored.
            weights: identity of the weights that the stored vectors were made with; set when Chroma rebuilds the function.

        Raises:
            ConfigError: an option is unknown, of the wrong type or out of range.
        """
        given = (
            config if isinstance(config, EchoConfig) else EchoConfig(os.fspath(config) if config is not None else None)
        )
        self.config = with_absolute_model(given)
        self.runtime = runtime or Runtime()
        self._weights = weights

    def __call__(self, input: Documents) -> list[NDArray[np.float32]]:
        """One vector (D,) float32 a text, by the document template. Raises like ``EchoEncoder.encode_documents``."""
        try:
            return list(self.encoder.encode_documents(input))
        except VariableError as error:
            raise VariableError(f"{error}; echo_chroma.add_documents(…, variables=…) takes values") from error

    def embed_query(self, input: Documents) -> list[NDArray[np.float32]]:
        """One vector (D,) float32 a text, by the query template. Raises like ``EchoEncoder.encode_queries``."""
        return list(self.encoder.encode_queries(input))

    @property
    def encoder(self) -> EchoEncoder:
        """The process-wide encoder of this config, loaded at the first use.

        Raises:
            EmbeddingSpaceMismatch: the model of this config is no longer the one that the collection was made with.
        """
        from echo_core.encoder import shared_encoder

        encoder = shared_encoder(self.config, self.runtime)
        if self._weights is not None:
            check_space(
                space_metadata(self.space), encoder.space, "the collection that this embedding function comes from"
            )
        return encoder

    @property
    def space(self) -> dict[str, Any]:
        """What must be equal for two vectors to be compared. Reads the checkpoint's files at most once; loads no weights."""
        if self._weights is None:
            self._weights = weights_identity(find_checkpoint(self.config))
        return describe_space(self.config, self._weights)

    @staticmethod
    def name() -> str:
        """The name under which Chroma stores this function."""
        return "echo_embed"

    @staticmethod
    def build_from_config(config: Mapping[str, Any]) -> EchoEmbeddingFunction:
        """The function that ``get_config`` described; cheap, loads nothing. Raises like ``from_stored``."""
        echo, weights = from_stored(config)
        return EchoEmbeddingFunction(echo, weights=weights)

    def get_config(self) -> dict[str, Any]:
        """What defines the vectors, as JSON types: the config's fields that are set, and the weights' identity."""
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
