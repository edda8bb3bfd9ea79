"""What the server and its model have done, for Prometheus. No label comes from a request's content."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo_server.failures import answer_to
from echo_server.limits import Load

if TYPE_CHECKING:
    from echo_core import EchoEncoder

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_PRESENT = {"budget"}  # of Statistics, what is no count


class Metrics:
    """The numbers of one app, in a registry of its own."""

    def __init__(self, load: Load, encoder: Callable[[], EchoEncoder | None]) -> None:
        """Nothing was done yet; ``encoder`` gives the model once it is loaded."""
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("echo_requests", "Requests answered", ["route", "status"], registry=own)
        self.seconds = Histogram("echo_request_seconds", "Their time", ["route"], buckets=_SECONDS, registry=own)
        self.texts = Counter("echo_texts", "Texts embedded", ["role"], registry=own)
        self.tokens = Counter("echo_tokens", "Tokens of these, with prompt and sayings", ["role"], registry=own)
        Gauge("echo_requests_under_way", "Requests under way", registry=own).set_function(lambda: load.requests)
        Gauge("echo_tokens_under_way", "Tokens of these", registry=own).set_function(lambda: load.tokens)
        self.registry.register(_Model(encoder))


class _Model(Collector):
    """The fields of ``encoder.statistics()``."""

    def __init__(self, encoder: Callable[[], EchoEncoder | None]) -> None:
        self._encoder = encoder

    def collect(self) -> Iterator[Metric]:
        encoder = self._encoder()
        if encoder is None:
            return
        for name, value in dataclasses.asdict(encoder.statistics()).items():
            kind = GaugeMetricFamily if name in _PRESENT else CounterMetricFamily
            yield kind(f"echo_model_{name}", f"{name} of the model's statistics", value=value)


class Measured:
    """Counts and times requests, and answers for an error that got past everything else."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand before ``app``."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 0
        started = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if not status:
                await answer_to(error)(scope, receive, noting)
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
