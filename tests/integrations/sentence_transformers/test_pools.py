"""Pools of worker processes: the vectors of one process, for the caller who asked, whatever happened before."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echo_core import EchoConfig, EmptyTextError
from echo_sentence_transformers import EchoSentenceTransformer

QUERY = "Question: {text} Asked again: [[{text}]]"
TEXTS = [f"The bakery opens at {hour} and sells bread number {hour * 7}." for hour in range(8)] + ["It rained. " * 200]
Pool = dict[str, Any]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(EchoConfig(str(tiny_llama), query_template=QUERY), device="cpu")


@pytest.fixture(scope="module")
def pool(model: EchoSentenceTransformer) -> Iterator[Pool]:
    started = model.start_multi_process_pool(["cpu", "cpu"])
    yield started
    model.stop_multi_process_pool(started)


@pytest.mark.slow
def test_a_pool_of_processes_gives_the_same_vectors_in_both_roles(model: EchoSentenceTransformer, pool: Pool) -> None:
    for encode in (model.encode_document, model.encode_query):
        np.testing.assert_allclose(encode(TEXTS, pool=pool, chunk_size=4), encode(TEXTS), atol=1e-5)


def test_a_wrong_text_in_a_pool_is_named_by_its_number_in_the_call(model: EchoSentenceTransformer, pool: Pool) -> None:
    with pytest.raises(EmptyTextError, match="text 3 "):
        model.encode(["a", "b", "c", " "], pool=pool, chunk_size=2)


def test_threads_that_share_a_pool_get_the_vectors_of_their_own_texts(
    model: EchoSentenceTransformer, pool: Pool
) -> None:
    """Chunks are numbered from 0 in each call, so a thread took whatever result came first, another's too."""
    calls = [[f"Seat {seat} in row {row}" for seat in range(6)] for row in range(9)]
    wanted = [model.encode_document(texts) for texts in calls]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda texts: model.encode_document(texts, pool=pool, chunk_size=1), calls))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_call_after_an_interrupted_one_gets_its_own_vectors_and_waits_for_no_other(
    model: EchoSentenceTransformer, pool: Pool
) -> None:
    """The results of the interrupted call were still to come, and the next call took them for its own."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            model.encode_document([f"{'Long ago it rained. ' * 100}{i}" for i in range(2000)], pool=pool, chunk_size=20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    started = time.perf_counter()
    np.testing.assert_allclose(
        model.encode_document(TEXTS[:4], pool=pool, chunk_size=1), model.encode_document(TEXTS[:4]), atol=1e-5
    )
    assert time.perf_counter() - started < 20  # the 100 chunks that were left would take minutes


def test_a_ctrl_c_at_the_terminal_leaves_the_workers_alive(model: EchoSentenceTransformer, pool: Pool) -> None:
    """It goes to all processes in the foreground, and a worker that it ended left the pool without one."""
    for process in pool["processes"]:
        os.kill(process.pid, signal.SIGINT)
    found = model.encode_document(TEXTS[:4], pool=pool, chunk_size=1)
    np.testing.assert_allclose(found, model.encode_document(TEXTS[:4]), atol=1e-5)
    assert all(process.is_alive() for process in pool["processes"])
