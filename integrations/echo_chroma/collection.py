"""Collections that know which embeddings they hold: made with cosine distance and the space beside the vectors, checked when opened.

They are plain Chroma collections. LangChain's and LlamaIndex's stores use the same ones: open the collection here, then hand it (or its name) over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection

from echo_chroma.function import EchoEmbeddingFunction
from echo_core.config import EchoConfig, Runtime
from echo_core.identity.space import FINGERPRINT_KEY, check_space, space_metadata, space_of


def open_collection(
    client: ClientAPI, name: str, config: EchoConfig | None = None, runtime: Runtime | None = None
) -> Collection:
    """The collection of this name, made if there is none, whose vectors are those of ``config``. Loads no weights.

    Args:
        client: any synchronous Chroma client.
        name: of the collection.
        config: None for the embedded default model.
        runtime: how texts are embedded; never stored.

    Raises:
        EmbeddingSpaceMismatch: the collection holds other vectors, or does not say which; names what differs.
        ModelError: no such model.
    """
    function = EchoEmbeddingFunction(config, runtime)
    collection = client.get_or_create_collection(name, embedding_function=None, **collection_options(function))
    check_stored_space(collection, function.space)
    return client.get_collection(name, embedding_function=function)


def collection_options(function: EchoEmbeddingFunction) -> dict[str, Any]:
    """``metadata`` and ``configuration`` for making a collection of this function's vectors."""
    return {
        "metadata": space_metadata(function.space),
        "configuration": {"hnsw": {"space": function.default_space()}, "embedding_function": function},
    }


def check_collection(collection: Collection, config: EchoConfig | None = None) -> None:
    """Return if the collection, made by whatever way, holds vectors of ``config``.

    Raises:
        EmbeddingSpaceMismatch: it holds others, or does not say which; names what differs.
        ValueError: the function stored in it cannot be rebuilt (from Chroma, with our ConfigError's text).
    """
    check_stored_space(collection, space_of(config or EchoConfig()))


def check_stored_space(collection: Collection, space: Mapping[str, Any]) -> None:
    """``check_collection`` for a space."""
    stored = collection.metadata
    if FINGERPRINT_KEY not in (
        stored or {}
    ):  # made by Chroma's own means; if with our function, then that says the space
        function = collection.configuration.get("embedding_function")
        stored = space_metadata(function.space) if isinstance(function, EchoEmbeddingFunction) else None
    check_space(stored, space, f"Chroma collection {collection.name!r}{_made_with(collection)}")


def _made_with(collection: Collection) -> str:
    """The stored model's name, for a message: hashes of weights say nothing to a person."""
    function = collection.configuration_json.get("embedding_function") or {}
    if function.get("name") != EchoEmbeddingFunction.name():
        return ""
    return f", made with {function['config'].get('model', 'the embedded default model')},"
