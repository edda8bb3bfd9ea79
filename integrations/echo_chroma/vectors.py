"""Ready-made vectors in a collection, and what its distances say; what LangChain's and LlamaIndex's stores share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection

from echo_chroma.changes import in_place_of
from echo_chroma.function import EchoEmbeddingFunction
from echo_chroma.store import reaching, record_bytes, store_in_parts, stored_under
from echo_core.errors import ConfigError

# Chroma's distance → the cosine of unit vectors; "l2" is squared.
_COSINES: dict[str, Callable[[float], float]] = {
    "cosine": lambda distance: 1 - distance,
    "ip": lambda distance: 1 - distance,
    "l2": lambda distance: 1 - distance / 2,
}


def put_vectors(
    client: ClientAPI,
    collection: Collection,
    ids: Sequence[str],
    vectors: Sequence[Sequence[float]],
    texts: Sequence[str],
    metadatas: Sequence[Mapping[str, Any] | None],
    number: int = 0,
    note: str = "",
) -> None:
    """Store records, each in place of the one that has its id, in calls that the store takes.

    Args:
        client: the collection's.
        collection: any.
        ids: of N records, each once.
        vectors: N of D floats.
        texts: N.
        metadatas: N, without None values.
        number: place of the first in the caller's order, for messages; those before it are stored.
        note: what a message says besides of those that are stored.

    Raises:
        StoreError: the store does not answer, or finds one record too large; says what is stored.
    """
    with reaching(collection.name, f"at least the first {number} of this call are stored{note}"):
        whole = _replacing(collection, ids, metadatas)

        def put(part: slice) -> None:
            collection.upsert(list(ids[part]), list(vectors[part]), whole[part], list(texts[part]))

        records = zip(ids, texts, whole, vectors, strict=True)
        sizes = [record_bytes(id, text, meta, len(vector)) for id, text, meta, vector in records]
        store_in_parts(client, sizes, put, lambda index: f"text {number + index}")


def _replacing(
    collection: Collection, ids: Sequence[str], metadatas: Sequence[Mapping[str, Any] | None]
) -> list[dict[str, Any] | None]:
    """The metadata to write in place of what the collection holds under these ids."""
    found = stored_under(collection, ids, ["metadatas"])
    old = dict(zip(found["ids"], found["metadatas"], strict=True))
    return [in_place_of(old.get(id), new) for id, new in zip(ids, metadatas, strict=True)]


def check_distance(kind: str, function: EchoEmbeddingFunction, name: str) -> None:
    """Return if a collection's distance tells the cosine of the function's vectors.

    Raises:
        ConfigError: it does not; vectors that are not of unit length need "cosine".
    """
    if kind not in function.supported_spaces():
        rule = f"space of Chroma collection {name!r} must be 'cosine' for vectors without unit length"
        raise ConfigError(f"{rule}, got {kind!r}; set normalize=True, or index its texts again into one with cosine")


def cosines_of(collection: Collection) -> Callable[[float], float]:
    """A function: the collection's distance between two vectors → their cosine, in [-1, 1]."""
    cosine = _COSINES[distance_of(collection)]
    return lambda distance: min(1.0, max(-1.0, cosine(distance)))


def distance_of(collection: Collection) -> str:
    """What the collection measures: "cosine", "ip" or "l2"."""
    settings = collection.configuration_json or {}
    return str((settings.get("hnsw") or settings.get("spann") or {}).get("space") or "l2")  # l2 is Chroma's default
