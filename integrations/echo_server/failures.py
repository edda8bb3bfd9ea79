"""What goes wrong, as OpenAI's error body. No message holds a text: the core's errors name texts by their index."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from echo_core.errors import EchoError, EmptyTextError, ModelError, NotFiniteError, StoreError, TextError, VariableError

log = logging.getLogger("echo_server")

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
SHOWN = 80  # characters of a value that a message repeats
_UNREAD = "There was an error parsing the body"  # FastAPI's words for JSON that ends in another error than JSON's
_READABLE = "the body must be JSON in UTF-8 that is neither compressed nor nested hundreds deep"
# Kinds of the core's errors, the first that fits → status, the field that is meant.
_CORE: tuple[tuple[type[EchoError], int, str | None], ...] = (
    (NotFiniteError, 500, None),
    (TextError, 422, "input"),
    (VariableError, 422, "instruction"),
    (StoreError, 503, None),
    (ModelError, 422, "model"),
    (EchoError, 422, None),
)


class Refusal(HTTPException):
    """A request that is not served, and why."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is refused.

        Args:
            status: of HTTP.
            message: rule, value and way out.
            field: of the body that is meant.
            code: a word for programs.
            headers: of the answer.
        """
        super().__init__(status, message, headers)
        self.field, self.code = field, code


def error_answer(
    status: int,
    message: str,
    field: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """OpenAI's error body."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    said = message.encode("utf-8", "backslashreplace").decode()  # it may name a value with a lone surrogate
    body = {"error": {"message": said, "type": kind, "param": field, "code": code}}
    return Response(orjson.dumps(body), status, headers, "application/json")


def answer_to(error: Exception) -> Response:
    """The answer that an error becomes; one that nobody foresaw is logged by its place, without its message."""
    if isinstance(error, HTTPException):
        field, code = getattr(error, "field", None), getattr(error, "code", None)
        message = _READABLE if error.detail == _UNREAD else str(error.detail)
        return error_answer(error.status_code, message, field, code, error.headers)
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors()[0])
    if isinstance(error, EmptyTextError):  # whose way out, an option of the config, no client has
        return error_answer(422, f"text {error.index} must not be empty or blank; leave it out", "input")
    for kind, status, field in _CORE:
        if isinstance(error, kind):
            return error_answer(status, str(error), field)
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s while answering a request; its message may hold texts and is left out\n%s", type(error), frames)
    return error_answer(500, "the server failed; its log says where")


def handle_failures(app: FastAPI) -> None:
    """Let the app answer errors so."""

    async def answer(request: Request, error: Exception) -> Response:
        return answer_to(error)

    for kind in (HTTPException, RequestValidationError, EchoError, Exception):
        app.add_exception_handler(kind, answer)


def _invalid(problem: Mapping[str, Any]) -> Response:
    """The answer to a body that a rule of ``schemas.py`` refuses."""
    places = [str(place) for place in problem["loc"][1:]]
    if problem["type"] == "json_invalid":
        return error_answer(400, f"the body must be JSON; {problem['ctx']['error']} at character {places[-1]}")
    if not places:
        return error_answer(422, "the body must be a JSON object, sent as Content-Type: application/json")
    if problem["type"] == "extra_forbidden":
        return error_answer(422, f"{places[0][:SHOWN]!r} is no field of this request; leave it out", places[0])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return error_answer(422, f"{'.'.join(places)}: {message}", places[0])
