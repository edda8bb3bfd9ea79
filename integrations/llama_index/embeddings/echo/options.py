"""The options of an echo model as pydantic fields: LlamaIndex's names, the core's defaults and rules."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from echo_core.config import EchoConfig, Runtime

CONFIG_FIELDS = {
    field.name: "model_name" if field.name == "model" else field.name for field in dataclasses.fields(EchoConfig)
}
RUNTIME_FIELDS = tuple(field.name for field in dataclasses.fields(Runtime))


class EchoOptions(BaseModel):
    """The fields of ``EchoConfig`` (its ``model`` is ``model_name`` here) and ``Runtime``, explained there.

    An option that is not given takes the preset of a known checkpoint, else the default below. Raises ``pydantic.ValidationError`` for an unknown
    or wrong option.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

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

    embed_batch_size: int = Field(
        default=512, gt=0, le=2048
    )  # texts handed over at once; the encoder sorts and batches them by tokens
    embeddings_cache: None = Field(default=None, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        """The options with presets and defaults filled in, checked by EchoConfig and Runtime, which know the rules."""
        if not isinstance(given, dict):  # an EchoEmbedding, as a field of another pydantic model
            return given
        if given.get("embeddings_cache") is not None:
            rule = "must be None: it keys on the text alone, so that a query would get the vector of the same text as a document"
            raise ValueError(
                f"embeddings_cache {rule}; use IngestionPipeline(cache=...), which keys on the options too"
            )
        Runtime(**{name: given[name] for name in RUNTIME_FIELDS if name in given})
        config = EchoConfig(**{knob: given[field] for knob, field in CONFIG_FIELDS.items() if field in given})
        return {**given, **{CONFIG_FIELDS[knob]: value for knob, value in config.to_dict().items()}}

    @property
    def config(self) -> EchoConfig:
        """The options that define the vector."""
        return EchoConfig(**{knob: getattr(self, field) for knob, field in CONFIG_FIELDS.items()})

    @property
    def runtime(self) -> Runtime:
        """The options that only run it."""
        return Runtime(**{name: getattr(self, name) for name in RUNTIME_FIELDS})
