"""The app: its routes, and what stands before them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from echo_core import ConfigError, EchoConfig, Runtime
from echo_core.config import checked_runtime
from echo_core.identity.checkpoint import with_absolute_model
from echo_core.identity.presets import config_of
from echo_server.access import LOCAL, Access
from echo_server.answers import embeddings_body
from echo_server.failures import Refusal, handle_failures
from echo_server.limits import Admission, Limits, Load
from echo_server.metrics import Measured, Metrics
from echo_server.passages import Passages
from echo_server.schemas import EmbeddingsBody
from echo_server.search import add_search
from echo_server.service import Service

T = TypeVar("T")
_SMALL = 20_000  # numbers: an answer of so many is written at once, a larger one in a thread


def create_app(
    config: EchoConfig | str | os.PathLike[str] | None = None,
    runtime: Runtime | None = None,
    *,
    name: str | None = None,
    api_key: str | None = None,
    limits: Limits | None = None,
    hosts: Collection[str] | None = LOCAL,
    passages: Passages | None = None,
) -> FastAPI:
    """An ASGI app that serves one model, which is loaded when the app starts.

    Args:
        config: a whole EchoConfig, a model's name, folder or file, or None for the embedded default model.
        runtime: how vectors are computed.
        name: under which clients know the model; None: the last part of its own name.
        api_key: that requests must bring; None: none.
        limits: of requests.
        hosts: the names in a request's Host header that are answered; None: any.
        passages: what the page at ``/`` searches; None: nothing, and the page says how to.

    Raises:
        VariableError: a template has variables that no request can give a value.
        ConfigError: an empty key, one string for ``hosts``, or an option that is wrong.
        TypeError: an argument of another type.
    """
    _check_access(api_key, hosts)
    _check_types(name=(name, str), limits=(limits, Limits), passages=(passages, Passages))
    load = Load(limits or Limits())
    service = Service(settle(config), checked_runtime(runtime), name, load)
    app = FastAPI(title="echo-server", lifespan=_loading(service), docs_url=None, redoc_url=None)
    metrics = Metrics(load, lambda: service.encoder)
    _add_embeddings(app, service, metrics)
    _add_status(app, service, metrics)
    add_search(app, service, passages)
    handle_failures(app)
    app.add_middleware(Admission, load=load)
    app.add_middleware(Access, key=api_key, hosts=hosts)
    app.add_middleware(Measured, metrics=metrics)  # the last one added stands first
    return app


def _check_types(**given: tuple[object, type]) -> None:
    """Return if each is of its type or None: what is not would fail at the first request."""
    for name, (value, kind) in given.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be {kind.__name__} or None, got {type(value).__name__}")


def _check_access(api_key: str | None, hosts: Collection[str] | None) -> None:
    _check_types(api_key=(api_key, str))
    if api_key is not None and not api_key.strip():
        raise ConfigError("api_key must not be blank; leave it out to ask for none")
    if isinstance(hosts, str):
        raise ConfigError(f"hosts must be a list of names, got one string; put it in a list: [{hosts!r}]")
    if hosts is not None and not (isinstance(hosts, Collection) and all(isinstance(host, str) for host in hosts)):
        raise TypeError(f"hosts must be a list of strings or None, got {hosts!r}")


def settle(config: EchoConfig | str | os.PathLike[str] | None) -> EchoConfig:
    """The whole config, a local model's path absolute."""
    return with_absolute_model(config_of(config))


def _loading(service: Service) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.load)
        yield

    return lifespan


def _add_embeddings(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        role = service.role_of(body.model, body.input_type)
        encoder = service.of_dimension(body.dimensions)
        work = service.embed(encoder, body.input, role, body.instruction)
        vectors, tokens = await _unless_gone(request, work)
        metrics.texts.labels(role).inc(len(vectors))
        metrics.tokens.labels(role).inc(tokens)
        given = (vectors, body.encoding_format or "float", body.model, tokens)
        written = embeddings_body(*given) if vectors.size < _SMALL else await asyncio.to_thread(embeddings_body, *given)
        return Response(written, media_type="application/json")


def _add_status(app: FastAPI, service: Service, metrics: Metrics) -> None:
    def described(name: str) -> dict[str, Any]:
        encoder = service.loaded
        ours = {"dimension": encoder.dimension, "max_tokens": encoder.max_tokens, "fingerprint": encoder.fingerprint}
        return {"id": name, "object": "model", "created": 0, "owned_by": "echo-embed", **ours}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in service.names()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.role_of(name)
        return described(name)

    @app.get("/health")
    async def health() -> dict[str, str]:
        service.loaded  # noqa: B018  refuses with 503 while there is none
        return {"status": "ok"}

    @app.get("/metrics")
    async def numbers() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; it is stopped when the client hangs up.

    Raises:
        Refusal: 499, which nobody hears.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(499, "the client has hung up")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
