from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import FP32, encoder_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import open_oracle
from tiny_models import FAMILIES

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.decoder import Decoder
from echo_core.engine.loading import load_model
from echo_core.engine.prefix_cache import (
    KEPT,
    MOST,
    WORTH,
    Prefix,
    PrefixCache,
    common_prefix,
    prefix_of,
    shared_tokens,
)
from echo_core.engine.runner import Runner, load_runner
from echo_core.errors import ModelError
from echo_core.text.rows import Row, Span

OWN = (21, 70, 3, 8, 150)  # tokens of rows behind what they begin with
EXAMPLES = " ".join(
    f"Example {number}: a lamp is said to be a light." for number in range(9)
)  # more than WORTH tokens in any tokenizer
TEXTS = [
    "A kettle whistles in the kitchen.",
    "rain",
    "Two boats lie in the harbour, one of them without a sail.",
    "Paper folds well.",
    "rain again",
]


def rows_of(begin: int, lengths: tuple[int, ...] = OWN, first: int = 3) -> list[Row]:
    """Rows whose first ``begin`` tokens are the same, and whose next ones differ; all behind those is pooled."""
    prefix = (first + np.arange(begin)) % 200
    ids = [np.concatenate([prefix, (30 + 7 * i + 5 * np.arange(length)) % 250]) for i, length in enumerate(lengths)]
    return [Row(row, (Span(i, begin + 1, len(row)),), before=begin) for i, row in enumerate(ids)]


def runner_of(folder: Path, attention: str = "auto", **options: object) -> Runner:
    return load_runner(
        folder, EchoConfig(str(folder), **options), Runtime(device="cpu", dtype="float32", attention=attention)
    )


def one_by_one(runner: Runner, rows: list[Row]) -> torch.Tensor:
    return torch.cat([runner.run([row]) for row in rows])


