"""Which vectors a collection holds, and the check that others never get in or are searched for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from chromadb.api.models.CollectionCommon import CollectionCommon

from echo_chroma.stored import NAME, from_stored
from echo_core.identity.space import (
    FINGERPRINT_KEY,
    check_space,
    describe_space,
    fingerprint,
    read_space,
    space_metadata,
)
from echo_core.search import DriftMap

_FRAMES = 16  # from the function up to the collection's method; Chroma puts tracing and validation between them


def check_is_collection(collection: object) -> None:
    """Return if it is a collection of Chroma, which a name or a client is often given in place of.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(collection, CollectionCommon):
        rule = "collection must be a collection of Chroma, as open_collection gives it"
        raise TypeError(f"{rule}, got {type(collection).__name__}")


def check_stored_space(collection: CollectionCommon[Any], space: Mapping[str, Any]) -> None:
    """Return if the collection holds vectors of ``space``.

    Raises:
        EmbeddingSpaceMismatch: it holds others, or does not say which; names what differs.
        ConfigError: the function stored in it cannot be read.
        TypeError: it is no collection.
    """
    check_is_collection(collection)
    check_space(_stored_space(collection), space, f"Chroma collection {collection.name!r}{_made_with(collection)}")


def holds(collection: CollectionCommon[Any], space: Mapping[str, Any]) -> bool:
    """True if the collection says that it holds vectors of ``space``."""
    return (_stored_space(collection) or {}).get(FINGERPRINT_KEY) == fingerprint(space)


def stored_space(collection: CollectionCommon[Any]) -> dict[str, Any]:
    """The space of the collection's vectors.

    Raises:
        EmbeddingSpaceMismatch: the collection does not say it.
        TypeError: it is no collection.
    """
    check_is_collection(collection)
    return read_space(_stored_space(collection), f"Chroma collection {collection.name!r}")


def check_drift(collection: CollectionCommon[Any], space: Mapping[str, Any], drift: DriftMap) -> None:
    """Return if a drift map leads from ``space`` to what the collection holds.

    Raises:
        EmbeddingSpaceMismatch: it begins or ends elsewhere; names what differs.
    """
    drift.check(space, _stored_space(collection), f"Chroma collection {collection.name!r}")


def check_caller(space: Mapping[str, Any]) -> None:
    """Return unless a collection's method runs this, and the collection says that it holds vectors of another space.

    Chroma hands its function nothing but texts: the collection they are for is known only from the stack.

    Raises:
        EmbeddingSpaceMismatch: it does; names what differs.
    """
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        caller = frame.f_locals.get("self")
        if isinstance(caller, CollectionCommon):
            if _stored_space(caller) is not None:
                check_stored_space(caller, space)
            return
        if frame.f_back is None:
            return
        frame = frame.f_back


def _stored_space(collection: CollectionCommon[Any]) -> Mapping[str, Any] | None:
    """Metadata as ``space_metadata`` makes it: the collection's, else its stored function's; None: neither is there."""
    if FINGERPRINT_KEY in (collection.metadata or {}):
        return collection.metadata  # type: ignore[no-any-return]
    function = _stored_function(collection)
    if function is None:  # made by Chroma's own means, and not with our function
        return None
    return space_metadata(describe_space(*from_stored(function.get("config"))))


def _made_with(collection: CollectionCommon[Any]) -> str:
    """The stored model's name, for a message: hashes of weights say nothing to a person."""
    config = (_stored_function(collection) or {}).get("config")
    return f", made with {config.get('model', 'the embedded default model')}," if isinstance(config, Mapping) else ""


def _stored_function(collection: CollectionCommon[Any]) -> Mapping[str, Any] | None:
    function = (collection.configuration_json or {}).get("embedding_function")
    return function if isinstance(function, Mapping) and function.get("name") == NAME else None
