"""LlamaIndex's BaseEmbedding over one shared encoder: the options as pydantic fields, six methods. It translates, nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import ConfigDict, Field, model_validator

import echo_core
from echo_core.config import EchoConfig, Runtime
from echo_core.space import fingerprint, space_of

if TYPE_CHECKING:
    from echo_core import EchoEncoder
    from echo_core.vectors import Vectors

CONFIG_FIELDS = {field.name: "model_name" if field.name == "model" else field.name for field in dataclasses.fields(EchoConfig)}
RUNTIME_FIELDS = tuple(field.name for field in dataclasses.fields(Runtime))


class EchoEmbedding(BaseEmbedding):  # type: ignore[misc]
    """Echo embeddings as LlamaIndex's ``BaseEmbedding``; the weights load at the first text, once per process and options.

    A server touches ``.encoder`` before it serves: importing torch at the first text would hold up its event loop.

        Settings.embed_model = EchoEmbedding()                        # the embedded default model
        EchoEmbedding(model_name="HuggingFaceTB/SmolLM2-135M", layer=-2)

    The fields are those of ``EchoConfig`` (its ``model`` is ``model_name`` here) and ``Runtime``, explained there. An option that is not given
    takes the preset of a known checkpoint, else the default below. Raises ``pydantic.ValidationError`` for an unknown or wrong option.
    """

    model_config = ConfigDict(extra="forbid")

    model_name: str | None = None
    revision: str | None = None
    query_template: str = "echo"
    document_template: str = "echo"
    instruction: str | None = None
    pooling: str = "mean"
    layer: int | tuple[int, ...] = -1
    max_tokens: int = 256
    overflow: str = "window"
    overlap: int = 0
    seam: str = "joined"
    empty: str = "error"
    prepend_layers: int | None = None
    centre: tuple[float, ...] | None = Field(default=None, repr=False)
    filter: float | None = None
    dimension: int | None = None
    normalize: bool = True

    # What only runs it stays out of to_dict, which is a cache key and may be stored.
    device: str = Field(default="auto", exclude=True)
    dtype: str = Field(default="auto", exclude=True)
    token_budget: int | None = Field(default=None, exclude=True)
    attention: str = Field(default="auto", exclude=True)
    compile: bool = Field(default=False, exclude=True)
    progress: bool | None = Field(default=False, exclude=True)  # LlamaIndex has a bar of its own, show_progress=True
    trust_remote_code: bool = Field(default=False, exclude=True)

    embed_batch_size: int = Field(default=512, gt=0, le=2048)  # texts handed over at once; the encoder sorts and batches them by tokens
    embeddings_cache: None = Field(default=None, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        """The options with presets and defaults filled in, checked by EchoConfig and Runtime, which know the rules."""
        if not isinstance(given, dict):  # an EchoEmbedding, as a field of another pydantic model
            return given
        if given.get("embeddings_cache") is not None:
            rule = "must be None: it keys on the text alone, so that a query would get the vector of the same text as a document"
            raise ValueError(f"embeddings_cache {rule}; use IngestionPipeline(cache=...), which keys on the options too")
        Runtime(**{name: given[name] for name in RUNTIME_FIELDS if name in given})
        config = EchoConfig(**{knob: given[field] for knob, field in CONFIG_FIELDS.items() if field in given})
        return {**given, **{CONFIG_FIELDS[knob]: value for knob, value in config.to_dict().items()}}

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "EchoEmbedding"

    @property
    def config(self) -> EchoConfig:
        """The options that define the vector."""
        return EchoConfig(**{knob: getattr(self, field) for knob, field in CONFIG_FIELDS.items()})

    @property
    def runtime(self) -> Runtime:
        """The options that only run it."""
        return Runtime(**{name: getattr(self, name) for name in RUNTIME_FIELDS})

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
    return [row.tolist() for row in vectors]  # row by row: one tolist of all holds the GIL, and so the event loop, for its whole length
