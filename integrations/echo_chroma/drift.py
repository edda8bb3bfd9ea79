"""Maps from a new encoder to what a collection holds, fitted on its own texts and vectors; no old model is needed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from chromadb.api.models.Collection import Collection

from echo_chroma.function import EchoEmbeddingFunction, Model
from echo_chroma.guard import stored_space
from echo_chroma.run import PAGE
from echo_chroma.store import reaching, stored_under
from echo_core.config import Runtime
from echo_core.errors import check_integer
from echo_core.search import DriftMap


def fit_drift(collection: Collection, new: Model = None, runtime: Runtime | None = None, texts: int = 500) -> DriftMap:
    """The map by which another encoder searches the collection: ``open_collection(…, drift=map)``.

    Args:
        collection: holds texts and their vectors; says which space they are of.
        new: the encoder: an EchoEncoder, an EchoConfig, a model's name, folder or file; None: the embedded model.
        runtime: how texts are embedded.
        texts: how many of the collection's are embedded, at random.

    Raises:
        EmbeddingSpaceMismatch: the collection does not say what it holds.
        ConfigError: it holds fewer than 20 texts.
        StoreError: the store does not answer.
    """
    check_integer("texts", texts, 1)
    encoder = EchoEmbeddingFunction(new, runtime).encoder
    space = stored_space(collection)
    with reaching(collection.name, "nothing was changed"):
        pairs = _sample(collection, texts)
    listed = [text for text, _ in pairs]
    vectors = np.asarray([vector for _, vector in pairs], dtype=np.float32).reshape(len(pairs), -1)
    return DriftMap.fit(encoder, vectors, listed, role="document", old_space=space)


def _sample(collection: Collection, count: int) -> list[tuple[str, Any]]:
    """Texts and their vectors, at random, but those that say nothing."""
    ids: list[str] = []
    while page := collection.get(limit=PAGE, offset=len(ids), include=[])["ids"]:
        ids += page
    chosen = random.Random(0).sample(sorted(ids), min(count, len(ids)))
    found = stored_under(collection, chosen, ["documents", "embeddings"])
    rows = zip(found["documents"], found["embeddings"], strict=True)
    return [(text, vector) for text, vector in rows if text and text.strip()]
