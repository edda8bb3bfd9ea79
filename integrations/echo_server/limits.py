"""How much the server takes on: of one request, and of all that are under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo_core.errors import check_integer
from echo_server.failures import Refusal, answer_to

_BUSY = {"Retry-After": "1"}


@dataclass(frozen=True)
class Limits:
    """What one request may hold, then what all requests under way may hold together."""

    body_bytes: int = 8 << 20
    body_seconds: int = 30  # for a body to arrive
    texts: int = 2048
    tokens: int = 300_000  # that the model is given: both sayings and the prompt count
    requests: int = 256  # under way at once: the memory for bodies is at most ``requests * body_bytes``
    queued_tokens: int = 3_000_000  # of all requests under way

    def __post_init__(self) -> None:
        """Raise ConfigError for a field that is no positive integer."""
        for field in fields(self):
            check_integer(field.name, getattr(self, field.name), 1)


class Load:
    """What is under way. Used on the event loop alone, so that it needs no lock."""

    def __init__(self, limits: Limits) -> None:
        """Nothing is under way."""
        self.limits, self.requests, self.tokens = limits, 0, 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A context for a request; Refusal (429) if there are too many."""
        if self.requests >= self.limits.requests:
            raise _too_busy(f"{self.requests} requests are under way, the most that are taken")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def check_texts(self, count: int) -> None:
        """Refusal (413) if one request has too many texts."""
        if count > self.limits.texts:
            rule = f"must hold at most {self.limits.texts} texts, got {count}"
            raise Refusal(413, f"input: {rule}; send them in several requests", field="input", code="too_many_texts")

    @contextmanager
    def work(self, tokens: int) -> Iterator[None]:
        """A context for the tokens of one request; Refusal, 413 or 429, if it has, or all have, too many."""
        if tokens > self.limits.tokens:
            rule = f"must take at most {self.limits.tokens} tokens with prompt and sayings, got {tokens}"
            raise Refusal(413, f"input: {rule}; send fewer texts at once", field="input", code="too_many_tokens")
        if self.tokens and self.tokens + tokens > self.limits.queued_tokens:
            raise _too_busy(f"{self.tokens} tokens are waiting for the model")
        self.tokens += tokens
        try:
            yield
        finally:
            self.tokens -= tokens


class Admission:
    """Lets no more requests in than are taken, nor bodies that are too large or come too slowly."""

    def __init__(self, app: ASGIApp, load: Load) -> None:
        """Stand before ``app``."""
        self._app, self._load = app, load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 413, 408 or 429."""
        if scope["type"] != "http" or scope["path"] == "/health":
            return await self._app(scope, receive, send)
        try:
            with self._load.request():
                body = _Body(receive, self._load.limits)
                body.check_announced(dict(scope["headers"]).get(b"content-length", b"0"))
                await self._app(scope, body.receive, send)
        except Refusal as refusal:  # of the request as a whole: nothing has been answered yet
            await answer_to(refusal)(scope, receive, send)


class _Body:
    """The body of a request as it comes, counted."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._until = time.monotonic() + limits.body_seconds
        self._bytes, self._more = 0, True

    def check_announced(self, length: bytes) -> None:
        if length.isdigit() and int(length[:20]) > self._limits.body_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        if not self._more:  # what comes after the body is the client's going away, which may take its time
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError):  # two kinds up to Python 3.10
            rule = f"the body must arrive within {self._limits.body_seconds} seconds"
            raise Refusal(408, rule, headers={"Connection": "close"}) from None
        self._more = message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limits.body_bytes:
            raise self._too_large()
        return message

    def _too_large(self) -> Refusal:
        rule = f"the body must have at most {self._limits.body_bytes} bytes"
        return Refusal(413, f"{rule}; send fewer texts at once", code="body_too_large")


def _too_busy(why: str) -> Refusal:
    return Refusal(429, f"{why}; try again in a moment", code="rate_limit_exceeded", headers=_BUSY)