def watch(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each batch that the model is given, rounding not counted."""
    tokens: list[int] = []
    states = runner.decoder.states

    def watched(batch):
        filled = batch.prefix is not None and batch.prefix.filled
        tokens.append(
            (batch.ids.numel() if batch.lengths is None else sum(batch.lengths)) + (0 if filled else batch.shared)
        )
        return states(batch)

    monkeypatch.setattr(runner.decoder, "states", watched)
    return tokens


def find(prefixes: PrefixCache, rows: list[Row]) -> tuple[Prefix | None, int]:
    return prefixes.find(prefix_of(rows), len(rows))


@pytest.fixture
def runner(tiny_llama: Path) -> Runner:
    return runner_of(tiny_llama)


@pytest.mark.parametrize("begin", [40, 600])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gemma2"}))  # runs padded
def test_rows_behind_a_kept_beginning_get_the_states_that_they_get_alone(family: str, begin: int, model_folder):
    """600 tokens are attended to apart, 40 along with each row; Mistral's and Gemma's windows are shorter than both."""
    runner, plain = runner_of(model_folder(family)), runner_of(model_folder(family), "padded")
    rows, shorter = rows_of(begin), rows_of(begin - 9, first=3)
    alone = one_by_one(plain, rows)
    torch.testing.assert_close(runner.run(rows), alone, atol=1e-4, rtol=1e-4)
    kept = runner.prefix_cache._kept
    assert [len(prefix.ids) for prefix in kept] == [begin]
    torch.testing.assert_close(runner.run(rows), alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one_by_one(runner, rows), alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(runner.run(shorter), one_by_one(plain, shorter), atol=1e-4, rtol=1e-4)
    assert runner.prefix_cache._kept == kept, "the first tokens of what is kept serve as well"


@pytest.mark.parametrize(
    "options",
    [{"layer": 2}, {"layer": 1}, {"layer": (1, 3)}, {"layer": -1, "pooling": "last"}, {"pooling": "weighted_mean"}],
)
def test_other_read_outs_get_theirs(options: dict[str, object], tiny_llama: Path):
    runner, rows = runner_of(tiny_llama, **options), rows_of(90, (80, 90, 100))
    alone = one_by_one(runner_of(tiny_llama, "padded", **options), rows)
    for _ in range(2):
        torch.testing.assert_close(runner.run(rows), alone, atol=1e-4, rtol=1e-4)


def test_in_bfloat16_they_stay_within_its_rounding(tiny_llama: Path):
    rows = rows_of(600)
    exact = one_by_one(runner_of(tiny_llama, "padded"), rows)
    runner = load_runner(tiny_llama, EchoConfig(str(tiny_llama)), Runtime(device="cpu", dtype="bfloat16"))
    for _ in range(2):
        assert torch.cosine_similarity(runner.run(rows), exact).min() > 0.999


def test_a_call_runs_a_long_beginning_once_and_later_calls_not_at_all(tiny_llama: Path, monkeypatch):
    template = f"{EXAMPLES} {{text}} again: [[{{text}}]]"
    encoder = encoder_of(tiny_llama, document_template=template)
    encoder._engine.runner.budget.tokens = 90
    rows = encoder._pipelines["document"].prompts.tokenise(TEXTS, {}).rows
    shared = shared_tokens(rows)
    own = sum(len(row.ids) - shared for row in rows)
    assert shared > WORTH
    tokens = watch(encoder._engine.runner, monkeypatch)
    pieces = [("say", EXAMPLES, False), ("value", " text", False), ("say", " again:", False), ("value", " text", True)]
    expected = [open_oracle(tiny_llama).vector(pieces, {"text": text}) for text in TEXTS]
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), expected, atol=2e-5)
    assert len(tokens) > 1
    assert sum(tokens) == shared + own
    tokens.clear()
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), expected, atol=2e-5)
    assert sum(tokens) == own


def test_single_texts_behind_the_same_instruction_run_it_once(runner: Runner, monkeypatch):
    tokens, rows = watch(runner, monkeypatch), rows_of(100, (20, 30, 40, 50))
    one_by_one(runner, rows)
    assert tokens == [120, 30, 40, 50]


def test_rows_with_little_in_common_keep_nothing(runner: Runner):
    for rows in (
        rows_of(WORTH - 1),
        rows_of(0),
        rows_of(WORTH - 1, (90,)),
        [dataclasses.replace(row, slots=(2,)) for row in rows_of(100)],
    ):
        runner.run(rows)
        assert not runner.prefix_cache.any()


def test_a_beginning_of_too_many_tokens_runs_along_in_each_batch():
    rows = rows_of(MOST + 1, (3, 5))
    assert find(PrefixCache(), rows) == (None, MOST + 1)
    prefix, shared = find(PrefixCache(), rows_of(MOST, (3, 5)))
    assert prefix is not None
    assert (len(prefix.ids), shared) == (MOST, MOST)


def test_beginnings_of_queries_and_documents_are_kept_side_by_side_and_the_one_used_longest_ago_goes(runner: Runner):
    def kept() -> list[int]:
        return [len(prefix.ids) for prefix in runner.prefix_cache._kept]

    queries, documents, others = (rows_of(50, first=3), rows_of(60, first=70), rows_of(70, first=140))
    for rows in (queries, documents, queries, documents):
        runner.run(rows)
    assert kept() == [50, 60]
    runner.run(queries)
    runner.run(others)
    assert kept() == [50, 70]
    assert len(kept()) == KEPT


def test_one_that_lacks_much_of_what_all_rows_begin_with_does_not_serve():
    prefixes = PrefixCache()
    first, _ = find(prefixes, rows_of(40))
    assert first is not None
    prefixes.keep(first)
    few, many = rows_of(100, (5,) * 2), rows_of(100, (5,) * 30)
    assert find(prefixes, rows_of(44, (5,) * 10)) == (first, 40)
    for rows, serves in ((few, False), (many, False), (rows_of(60, (5,) * 2), True)):
        assert (find(prefixes, rows)[0] is first) is serves


def test_a_pass_that_failed_keeps_nothing(runner: Runner, monkeypatch):
    states = runner.decoder.states

    def broken(batch):
        states(batch)
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(runner.decoder, "states", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        runner.run(rows_of(100))
    assert not runner.prefix_cache.any()


def out_of_memory_while(runner: Runner, monkeypatch: pytest.MonkeyPatch, full) -> None:
    states = runner.decoder.states

    def limited(batch):
        if full(batch):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(batch)

    monkeypatch.setattr(runner.decoder, "states", limited)


def test_what_is_kept_makes_room_when_memory_runs_out(runner: Runner, monkeypatch):
    rows = rows_of(100)
    expected = runner.run(rows)
    budget = runner.budget.tokens
    out_of_memory_while(runner, monkeypatch, lambda batch: runner.prefix_cache.any())
    torch.testing.assert_close(runner.run(rows[:1]), expected[:1], atol=1e-5, rtol=0)
    assert runner.budget.tokens == budget, "one row alone needs no smaller budget, but the room"


def test_a_row_that_does_not_fit_even_then_is_an_error(runner: Runner, monkeypatch):
    rows = rows_of(100)
    runner.run(rows)
    out_of_memory_while(runner, monkeypatch, lambda batch: True)
    with pytest.raises(ModelError, match="must fit into the memory"):
        runner.run(rows[:1])
    assert not runner.prefix_cache.any()


def test_a_compiled_model_keeps_none(tiny_llama: Path):
    """Its code would be compiled anew for each."""
    decoder = Decoder(load_model(tiny_llama, torch.float32, False), [-1], keeps=False)
    assert find(PrefixCache(decoder.keeps), rows_of(100)) == (None, 100)


def test_callers_with_beginnings_of_their_own_each_get_their_vectors(tiny_llama: Path):
    config = EchoConfig(
        str(tiny_llama),
        query_template=f"Query. {EXAMPLES} {{text}} [[{{text}}]]",
        document_template=f"{EXAMPLES} {{text}} [[{{text}}]]",
    )
    encoder, plain = EchoEncoder(config, FP32), EchoEncoder(config, dataclasses.replace(FP32, attention="padded"))
    expected = {
        role: np.concatenate([getattr(plain, f"encode_{role}")([text]) for text in TEXTS])
        for role in ("queries", "documents")
    }
    failures: list[BaseException] = []

    def call(role: str, count: int) -> None:
        try:
            for _ in range(5):
                np.testing.assert_allclose(
                    getattr(encoder, f"encode_{role}")(TEXTS[:count]), expected[role][:count], atol=2e-5
                )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(role, count)) for role in expected for count in (1, 2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture(scope="module")
def packed_and_padded(model_folder) -> tuple[Runner, Runner]:
    return runner_of(model_folder("qwen3")), runner_of(model_folder("qwen3"), "padded")


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(
        st.tuples(st.integers(0, 70), st.sampled_from([0, 90]), st.lists(st.integers(2, 30), min_size=1, max_size=4)),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_came_before_a_batch_gets_what_it_gets_first(
    packed_and_padded, batches: list[tuple[int, int, list[int]]]
):
    runner, plain = packed_and_padded
    for begin, first, lengths in batches:
        rows = rows_of(begin, tuple(lengths), first)
        torch.testing.assert_close(runner.run(rows), one_by_one(plain, rows), atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_the_common_beginning_of_two_is_that_of_both(one: list[int], other: list[int]):
    common = common_prefix(np.array(one, dtype=np.int64), np.array(other, dtype=np.int64)).tolist()
    assert one[: len(common)] == other[: len(common)] == common
    assert len(common) == min(len(one), len(other)) or one[len(common)] != other[len(common)]


def test_the_beginning_ends_before_the_first_span():
    assert len(prefix_of(rows_of(20, (9,)))) == 21
    assert len(prefix_of(rows_of(20, (9, 9)))) == 20


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3", "gpt2", "opt"])
@pytest.mark.parametrize("begin", [40, 600])
def test_a_kept_beginning_serves_on_a_gpu_too(family: str, begin: int, model_folder):
    folder = model_folder(family)
    runner = load_runner(folder, EchoConfig(str(folder)), Runtime(device="cuda", dtype="bfloat16"))
    rows = rows_of(begin)
    exact = one_by_one(runner_of(folder, "padded"), rows)
    for _ in range(2):
        assert torch.cosine_similarity(runner.run(rows).cpu(), exact).min() > 0.99
    assert runner.prefix_cache.any()
