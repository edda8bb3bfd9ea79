"""The page at ``/``, and what it asks for: passages for a question, and why one of them was found."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response

from echo_server.failures import Refusal
from echo_server.passages import Passages
from echo_server.schemas import ExplainBody, SearchBody
from echo_server.service import Service

_FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
_FILES["/page.js"] = ("page.js", "text/javascript")
_HEAVIEST = 8  # words of a passage that carry most of the score
# Nothing from elsewhere; the heat map brings its style along.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:"
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_search(app: FastAPI, service: Service, passages: Passages | None) -> None:
    """Add the page's routes to the app."""
    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, _file(name, kind), include_in_schema=False)

    @app.get("/search")
    async def about() -> dict[str, Any]:
        count = None if passages is None else await asyncio.to_thread(passages.count)
        name = None if passages is None else passages.name
        return {"model": service.name, "name": name, "passages": count}

    @app.post("/search")
    async def search(body: SearchBody) -> dict[str, Any]:
        store = _there(passages)
        vectors, _ = await service.embed(service.loaded, [body.question], "query")
        found = await asyncio.to_thread(store.find, vectors[0], body.count)
        return {"passages": [asdict(passage) for passage in found]}

    @app.post("/search/explain")
    async def explain(body: ExplainBody) -> dict[str, Any]:
        text = await asyncio.to_thread(_there(passages).text_of, body.id)
        if text is None:
            raise Refusal(404, "id must be that of a passage which a search gave", field="id")
        if not text.strip():
            raise Refusal(422, "id must be that of a passage with text; this one has none to explain", field="id")
        return await _explained(service, body.question, text)


async def _explained(service: Service, question: str, text: str) -> dict[str, Any]:
    encoder = service.loaded
    asked = await asyncio.to_thread(encoder.count_tokens, [question], "query")
    said = await asyncio.to_thread(encoder.count_tokens, [text])
    with service.under_way.work(sum(asked + said)):
        explanation = await asyncio.to_thread(encoder.explain, question, text)
    heaviest = sorted(explanation.document_word_shares, key=lambda share: -share[1])[:_HEAVIEST]
    return {"score": explanation.score, "heaviest": heaviest, "html": explanation.to_html()}


def _there(passages: Passages | None) -> Passages:
    if passages is None:
        rule = "this server has nothing to search"
        raise Refusal(404, f"{rule}; start it with: echo-server --folder FOLDER", code="nothing_to_search")
    return passages


def _file(name: str, kind: str) -> Any:
    content = (files("echo_server") / "page" / name).read_bytes()

    async def serve() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)

    return serve
