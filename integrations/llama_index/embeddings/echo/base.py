"""LlamaIndex's BaseEmbedding over one shared encoder: six methods. It translates, nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.embeddings.base import BaseEmbedding

import echo_core
from echo_core.identity.space import fingerprint, space_of
from llama_index.embeddings.echo.options import EchoOptions

if TYPE_CHECKING:
    from echo_core import EchoEncoder
    from echo_core.methods.finish import Vectors


class EchoEmbedding(EchoOptions, BaseEmbedding):  # type: ignore[misc]
    """Echo embeddings as LlamaIndex's ``BaseEmbedding``; the weights load at the first text, once per process and options.

    A server touches ``.encoder`` before it serves: importing torch at the first text would hold up its event loop.

        Settings.embed_model = EchoEmbedding()                        # the embedded default model
        EchoEmbedding(model_name="HuggingFaceTB/SmolLM2-135M", layer=-2)

    The options are those of ``EchoOptions``.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "EchoEmbedding"

    @property
    def encoder(self) -> EchoEncoder:
        """The process-wide encoder behind this object, loaded at the first use."""
        return echo_core.shared_encoder(self.config, self.runtime)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The fields that define the vector, and the space's fingerprint: IngestionPipeline's cache key, so other weights in the folder change it."""
        return {**super().to_dict(**kwargs), "fingerprint": fingerprint(space_of(self.config))}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> EchoEmbedding:
        """The object that ``to_dict`` wrote; runtime options are given anew."""
        fields = {key: value for key, value in data.items() if key != "fingerprint"}
        return cast(EchoEmbedding, super().from_dict(fields, **kwargs))

    def _get_query_embedding(self, query: str) -> list[float]:
        return _as_lists(self.encoder.encode_queries([query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _as_lists(self.encoder.encode_documents(texts))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        encoder: EchoEncoder = await asyncio.to_thread(getattr, self, "encoder")  # the first use loads weights
        return _as_lists(await encoder.aencode_queries([query]))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        encoder: EchoEncoder = await asyncio.to_thread(getattr, self, "encoder")  # the first use loads weights
        return await asyncio.to_thread(_as_lists, await encoder.aencode_documents(texts))


def _as_lists(vectors: Vectors) -> list[list[float]]:
    return [
        row.tolist() for row in vectors
    ]  # row by row: one tolist of all holds the GIL, and so the event loop, for its whole length
