"""Echo embeddings in Chroma: a function that Chroma stores and rebuilds, and collections that take no other vectors.

Import this package in every process that opens such a collection, so that Chroma can rebuild the function.
"""

try:
    import chromadb  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "chromadb":
        raise
    raise ImportError("echo_chroma needs Chroma; install it with: pip install 'echo-embed[chroma]'") from error

from echo_chroma.collection import check_collection, collection_options, open_collection
from echo_chroma.documents import Added, Synced, add_documents, sync_documents
from echo_chroma.drift import fit_drift
from echo_chroma.function import EchoEmbeddingFunction
from echo_chroma.hybrid import hybrid_query
from echo_chroma.migrate import migrate
from echo_chroma.migrating import MigratingSearch
from echo_chroma.sparse_function import EchoSparseEmbeddingFunction
from echo_chroma.store import open_client
from echo_core.identity.document_ids import document_id

__all__ = [
    "Added",
    "EchoEmbeddingFunction",
    "EchoSparseEmbeddingFunction",
    "MigratingSearch",
    "Synced",
    "add_documents",
    "check_collection",
    "collection_options",
    "document_id",
    "fit_drift",
    "hybrid_query",
    "migrate",
    "open_client",
    "open_collection",
    "sync_documents",
]
