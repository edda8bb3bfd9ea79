"""LangChain's Embeddings over one shared encoder: the options as pydantic fields, four methods. It translates, nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field, model_validator

import echo_core
from echo_core.config import EchoConfig, Runtime
from echo_core.identity.space import fingerprint, space_of

if TYPE_CHECKING:
    from echo_core import EchoEncoder
    from echo_core.methods.finish import Vectors

CONFIG_FIELDS = tuple(field.name for field in dataclasses.fields(EchoConfig))
RUNTIME_FIELDS = tuple(field.name for field in dataclasses.fields(Runtime))


class EchoEmbeddings(BaseModel, Embeddings):  # type: ignore[misc]
    """Echo embeddings as LangChain's ``Embeddings``; the weights load at the first text, once per process and options.

    A server touches ``.encoder`` before it serves: importing torch at the first text would hold up its event loop.

        EchoEmbeddings()                                            # the embedded default model
        EchoEmbeddings(model="HuggingFaceTB/SmolLM2-135M", layer=-2)
        EchoEmbeddings(**EchoEncoder.load(folder).config.to_dict())  # the options that an encoder was saved with

    The fields are those of ``EchoConfig`` and ``Runtime``, explained there. An option that is not given takes the preset of a known checkpoint,
    else the default below. Raises ``pydantic.ValidationError`` for an unknown or wrong option.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())

    model: str | None = Field(default=None, alias="model_name")
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

    device: str = "auto"
    dtype: str = "auto"
    token_budget: int | None = None
    attention: str = "auto"
    compile: bool = False
    progress: bool | None = None
    trust_remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        """The options with presets and defaults filled in, checked by EchoConfig and Runtime, which know the rules."""
        if not isinstance(given, dict):  # an EchoEmbeddings, as a field of another pydantic model
            return given
        if "model" in given and "model_name" in given:
            raise ValueError("model and model_name are one option: give one of them")
        options = {"model" if name == "model_name" else name: value for name, value in given.items()}
        Runtime(**{name: options[name] for name in RUNTIME_FIELDS if name in options})
        return {**options, **EchoConfig(**{name: options[name] for name in CONFIG_FIELDS if name in options}).to_dict()}

    @property
    def config(self) -> EchoConfig:
        """The options that define the vector."""
        return EchoConfig(**{name: getattr(self, name) for name in CONFIG_FIELDS})

    @property
    def runtime(self) -> Runtime:
        """The options that only run it."""
        return Runtime(**{name: getattr(self, name) for name in RUNTIME_FIELDS})

    @property
    def encoder(self) -> EchoEncoder:
        """The process-wide encoder behind this object, loaded at the first use."""
        return echo_core.shared_encoder(self.config, self.runtime)

    @property
    def cache_namespace(self) -> str:
        """The fingerprint of the space, for ``CacheBackedEmbeddings``; reads the model's files, loads no weights.

        It tells models and options apart, not the two roles: ``langchain_echo.cache.cached`` does both.
        """
        return fingerprint(space_of(self.config))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """N vectors of D floats, said with the document template, in the caller's order."""
        return _as_lists(self.encoder.encode_documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """D floats, said with the query template."""
        return _as_lists(self.encoder.encode_queries([text]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """``embed_documents`` without blocking the event loop."""
        encoder: EchoEncoder = await asyncio.to_thread(getattr, self, "encoder")  # the first use loads weights
        return await asyncio.to_thread(_as_lists, await encoder.aencode_documents(texts))

    async def aembed_query(self, text: str) -> list[float]:
        """``embed_query`` without blocking the event loop; concurrent calls share batches."""
        encoder: EchoEncoder = await asyncio.to_thread(getattr, self, "encoder")  # the first use loads weights
        return _as_lists(await encoder.aencode_queries([text]))[0]


def _as_lists(vectors: Vectors) -> list[list[float]]:
    return [
        row.tolist() for row in vectors
    ]  # row by row: one tolist of all holds the GIL, and so the event loop, for its whole length
