"""The one encoder behind all routes: names and roles of requests, their size, their vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import echo_core
from echo_core import ConfigError, EchoConfig, Runtime, VariableError
from echo_core.config import ROLES
from echo_core.template import parse_template
from echo_server.failures import SHOWN, Refusal
from echo_server.limits import Load
from echo_server.schemas import INPUT_TYPES

if TYPE_CHECKING:
    from echo_core import EchoEncoder

DEFAULT_NAME = "echo-mini-en"  # of the embedded model
_DIMENSIONS = 32  # encoders of a smaller dimension that are kept; they share the weights


class Service:
    """An encoder that is loaded once, by ``load``."""

    def __init__(self, config: EchoConfig, runtime: Runtime, name: str | None, load: Load) -> None:
        """Load nothing yet.

        Args:
            config: what defines the vectors.
            runtime: what runs them.
            name: under which clients know the model; None: the last part of its own.
            load: what is under way.

        Raises:
            VariableError: the templates have variables that no request can give a value.
            ConfigError: the name ends as the suffix of a role does.
        """
        others = config.template_variables() - {"text", "instruction"}
        if others:
            rule = f"the templates must have no variables but {{text}} and {{instruction}}, got {sorted(others)}"
            raise VariableError(f"{rule}; no field of OpenAI's API could give them values")
        self.config, self.runtime, self.under_way = config, runtime, load
        self.name = name or (DEFAULT_NAME if config.model is None else Path(config.model).name)
        if self.name.endswith(tuple(f":{role}" for role in ROLES)):
            rule = "must not end in :query or :document, by which requests name a role"
            raise ConfigError(f"the served name {rule}, got {self.name!r}; give another: --name, or create_app(name=…)")
        self.encoder: EchoEncoder | None = None
        self._of_dimension = lru_cache(_DIMENSIONS)(self._smaller)

    def load(self) -> None:
        """Load the model and run it once for each role, so that no request waits for that."""
        encoder = echo_core.shared_encoder(self.config, self.runtime)
        for role in ROLES:
            _encode(encoder, role)(["warm"], instruction=_filler(self.config, role))
        self.encoder = encoder

    @property
    def loaded(self) -> EchoEncoder:
        """The encoder; Refusal (503) before it is loaded."""
        if self.encoder is None:
            raise Refusal(503, "the model is not loaded yet; try again in a moment", headers={"Retry-After": "1"})
        return self.encoder

    def names(self) -> list[str]:
        """The model's name, alone and with the suffix of each role."""
        return [self.name, *(f"{self.name}:{role}" for role in ROLES)]

    def role_of(self, model: str, input_type: str | None = None) -> str:
        """The role that a request means: by its ``input_type``, else its model's suffix, else "document".

        Raises:
            Refusal: 404, another model; 422, suffix and type say different things.
        """
        if model not in self.names():
            known = ", ".join(self.names())
            raise Refusal(
                404, f"model must be one of {known}, got {model[:SHOWN]!r}", field="model", code="model_not_found"
            )
        by_name = model.removeprefix(self.name).removeprefix(":") or None
        by_type = INPUT_TYPES[input_type] if input_type is not None else None
        if by_name and by_type and by_name != by_type:
            rule = f"must mean the same role as the model's name, {model!r}, got {input_type!r}"
            raise Refusal(422, f"input_type: {rule}; leave one of them out", field="input_type")
        return by_type or by_name or "document"

    def of_dimension(self, dimensions: int | None) -> EchoEncoder:
        """The encoder that keeps the first numbers of its vectors, on the same weights; Refusal (422) if it cannot."""
        if dimensions is None or dimensions == self.loaded.dimension:
            return self.loaded
        if dimensions > self.loaded.dimension:
            rule = f"must be at most {self.loaded.dimension} for this model, got {dimensions}"
            raise Refusal(422, f"dimensions: {rule}", field="dimensions")
        return self._of_dimension(dimensions)

    async def embed(
        self, encoder: EchoEncoder, texts: Sequence[str], role: str, instruction: str | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """The vectors (N, D) of N texts, and the number of tokens that the model was given.

        Raises:
            Refusal: 413, more texts or tokens than one request may have; 429, too many are waiting.
            EchoError: a text or an instruction that cannot be said.
        """
        self.under_way.check_texts(len(texts))
        tokens = sum(await asyncio.to_thread(encoder.count_tokens, texts, role, instruction=instruction))
        with self.under_way.work(tokens):
            encode: Mapping[str, Callable[..., Awaitable[Any]]]
            encode = {"document": encoder.aencode_documents, "query": encoder.aencode_queries}
            return await encode[role](texts, instruction=instruction), tokens

    def _smaller(self, dimensions: int) -> EchoEncoder:
        try:
            return self.loaded.with_options(dimension=dimensions)
        except ConfigError as error:
            raise Refusal(422, f"dimensions: {error}", field="dimensions") from error


def _encode(encoder: EchoEncoder, role: str) -> Callable[..., Any]:
    return {"document": encoder.encode_documents, "query": encoder.encode_queries}[role]


def _filler(config: EchoConfig, role: str) -> str | None:
    """A value of {instruction} for a text that nobody will see, where requests must give one."""
    needs = "instruction" in parse_template(config.template(role)).variables
    return " " if needs and config.instruction is None else None
