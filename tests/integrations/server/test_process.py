"""A real server process: many clients at once, one that leaves, a huge body, and the end in the middle."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_key import KEY

HEAD = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
LARGE = [f"Note {i}: " + "the river froze twice last winter, and nobody knew why. " * 3 for i in range(400)]


def embed(served, texts, model="tiny", timeout=120) -> np.ndarray:
    body = json.dumps({"model": model, "input": texts}).encode()
    request = urllib.request.Request(f"{served.url}/v1/embeddings", body, HEAD)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return np.array([item["embedding"] for item in json.load(answer)["data"]], dtype=np.float32)


def number(served, name: str) -> float:
    with urllib.request.urlopen(urllib.request.Request(f"{served.url}/metrics", headers=HEAD), timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def wait_for(true, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_concurrent_requests_share_batches_and_get_their_own_vectors(server, encoder, close):
    texts = [f"question {i} about rivers" for i in range(64)]
    before = number(server, "echo_model_batches_total")
    with ThreadPoolExecutor(32) as pool:
        vectors = list(pool.map(lambda text: embed(server, [text], "tiny:query")[0], texts))
    assert close(vectors, encoder.encode_queries(texts))
    assert number(server, "echo_model_batches_total") - before < len(texts)


def test_a_small_request_passes_between_a_large_ones_batches(server):
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(embed, server, LARGE)
        wait_for(lambda: number(server, "echo_tokens_under_way") > 0)
        embed(server, ["a small one"])
        assert not large.done()
        assert large.result().shape == (len(LARGE), 32)


def test_a_client_that_hangs_up_stops_its_work(server):
    body = json.dumps({"model": "tiny", "input": [f"{i} {text}" for i in range(2) for text in LARGE]}).encode()
    fields = {"Host": "localhost", **HEAD, "Content-Length": len(body)}
    head = "\r\n".join(["POST /v1/embeddings HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())])
    port = int(server.url.rpartition(":")[2])
    before = number(server, "echo_texts_total")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        wait_for(lambda: number(server, "echo_tokens_under_way") > 0)
    wait_for(lambda: number(server, "echo_tokens_under_way") == 0, 5)  # the whole would take longer
    assert number(server, "echo_texts_total") == before
    assert embed(server, ["still there"]).shape == (1, 32)


def test_a_body_of_50_mb_is_refused_before_it_is_read(server):
    body = b'{"model": "tiny", "input": "' + b"x" * 50_000_000 + b'"}'
    port = int(server.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was answered while it still sent
        connection.request("POST", "/v1/embeddings", body, HEAD)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"]["code"]) == (413, "body_too_large")
    assert embed(server, ["still there"]).shape == (1, 32)


@pytest.mark.slow
def test_at_sigterm_requests_under_way_are_answered_and_the_process_ends(start, encoder, close):
    with start() as served, ThreadPoolExecutor(12) as pool:
        work = [LARGE[i : i + 60] for i in range(0, 360, 30)]
        answers = [pool.submit(embed, served, texts) for texts in work]
        wait_for(lambda: number(served, "echo_requests_under_way") == len(work) + 1)
        served.process.send_signal(signal.SIGTERM)
        for answer, texts in zip(answers, work, strict=True):
            assert close(answer.result(), encoder.encode_documents(texts))
        assert served.process.wait(30) in (0, -signal.SIGTERM)
        with pytest.raises(urllib.error.URLError):
            embed(served, ["too late"])
        log = served.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "river" not in log


@pytest.mark.slow
def test_64_clients_for_30_seconds_lose_nothing_and_leave_nothing_behind(server, encoder, close):
    texts = [f"client {i} asks about rivers and bread" for i in range(64)]
    expected = encoder.encode_queries(texts)
    until = time.monotonic() + 30
    served = [0] * len(texts)

    def ask(i: int) -> None:
        while time.monotonic() < until:
            assert close(embed(server, [texts[i]], "tiny:query")[0], expected[i])
            served[i] += 1

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, range(64)))
    assert min(served) > 10
    assert number(server, "echo_tokens_under_way") == 0
    assert number(server, "echo_requests_under_way") == 1
    assert threading.active_count() < 64
