from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from encoders import encoder_of
from nasty_texts import ALL, PLAIN

import echo_core.text.stream
from echo_core import EchoEncoder


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> EchoEncoder:
    return encoder_of(tiny_llama, max_tokens=64, empty="zero")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo_core.text.stream, "BLOCK_TEXTS", 5)


@pytest.fixture
def rows_run(encoder: EchoEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each batch that the model ran."""
    runner = encoder._engine.runner
    execute, counted = runner.execute, []
    monkeypatch.setattr(runner, "execute", lambda step: (counted.append(len(step.rows)), execute(step))[1])
    return counted


def test_many_blocks_come_back_in_order(encoder: EchoEncoder):
    texts = [f"{i} {text}" for i in range(3) for text in ALL]
    alone = np.concatenate([encoder.encode_documents([text]) for text in texts])
    assert np.abs(encoder.encode_documents(texts) - alone).max() <= 1e-5
    assert np.abs(np.stack(list(encoder.iter_documents(texts))) - alone).max() <= 1e-5


def test_identical_texts_are_encoded_once_in_a_call(encoder: EchoEncoder, rows_run: list[int]):
    vectors = encoder.encode_documents([*PLAIN, *PLAIN[::-1]] * 5)
    assert sum(rows_run) == len(PLAIN)
    assert np.array_equal(vectors[:4], vectors[4:8][::-1])


def test_identical_texts_that_stand_near_each_other_in_a_stream_are_encoded_once(
    encoder: EchoEncoder, rows_run: list[int]
):
    assert len(list(encoder.iter_documents(["a", "a", "b", "a", "b"] * 2))) == 10
    assert sum(rows_run) == 4


def test_blank_texts_never_reach_the_model(encoder: EchoEncoder, rows_run: list[int]):
    vectors = encoder.encode_documents(["", " ", "\n", "\t", "\r", "Paris", ""])
    assert sum(rows_run) == 1
    assert [bool(vector.any()) for vector in vectors] == [False] * 5 + [True, False]


def test_a_stream_is_read_two_blocks_ahead_and_no_further(encoder: EchoEncoder):
    read: list[int] = []

    def stream() -> Iterator[str]:
        for i in range(1000):
            read.append(i)
            yield f"text {i}"

    vectors = encoder.iter_documents(stream())
    assert read == []
    next(vectors)
    assert len(read) <= 15
    vectors.close()


def test_a_stream_that_is_dropped_stops_the_model(encoder: EchoEncoder, rows_run: list[int]):
    vectors = encoder.iter_documents(f"text {i}" for i in range(10_000))
    next(vectors)
    del vectors
    encoder.encode_documents(["Paris"])
    assert sum(rows_run) <= 16


def test_vectors_given_out_before_a_wrong_text_are_right_and_the_error_names_its_place_in_the_stream(
    encoder: EchoEncoder,
):
    got: list[np.ndarray] = []
    with pytest.raises(TypeError, match="text 23 must be a string"):
        got.extend(encoder.iter_documents([f"text {i}" for i in range(23)] + [None]))  # type: ignore[list-item]
    assert len(got) >= 10
    assert np.abs(np.stack(got) - encoder.encode_documents([f"text {i}" for i in range(len(got))])).max() <= 1e-5


def test_an_error_of_the_callers_own_stream_passes_through(encoder: EchoEncoder):
    def stream() -> Iterator[str]:
        yield from PLAIN
        raise ConnectionError("the database is gone")

    with pytest.raises(ConnectionError, match="the database is gone"):
        list(encoder.iter_documents(stream()))
    assert len(encoder.encode_documents(["Paris"])) == 1


def test_a_vector_taken_from_a_stream_is_the_callers_to_change(encoder: EchoEncoder):
    first, second = list(encoder.iter_documents(["Paris", "Paris"]))
    first[:] = 0
    assert second.any()
