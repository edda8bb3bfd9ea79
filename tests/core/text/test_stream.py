from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import echo_core.text.stream
from echo_core.text.stream import Entry, distinct_entries, split_entries

TEXTS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([(), ("x",), ("y",)])), max_size=30)


@given(TEXTS)
def test_each_text_with_its_values_is_kept_once_and_every_place_finds_it(pairs: list[tuple[str, tuple[str, ...]]]):
    block = distinct_entries(Entry(i, text, values) for i, (text, values) in enumerate(pairs))
    assert len({(entry.text, entry.values) for entry in block.entries}) == len(block.entries)
    assert [(block.entries[place].text, block.entries[place].values) for place in block.places] == pairs


def test_an_entry_keeps_the_number_of_its_first_occurrence():
    block = distinct_entries([Entry(7, "a"), Entry(8, "b"), Entry(9, "a")])
    assert [entry.number for entry in block.entries] == [7, 8]


def test_equal_texts_with_other_values_are_different():
    assert len(distinct_entries([Entry(0, "a", ("x",)), Entry(1, "a", ("y",))]).entries) == 2


def test_blocks_end_at_their_number_of_texts_or_of_characters(monkeypatch):
    monkeypatch.setattr(echo_core.text.stream, "BLOCK_TEXTS", 3)
    monkeypatch.setattr(echo_core.text.stream, "BLOCK_CHARACTERS", 100)
    entries = [Entry(i, "x" * size) for i, size in enumerate([1, 1, 1, 1, 99, 200, 1])]
    assert [[entry.number for entry in part] for part in split_entries(entries)] == [[0, 1, 2], [3, 4], [5], [6]]


def test_the_first_block_may_be_smaller_than_the_others(monkeypatch):
    """Tokenising 4,096 texts held a GPU up before its first batch."""
    monkeypatch.setattr(echo_core.text.stream, "BLOCK_TEXTS", 3)
    parts = [[entry.number for entry in part] for part in split_entries([Entry(i, "x") for i in range(7)], first=2)]
    assert parts == [[0, 1], [2, 3, 4], [5, 6]]


def test_a_stream_is_read_block_by_block(monkeypatch):
    monkeypatch.setattr(echo_core.text.stream, "BLOCK_TEXTS", 10)
    read = []

    def stream():
        for i in range(1000):
            read.append(i)
            yield Entry(i, "t")

    next(iter(split_entries(stream())))
    assert len(read) == 10
