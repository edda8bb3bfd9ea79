from __future__ import annotations

from functools import reduce

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from echo_core.engine.batches import pack_rows
from echo_core.engine.prefix_cache import common_prefix, prefix_of, shared_tokens
from echo_core.engine.rotation import Rotation
from echo_core.engine.steps import BatchSize, Planner, group_rows, places_of_spans, plan_batches
from echo_core.text.rows import Row, Span

LENGTHS = st.lists(st.integers(1, 50), max_size=60)


@given(LENGTHS, st.integers(1, 400))
def test_batches_hold_every_row_once_and_keep_the_budget_with_their_padding(lengths: list[int], budget: int):
    batches = plan_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(LENGTHS, st.integers(1, 400))
def test_packed_batches_hold_every_row_once_and_keep_the_budget(lengths: list[int], budget: int):
    batches = plan_batches(lengths, budget, packed=True)
    assert [i for batch in batches for i in batch] == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget


@given(st.lists(st.integers(10, 60), min_size=40, max_size=200))
def test_packed_batches_are_about_equal_so_that_their_sizes_are_few(lengths: list[int]):
    batches = [sum(lengths[i] for i in batch) for batch in plan_batches(lengths, 600, packed=True)]
    assert max(batches) - min(batches) <= 3 * 60
    assert len(batches) <= -(-sum(lengths) // (600 - 60)) + 1


@given(LENGTHS, st.integers(1, 400))
def test_the_longest_rows_come_first_and_equal_lengths_in_order(lengths: list[int], budget: int):
    order = [i for batch in plan_batches(lengths, budget) for i in batch]
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert order == sorted(order, key=lambda i: (-lengths[i], i))


def test_no_row_makes_no_batch():
    assert plan_batches([], 100) == []


def test_sorted_rows_waste_little_on_padding():
    """Lengths of a real corpus are heavy-tailed: in the order of arrival a third of the positions would be padding."""
    lengths = [int(x) for x in np.random.default_rng(0).lognormal(3.5, 0.9, 4096).clip(5, 520)]
    positions = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan_batches(lengths, 1536))
    assert sum(lengths) / positions > 0.93


def test_packed_batches_are_filled_up_to_the_budget_by_tokens_without_padding():
    assert plan_batches([6, 1, 1, 1], 9, packed=True) == [[0, 1, 2, 3]]
    assert plan_batches([6, 1, 1, 1], 9) == [[0], [1, 2, 3]]
    assert BatchSize(True).with_rows([6, 1]).tokens == 7
    assert BatchSize(False).with_rows([6, 1]).tokens == 12
    assert BatchSize(True).with_rows([9, 6], shared=4).tokens == 7
    assert BatchSize(False).with_rows([9, 6], shared=4).tokens == 18


def begin_alike(prefix: int, lengths: list[int]) -> list[Row]:
    """Rows whose first tokens are the same, and whose later ones no other row has; the span is the last token."""
    ids = [np.concatenate([np.arange(prefix), 1000 * (i + 1) + np.arange(length)]) for i, length in enumerate(lengths)]
    return [Row(row, (Span(i, len(row) - 1, len(row)),)) for i, row in enumerate(ids)]


def test_what_all_rows_begin_with_does_not_fill_the_batches():
    """In-context examples of 400 tokens left place for two queries in a batch of 1,000, and ran again for every two."""
    rows = begin_alike(400, [20] * 100)
    assert [len(batch) for batch in group_rows(rows, 1000, packed=True)] == [50, 50]
    assert {len(batch) for batch in group_rows(rows, 1000)} == {2}


@given(st.integers(0, 30), LENGTHS.filter(bool), st.integers(1, 200))
def test_rows_that_begin_alike_keep_the_budget_with_what_is_their_own(prefix: int, lengths: list[int], budget: int):
    rows = begin_alike(prefix, lengths)
    batches = group_rows(rows, budget, packed=True)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    for batch in batches:
        shared = shared_tokens([rows[i] for i in batch])
        assert len(batch) == 1 or pack_rows([rows[i] for i in batch], shared).ids.numel() - shared <= budget


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_common_beginning_is_the_longest_and_the_same_whether_sought_at_once_or_row_by_row(texts: list[list[int]]):
    rows = [Row(np.array(ids), (Span(0, len(ids) - 1, len(ids)),)) for ids in texts]
    found = prefix_of(rows).tolist()
    assert all(ids[: len(found)] == found for ids in texts)
    longest = min(len(ids) - 1 for ids in texts)
    assert len(found) == longest or len({ids[len(found)] for ids in texts}) > 1
    assert reduce(common_prefix, [prefix_of([row]) for row in rows]).tolist() == found


@given(LENGTHS, st.integers(1, 400), st.integers(1, 50))
def test_rows_that_their_length_rotates_only_share_a_step_with_rows_as_long(
    lengths: list[int], budget: int, limit: int
):
    rows = [Row(np.arange(length), (Span(0, 0, length),)) for length in lengths]
    planner = Planner(rotation=Rotation(long_from=limit, by_length=True))
    for group in planner.group(rows, budget):
        found = {lengths[i] for i in group}
        assert len(found) == 1 or max(found) < limit


@given(LENGTHS, st.integers(1, 400), st.integers(1, 50))
def test_rows_from_a_length_on_never_share_a_step_with_shorter_ones(lengths: list[int], budget: int, limit: int):
    rows = [Row(np.arange(length), (Span(0, 0, length),)) for length in lengths]
    planner = Planner(rotation=Rotation(long_from=limit))
    groups = planner.group(rows, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    assert all(len({lengths[i] >= limit for i in group}) == 1 for group in groups)
    if len(groups) > 1:
        one, other = (planner.step([rows[i] for i in group]) for group in (groups[0], groups[-1]))
        alike = (len(one.rows[0].ids) >= limit) is (len(other.rows[0].ids) >= limit)
        assert (planner.join(one, other, 10**6) is not None) is alike


@given(st.integers(0, 30), LENGTHS.filter(bool), st.booleans())
def test_a_step_costs_the_same_however_it_came_about(prefix: int, lengths: list[int], packed: bool):
    rows, planner = begin_alike(prefix, lengths), Planner(packed)
    whole = planner.step(rows)
    joined = reduce(lambda one, other: planner.join(one, other, 10**9), [planner.step([row]) for row in rows])
    assert joined.rows == whole.rows
    if len(rows) > 1:
        assert (joined.cost, joined.prefix.tolist()) == (whole.cost, whole.prefix.tolist())
        first, second = planner.halves(whole)
        assert first.rows + second.rows == whole.rows


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.randoms())
def test_vectors_find_back_to_the_order_of_rows_and_spans(counts: list[int], chance):
    rows = [Row(np.arange(5), tuple(Span(i, 0, 1) for _ in range(count))) for i, count in enumerate(counts)]
    order = list(range(len(rows)))
    chance.shuffle(order)
    groups = [order[:2], order[2:]] if len(order) > 2 else [order]
    names = [(i, j) for group in groups for i in group for j in range(counts[i])]
    found = [names[place] for place in places_of_spans(rows, groups)]
    assert found == [(i, j) for i, count in enumerate(counts) for j in range(count)]
