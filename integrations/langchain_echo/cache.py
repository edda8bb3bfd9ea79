"""LangChain's CacheBackedEmbeddings with keys that name the model, the options and the role."""

from __future__ import annotations

try:
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import EncoderBackedStore
except ModuleNotFoundError as error:
    raise ImportError(
        "langchain_echo.cache needs langchain-classic: pip install 'echo-embed[langchain]' langchain-classic"
    ) from error

from langchain_core.stores import ByteStore

from langchain_echo.embeddings import EchoEmbeddings


def cached(embeddings: EchoEmbeddings, store: ByteStore) -> CacheBackedEmbeddings:
    """Embeddings that keep every vector in ``store``, queries and documents under keys of their own.

    CacheBackedEmbeddings alone keys on a namespace and the text, and with ``query_embedding_cache=True`` a query gets
    the vector of the same text as a document. Here a key is ``<fingerprint><sha256 of the text>`` for a document, with
    ``query-`` before it for a query, so that one store can serve several models, options and both roles.
    """
    queries = EncoderBackedStore[str, bytes](store, "query-{}".format, bytes, bytes)
    namespace = embeddings.cache_namespace
    return CacheBackedEmbeddings.from_bytes_store(
        embeddings, store, namespace=namespace, query_embedding_cache=queries, key_encoder="sha256"
    )
