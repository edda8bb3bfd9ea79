"""Collections that know which embeddings they hold: made with cosine distance and the space beside the vectors.

They are plain Chroma collections. LangChain's and LlamaIndex's stores use the same ones: open the collection here, then
hand it (or its name) over.
"""

from __future__ import annotations

import os
from typing import Any

from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection

from echo_chroma.function import EchoEmbeddingFunction, Model
from echo_chroma.guard import check_drift, check_stored_space
from echo_chroma.store import open_client, reaching
from echo_chroma.switch import complete_switch
from echo_core.config import EchoConfig, Runtime
from echo_core.identity.space import space_metadata, space_of
from echo_core.search import DriftMap


def open_collection(
    client: ClientAPI | str | os.PathLike[str],
    name: str,
    config: Model = None,
    runtime: Runtime | None = None,
    *,
    drift: DriftMap | None = None,
) -> Collection:
    """The collection of this name, made if there is none, whose vectors are those of ``config``. Loads no weights.

    Args:
        client: a folder, or any synchronous Chroma client. Only a folder may be new to two processes at once: with
            ``PersistentClient(folder)`` in both, one of them can die of Chroma's "table collections already exists".
        name: of the collection.
        config: a whole EchoConfig, a model's name, folder or file, or None for the embedded default model; or an
            EchoEncoder that is loaded already.
        runtime: how texts are embedded; never stored.
        drift: leads from the vectors of ``config`` to those of a collection that another model or other options made;
            it is searched through the map, and not written to.

    Raises:
        EmbeddingSpaceMismatch: the collection holds other vectors, or does not say which; or the map begins or ends
            elsewhere. Names what differs.
        NotFoundError: of Chroma, where there is no such collection to search through ``drift``.
        ConfigError: an option is wrong, or the function stored in the collection cannot be read.
        ModelError: no such model.
        StoreError: the store does not answer.
    """
    return open_for(EchoEmbeddingFunction(config, runtime, drift=drift), client, name)


def open_for(function: EchoEmbeddingFunction, client: ClientAPI | str | os.PathLike[str], name: str) -> Collection:
    """``open_collection`` for the vectors of a function."""
    with reaching(name, "nothing was changed"):
        opened = open_client(client) if isinstance(client, str | os.PathLike) else client
        if function.drift is not None:
            collection = opened.get_collection(name, embedding_function=None)
        else:
            options = collection_options(function)
            collection = opened.get_or_create_collection(name, embedding_function=None, **options)
            if complete_switch(opened, name):
                collection = opened.get_collection(name, embedding_function=None)
        check_opened(collection, function)
        return opened.get_collection(name, embedding_function=function)


def check_opened(collection: Collection, function: EchoEmbeddingFunction) -> None:
    """Return if the collection holds what the function searches. Raises EmbeddingSpaceMismatch if not."""
    if function.drift is None:
        check_stored_space(collection, function.space)
    else:
        check_drift(collection, function.space, function.drift)


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
        ConfigError: the function stored in it cannot be read.
    """
    check_stored_space(collection, space_of(config or EchoConfig()))
