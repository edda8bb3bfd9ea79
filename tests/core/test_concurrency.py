from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nasty_texts import ALL, PLAIN

from echo_core import (
    EchoEncoder,
    EmptyTextError,
)
from echo_core.engine.threads import Outcome


def test_thirty_two_threads_with_mixed_calls_get_the_right_vectors(encoder: EchoEncoder, tiny_llama: Path):
    documents, queries = encoder.encode_documents(ALL), encoder.encode_queries(ALL)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            random = np.random.default_rng(seed)
            for _ in range(4):
                chosen = random.integers(0, len(ALL), size=int(random.integers(1, 9)))
                texts = [ALL[i] for i in chosen]
                for vectors, expected in [
                    (encoder.encode_documents(texts), documents[chosen]),
                    (np.stack(list(encoder.iter_documents(texts))), documents[chosen]),
                    (encoder.encode_queries(texts), queries[chosen]),
                    (asyncio.run(encoder.aencode_queries(texts)), queries[chosen]),
                ]:
                    assert np.abs(vectors - expected).max() <= 1e-5
                encoder.explain_tokens(texts[0])
                with pytest.raises(EmptyTextError):
                    encoder.encode_documents([*texts, ""])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


async def test_concurrent_calls_share_batches(encoder: EchoEncoder, monkeypatch):
    runs: list[int] = []
    runner = encoder._engine.runner
    execute = runner.execute
    monkeypatch.setattr(runner, "execute", lambda step: (runs.append(len(step.rows)), execute(step))[1])
    monkeypatch.setattr(runner.budget, "tokens", 100_000)
    texts = [f"{text} {i}" for i, text in enumerate(PLAIN * 16)]
    vectors = await asyncio.gather(*(encoder.aencode_queries([text]) for text in texts))
    assert sum(runs) == len(texts)
    assert len(runs) < len(texts) / 3
    assert np.abs(np.concatenate(vectors) - encoder.encode_queries(texts)).max() <= 1e-5


async def test_the_event_loop_ticks_while_texts_are_encoded(encoder: EchoEncoder):
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.perf_counter())
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    started = time.perf_counter()
    await encoder.aencode_documents([f"{i} {text}" for i in range(60) for text in PLAIN])
    took = time.perf_counter() - started
    ticking.cancel()
    assert len(ticks) > 0.2 * took / 0.005


async def test_a_cancelled_call_stops_after_the_batch_under_way(encoder: EchoEncoder, monkeypatch):
    batches: list[int] = []
    runner = encoder._engine.runner
    execute = runner.execute
    monkeypatch.setattr(runner, "execute", lambda step: (batches.append(1), time.sleep(0.05), execute(step))[2])
    task = asyncio.create_task(encoder.aencode_documents([f"{i} {text}" for i in range(500) for text in PLAIN]))
    while not batches:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.5)
    done = len(batches)
    await asyncio.sleep(0.3)
    assert len(batches) == done < 10
    assert (await encoder.aencode_documents(["Paris"])).shape == (1, 32)


def test_an_interrupt_while_waiting_leaves_the_encoder_usable(encoder: EchoEncoder, monkeypatch):
    expected = encoder.encode_documents(["Paris"])
    with monkeypatch.context() as patch:
        patch.setattr(Outcome, "wait", lambda self, seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            encoder.encode_documents([f"{i} {text}" for i in range(100) for text in PLAIN])
    started = time.perf_counter()
    assert np.abs(encoder.encode_documents(["Paris"]) - expected).max() <= 1e-5
    assert time.perf_counter() - started < 2


def test_out_of_memory_loses_nothing(encoder: EchoEncoder, monkeypatch):
    expected = encoder.encode_documents(ALL)
    states = encoder._engine.runner.decoder.states
    failed: list[int] = []

    def limited(batch: Any) -> Any:
        if batch.ids.numel() > 200:
            failed.append(batch.ids.numel())
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(batch)

    monkeypatch.setattr(encoder._engine.runner.budget, "tokens", 1536)
    monkeypatch.setattr(encoder._engine.runner.decoder, "states", limited)
    assert np.abs(encoder.encode_documents(ALL) - expected).max() <= 1e-5
    assert 0 < len(failed) < 8
    assert encoder._engine.runner.budget.tokens >= 96
