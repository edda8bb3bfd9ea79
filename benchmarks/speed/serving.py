"""What the server costs: one query over HTTP against ``encode_queries`` in turns, and many clients against one.

python -m benchmarks.speed.serving                       # the embedded model, CPU
python -m benchmarks.speed.serving --model FOLDER --device cuda
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.speed.machine import describe_machine
from benchmarks.speed.timing import in_turns, percentile
from benchmarks.speed.workloads import queries
from echo_core import EchoEncoder, Runtime
from echo_core.identity.presets import preset_for

HEAD = {"Content-Type": "application/json"}
CLIENTS = (1, 8, 32)
WAIT = 300  # seconds for the server to start
PROCESSES = 2  # that the clients live in, so that their own JSON costs no turn of each other's interpreter


def main() -> None:
    """Measure, and print JSON."""
    options = _options()
    report: dict[str, Any] = {"machine": describe_machine(options.device), "model": options.model}
    with running_server(options) as port:
        report["single"] = single_query(options, port)
        report["clients"] = [clients(port, count, options.seconds) for count in CLIENTS]
    one = report["clients"][0]["queries_per_s"]
    report["ratios"] = {str(each["clients"]): each["queries_per_s"] / one for each in report["clients"]}
    print(json.dumps(report, indent=1))


def single_query(options: argparse.Namespace, port: int) -> dict[str, float]:
    """Milliseconds of one query in this process, and over HTTP with one open connection; p50 and p95."""
    encoder = EchoEncoder(preset_for(options.model), Runtime(options.device, options.dtype))
    connection = http.client.HTTPConnection("127.0.0.1", port)
    text = queries(1)
    ways = {"encode_queries": lambda: encoder.encode_queries(text), "http": lambda: ask(connection, text[0])}
    timings = in_turns(ways, options.repeats)
    figures = {f"{way}_p{p}_ms": 1000 * percentile(timings[way].wall, p) for way in ways for p in (50, 95)}
    differences = [a - b for a, b in zip(timings["http"].wall, timings["encode_queries"].wall, strict=True)]
    return {**figures, "above_p50_ms": 1000 * statistics.median(differences)}


def clients(port: int, count: int, seconds: float) -> dict[str, float]:
    """Queries a second, and p50 and p95 of the wait, of so many clients that each ask one query after the other."""
    shares = [count // PROCESSES + (i < count % PROCESSES) for i in range(min(PROCESSES, count))]
    with ProcessPoolExecutor(len(shares)) as pool:
        parts = pool.map(_clients_of_a_process, [(port, share, i, seconds) for i, share in enumerate(shares)])
        waits = [wait for part in parts for wait in part]
    spread = {f"p{p}_ms": 1000 * percentile(waits, p) for p in (50, 95)}
    return {"clients": count, "queries_per_s": len(waits) / seconds, **spread}


def _clients_of_a_process(given: tuple[int, int, int, float]) -> list[float]:
    from threading import Thread

    port, count, seed, seconds = given
    texts = [queries(64, 1000 * seed + number) for number in range(count)]  # before the clock starts
    waits: list[float] = []
    until = time.perf_counter() + seconds

    def ask_on(mine: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while time.perf_counter() < until:
            started = time.perf_counter()
            ask(connection, mine[len(waits) % len(mine)])
            waits.append(time.perf_counter() - started)

    threads = [Thread(target=ask_on, args=(mine,)) for mine in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


def ask(connection: http.client.HTTPConnection, text: str) -> bytes:
    """The body of an answer, as the openai client asks for it, unread."""
    body = {"model": "bench:query", "input": [text], "encoding_format": "base64"}
    connection.request("POST", "/v1/embeddings", json.dumps(body), HEAD)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"the server answered {answer.status}: {content!r}")
    return content


@contextlib.contextmanager
def running_server(options: argparse.Namespace) -> Iterator[int]:
    """The port of a server process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "echo_server", "--name", "bench", "--port", str(port)]
    command += ["--device", options.device, "--dtype", options.dtype]
    command += ["--model", options.model] if options.model else []
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, env={**os.environ})
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + WAIT
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise SystemExit("the server did not start; try: echo-server --port " + str(port))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    main()
