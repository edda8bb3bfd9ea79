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

from echo_core.text.inputs import check_text, check_texts
from echo_options import listed, numbered_as_in
from langchain_echo.embeddings import EchoEmbeddings


class _Cached(CacheBackedEmbeddings):
    """Errors name a text by its place in the call, not by that among the texts that the cache lacks."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        with numbered_as_in(given := listed(texts)):
            return super().embed_documents(check_texts(given))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        with numbered_as_in(given := listed(texts)):
            return await super().aembed_documents(check_texts(given))

    def embed_query(self, text: str) -> list[float]:
        return super().embed_query(check_text(text, 0))

    async def aembed_query(self, text: str) -> list[float]:
        return await super().aembed_query(check_text(text, 0))


def cached(embeddings: EchoEmbeddings, store: ByteStore) -> CacheBackedEmbeddings:
    """Embeddings that keep every vector in ``store``, queries and documents under keys of their own.

    CacheBackedEmbeddings alone keys on a namespace and the text, and with ``query_embedding_cache=True`` a query gets
    the vector of the same text as a document. Here a key is ``<fingerprint><sha256 of the text>`` for a document, with
    ``query-`` before it for a query, so that one store can serve several models, options and both roles. An error about
    a text names its place in the call; around plain CacheBackedEmbeddings it is that among the texts that it lacks.
    """
    queries = EncoderBackedStore[str, bytes](store, "query-{}".format, bytes, bytes)
    namespace = embeddings.cache_namespace
    return _Cached.from_bytes_store(
        embeddings, store, namespace=namespace, query_embedding_cache=queries, key_encoder="sha256"
    )
