"""Two thousand bodies that nobody meant well: none of them makes the server fail."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from echo_server import Passage

FIELDS = ("model", "input", "encoding_format", "dimensions", "input_type", "instruction", "user", "stream", "")
PATHS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # fields that are tried, and a good body
    "/v1/embeddings": (FIELDS, {"model": "tiny", "input": ["Paris"]}),
    "/search": (("question", "count", "k"), {"question": "Where?"}),
    "/search/explain": (("question", "id", "k"), {"question": "Where?", "id": "a"}),
}
SCALARS: tuple[Any, ...] = (
    None, True, 0, -1, 3, 33, 10**30, 1.5, float("nan"), float("inf"), "", " ", "a", "tiny", "tiny:query", "tiny:",
    "float", "base64", "query", "search_document", "\x00", "\ud800", "{text}", "</s>", "🎉" * 50, "word " * 300,
)  # fmt: skip


def any_value(random: random.Random, depth: int = 0) -> Any:
    kind = random.random()
    if depth < 3 and kind < 0.2:
        return [any_value(random, depth + 1) for _ in range(random.randrange(4))]
    if depth < 3 and kind < 0.3:
        return {random.choice(FIELDS): any_value(random, depth + 1) for _ in range(random.randrange(3))}
    return random.choice(SCALARS)


def any_body(random: random.Random, path: str) -> bytes:
    """A good body in which up to three fields are anything, and in every fourth some bytes are too."""
    fields, body = PATHS[path]
    body = dict(body)
    for _ in range(random.randrange(4)):
        body[random.choice(fields)] = any_value(random)
    if random.random() < 0.05:
        body = any_value(random)
    content = bytearray(json.dumps(body, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass"))
    if random.random() < 0.25:
        for _ in range(random.randrange(1, 6)):
            content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content[: random.randrange(len(content) + 1)] if random.random() < 0.1 else content)


class OneNote:
    """Passages of which there is one."""

    name = "note"

    def count(self) -> int:
        return 1

    def find(self, vector: Any, count: int) -> list[Passage]:
        return [Passage("a", "Paris", "Paris", "paris.md", 0.5)]

    def text_of(self, id: str) -> str | None:
        return "Paris" if id == "a" else None


@pytest.fixture(scope="module")
def client(make_client):
    with make_client(passages=OneNote()) as made:
        yield made


def test_two_thousand_random_bodies_are_answered_or_refused(client):
    chance = random.Random(20240224)
    seen: dict[int, int] = {}
    for _ in range(2000):
        path = chance.choice(["/v1/embeddings"] * 6 + ["/search", "/search/explain"])
        content = any_body(chance, path)
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code in (200, 400, 404, 422), (answer.status_code, content)
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
    assert all(seen[status] > 10 for status in (200, 400, 404, 422)), seen
