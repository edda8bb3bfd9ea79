"""What is too much is refused with 413, 408 or 429, and what is under way counts."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from echo_core import ConfigError
from echo_server import Limits
from echo_server.failures import Refusal
from echo_server.limits import Admission, Load


def send(client, body=None, **options):
    return client.post("/v1/embeddings", json=body, **options)


def error_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture(scope="module")
def small(make_client):
    with make_client(limits=Limits(body_bytes=2000, texts=4, tokens=200)) as made:
        yield made


def test_a_body_that_is_announced_or_turns_out_too_large_is_413(small):
    body = {"model": "tiny", "input": "x" * 3000}
    assert error_of(send(small, body)) == (413, "body_too_large")
    parts = (b'{"model": "tiny", "input": "' if i == 0 else b"x" * 500 for i in range(6))
    unannounced = small.post("/v1/embeddings", content=parts, headers={"Content-Type": "application/json"})
    assert error_of(unannounced) == (413, "body_too_large")


def test_more_texts_or_tokens_than_a_request_may_have_are_413(small):
    assert error_of(send(small, {"model": "tiny", "input": ["a"] * 5})) == (413, "too_many_texts")
    assert error_of(send(small, {"model": "tiny", "input": "word " * 100})) == (413, "too_many_tokens")
    assert send(small, {"model": "tiny", "input": ["a"] * 4}).status_code == 200


def test_a_limit_must_be_a_positive_integer():
    with pytest.raises(ConfigError, match="texts must be an integer of at least 1, got 0"):
        Limits(texts=0)


def test_requests_beyond_those_that_are_taken_are_429_and_leave_no_trace():
    load = Load(Limits(requests=2))
    with load.request(), load.request(), pytest.raises(Refusal, match="2 requests are under way") as refused:
        load.request().__enter__()
    assert (refused.value.status_code, refused.value.headers) == (429, {"Retry-After": "1"})
    assert load.requests == 0


def test_tokens_beyond_the_queue_are_429_but_one_alone_is_always_taken():
    load = Load(Limits(tokens=100, queued_tokens=100))
    with load.work(80):
        with pytest.raises(Refusal, match="80 tokens are waiting"):
            load.work(30).__enter__()
        with load.work(20):
            assert load.tokens == 100
    with load.work(100):
        pass
    assert load.tokens == 0


def test_a_request_that_fails_is_under_way_no_more():
    load = Load(Limits())
    with contextlib.suppress(RuntimeError), load.request(), load.work(5):
        raise RuntimeError
    assert (load.requests, load.tokens) == (0, 0)


async def test_a_body_that_does_not_arrive_in_time_is_408():
    async def reading(scope, receive, send):
        await receive()

    async def never():
        await asyncio.sleep(60)

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/embeddings", "headers": []}
    await Admission(reading, Load(Limits(body_seconds=1)))(scope, never, send)
    assert sent[0]["status"] == 408
