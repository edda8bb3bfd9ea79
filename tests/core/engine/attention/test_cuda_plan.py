from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from echo_core.engine.attention import cuda_plan
from echo_core.engine.attention.cuda_plan import CudaPlan, plan_parts

CPU = torch.device("cpu")


def plan(lengths: list[int], shared: int, window: int | None = None, kept: bool = False) -> CudaPlan:
    once = 0 if kept else shared
    bounds = list(accumulate([once, *lengths] if once else lengths, initial=0))
    return plan_parts(bounds, once, shared, window, CPU)


def keys_of_rows(parts: tuple[cuda_plan.Part, ...]) -> list[list[int]]:
    return [part.keys[start:end].tolist() for part in parts for start, end in pairwise(part.key_starts.tolist())]


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.integers(1, 30),
    st.sampled_from([None, 1, 2, 7, 100]),
    st.booleans(),
    st.sampled_from([1, 50, 2**17]),
)
def test_each_row_s_keys_are_the_shared_tokens_that_it_sees_and_its_own(lengths, shared, window, kept, gathered):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_plan, "GATHERED", gathered)
        made = plan(lengths, shared, window, kept)
    starts = list(accumulate(lengths, initial=shared))
    shared_row = [] if kept else [list(range(shared))]
    for parts, reach in ((made.full, shared), (made.sliding, min(shared, (window or 1) - 1))):
        if parts is made.sliding and window is None:
            assert parts == ()
            continue
        before = list(range(shared - reach, shared))
        expected = [*shared_row, *([*before, *range(start, end)] for start, end in pairwise(starts))]
        assert keys_of_rows(parts) == expected
        assert all(len(part.keys) <= gathered or len(part.key_starts) == 2 for part in parts)
        assert sum(int(part.query_starts[-1]) for part in parts) == sum(lengths) + (0 if kept else shared)
        assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]


def test_rows_that_share_nothing_need_no_table_of_keys():
    made = plan([3, 5], 0, window=2)
    assert made.full is made.sliding
    (part,) = made.full
    assert part.keys is None
    assert part.query_starts.tolist() == [0, 3, 8]
    assert (part.most_queries, part.most_keys) == (5, 5)


def test_a_window_that_reaches_all_shared_tokens_needs_no_table_of_its_own():
    made = plan([3, 5], 4, window=5)
    assert made.sliding is made.full


def test_no_table_of_keys_is_made_for_what_is_attended_to_apart():
    """For 2,180 queries after 4,096 tokens it would have nine million places."""
    with torch.inference_mode():
        made = plan([2] * 1000, 4096, kept=True)
    assert made.full == made.sliding == ()
    assert made.apart is not None
    assert all(part.keys is None for part in made.apart)
