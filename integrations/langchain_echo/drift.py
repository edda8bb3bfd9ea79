"""EchoEmbeddings that search an index of an older encoder, for any of LangChain's stores."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from echo_core import EmbeddingSpaceMismatch
from echo_core.search import DriftMap


class DriftedEmbeddings(Embeddings):  # type: ignore[misc]
    """Embeddings whose queries are mapped into an older space, and which embed no documents.

        store = SomeStore(embedding=DriftedEmbeddings(EchoEmbeddings(), DriftMap.load("to-old.safetensors")))

    Only ``langchain_echo.chroma.EchoChroma(drift=…)`` checks that the store holds what the map leads to.
    """

    def __init__(self, embeddings: Embeddings, drift: DriftMap) -> None:
        """Take EchoEmbeddings, or a cache around them, and the map from their space.

        Raises:
            TypeError: one of them is something else.
        """
        for name, given, kind in (("embeddings", embeddings, Embeddings), ("drift", drift, DriftMap)):
            if not isinstance(given, kind):
                raise TypeError(f"{name} must be {kind.__name__}, got {type(given).__name__}")
        self.underlying_embeddings = embeddings
        self.drift = drift

    def embed_query(self, text: str) -> list[float]:
        """D floats in the older space."""
        return self._mapped(self.underlying_embeddings.embed_query(text))

    async def aembed_query(self, text: str) -> list[float]:
        """``embed_query`` without blocking the event loop."""
        return self._mapped(await self.underlying_embeddings.aembed_query(text))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """An error: a document's mapped vector beside older ones would only look like one of them.

        Raises:
            EmbeddingSpaceMismatch: always, but for no texts.
        """
        if texts:
            way_out = "echo_chroma.migrate makes it a store of the new ones; or open it with the stored options"
            raise EmbeddingSpaceMismatch(f"a store opened with drift= can be searched, not written to; {way_out}")
        return []

    def _mapped(self, vector: list[float]) -> list[float]:
        return [float(x) for x in self.drift(vector)]
