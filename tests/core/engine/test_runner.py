from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import forks, held_by_another_thread, needs_fork, passes_in_child
from torch import Tensor
from transformers import AutoConfig, AutoModel

from echo_core.config import EchoConfig, Runtime
from echo_core.engine.memory import Widths, choose_budget
from echo_core.engine.runner import Runner, load_runner
from echo_core.engine.statistics import Statistics
from echo_core.errors import ModelError
from echo_core.text.rows import Row, Span

ROWS = [Row(np.arange(n) % 300, (Span(i, n // 2, n),)) for i, n in enumerate([30, 28, 25, 25, 9, 4, 2])]


@pytest.fixture
def runner(tiny_llama: Path) -> Runner:
    return load_runner(tiny_llama, EchoConfig(), Runtime(device="cpu", dtype="float32", token_budget=1000))


def limit_memory(runner: Runner, monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[int]:
    """Batches of more tokens fail as on a full GPU; the sizes that were tried."""
    tried: list[int] = []
    states = runner.decoder.states

    def limited(batch) -> Tensor:
        tried.append(batch.ids.numel())
        if batch.ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(batch)

    monkeypatch.setattr(runner.decoder, "states", limited)
    return tried


def test_the_budget_is_the_runtimes_or_the_devices(runner: Runner, tiny_llama: Path):
    assert runner.budget.tokens == 1000
    widths = Widths.of(AutoConfig.from_pretrained(tiny_llama))
    assert load_runner(tiny_llama, EchoConfig(), Runtime(device="cpu")).budget.tokens == choose_budget(
        torch.device("cpu"), torch.float32, widths
    )


def test_out_of_memory_halves_the_batch_and_loses_nothing(runner: Runner, monkeypatch, caplog):
    expected = runner.run(ROWS)
    limit_memory(runner, monkeypatch, 60)
    with caplog.at_level(logging.WARNING, "echo_core"):
        torch.testing.assert_close(runner.run(ROWS), expected, atol=1e-5, rtol=0)
    assert runner.budget.tokens <= 58
    assert "out of memory with 116 tokens in a batch; going on with 58" in caplog.text, (
        "of 123, the first, which all seven rows share, left out"
    )


def test_batches_planned_before_the_memory_ran_out_do_not_halve_the_budget_again(runner: Runner, monkeypatch):
    """The budget halved once for every batch of the old size that was still in line, down to one row at a time."""
    step = runner.planner.step(ROWS)
    limit_memory(runner, monkeypatch, 105)
    for _ in range(6):
        runner.execute(step)
    assert runner.budget.tokens >= 50


def test_a_row_that_does_not_fit_alone_is_an_error_with_the_way_out(runner: Runner, monkeypatch):
    limit_memory(runner, monkeypatch, 20)
    with pytest.raises(
        ModelError, match=r"a row of 30 tokens must fit into the memory of cpu; use a smaller max_tokens or dtype"
    ):
        runner.run(ROWS)


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_rows_beyond_the_length_at_which_phi_rotates_otherwise_leave_the_others_as_they_are(attention, model_folder):
    """All rows of a batch were rotated like its longest: short ones were off by a third."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": 64,
    }
    folder = model_folder("phi3", rope_parameters=rope)
    runner = load_runner(folder, EchoConfig(str(folder)), Runtime(device="cpu", dtype="float32", attention=attention))
    rows = [
        Row(np.arange(3, 3 + n) % 200, (Span(i, 40 % n, n), *[Span(i, 1, 2)] * (i == 2)))
        for i, n in enumerate([65, 30, 100, 64, 64])
    ]
    alone = torch.cat([runner.run([row]) for row in rows])
    for _ in range(2):
        torch.testing.assert_close(runner.run(rows), alone, atol=1e-5, rtol=1e-4)
    plain = AutoModel.from_pretrained(folder, dtype=torch.float32)
    expected = plain(torch.from_numpy(rows[1].ids)[None]).last_hidden_state[0, 10:].mean(dim=0)
    torch.testing.assert_close(alone[1], expected, atol=1e-5, rtol=1e-4)


@needs_fork
@forks
def test_a_fork_waits_for_a_step_under_way(runner: Runner):
    """A child that was forked in the middle of a batch had what the batch was changing half changed."""
    release = threading.Event()
    thread = held_by_another_thread(runner.lock, release)
    threading.Timer(0.3, release.set).start()
    assert passes_in_child(lambda: release.is_set() and len(runner.run(ROWS[-1:])) == 1)
    thread.join()


def test_another_error_is_not_taken_for_a_lack_of_memory(runner: Runner, monkeypatch):
    def broken(batch) -> Tensor:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(runner.decoder, "states", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        runner.run(ROWS)


def test_a_lack_of_memory_on_a_cpu_halves_the_batch_too(runner: Runner, monkeypatch, caplog):
    """oneDNN's "could not create a primitive" went to the caller, and all that had been encoded was lost."""
    expected = runner.run(ROWS)
    states = runner.decoder.states

    def limited(batch) -> Tensor:
        if batch.ids.numel() > 60:
            raise RuntimeError("could not create a primitive")
        return states(batch)

    monkeypatch.setattr("echo_core.engine.exhaustion._thread", threading.local())  # this thread is not really spoilt
    monkeypatch.setattr(runner.decoder, "states", limited)
    with caplog.at_level(logging.WARNING, "echo_core"):
        torch.testing.assert_close(runner.run(ROWS), expected, atol=1e-5, rtol=0)
    assert "out of memory with 116 tokens in a batch" in caplog.text


def test_statistics_count_what_was_run(runner: Runner, monkeypatch):
    assert runner.statistics() == Statistics(budget=1000)
    runner.run(ROWS)
    first = runner.statistics()
    assert (first.batches, first.rows, first.out_of_memory, first.prefix_hits) == (1, len(ROWS), 0, 0)
    assert first.tokens - first.padding == sum(len(row.ids) - 1 for row in ROWS) + 1, (
        "the first token, which all share, once"
    )
    limit_memory(runner, monkeypatch, 60)
    runner.run(ROWS)
    assert runner.statistics().out_of_memory > 0
    assert runner.statistics().budget == runner.budget.tokens


def test_statistics_of_padded_rows_count_the_padding(tiny_llama: Path):
    runtime = Runtime(device="cpu", dtype="float32", attention="padded", token_budget=1000)
    runner = load_runner(tiny_llama, EchoConfig(), runtime)
    runner.run(ROWS)
    tokens = len(ROWS) * 30
    assert (runner.statistics().tokens, runner.statistics().padding) == (
        tokens,
        tokens - sum(len(row.ids) for row in ROWS),
    )


def test_statistics_count_batches_that_began_with_a_kept_prefix(runner: Runner):
    ids = np.arange(40) % 300
    rows = [Row(np.append(ids, i), (Span(0, 40, 41),), before=40) for i in range(4)]
    for row in rows:
        runner.run([row])
    assert runner.statistics().prefix_hits == 3


def test_a_step_keeps_the_order_of_rows_with_several_spans(runner: Runner):
    rows = [Row(row.ids, (Span(0, 0, 1), *row.spans)) for row in ROWS]
    expected = torch.cat([runner.run([row]) for row in rows])
    runner.budget.tokens = 40
    torch.testing.assert_close(runner.run(rows), expected, atol=1e-5, rtol=1e-4)
