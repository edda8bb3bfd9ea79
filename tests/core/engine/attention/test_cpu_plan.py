from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from echo_core.engine.attention.cpu_plan import TOGETHER, PlanKey, _of_about_the_same_length, plan_blocks


@pytest.mark.parametrize("ahead", [0, 2000])
def test_what_rows_share_asks_for_no_attention_again_in_each_of_them(ahead: int):
    """It did: the rows behind in-context examples of 2,000 tokens took ten times as long as their own tokens need."""
    shared, lengths, plan_key = (
        2000,
        [50] * 40,
        PlanKey(4000 - ahead, ahead, 4, 2, None, torch.bfloat16, torch.device("cpu"), inference=True),
    )
    plan = plan_blocks(
        tuple(accumulate(lengths, initial=0)) if ahead else (0, *accumulate(lengths, initial=shared)), shared, plan_key
    )
    queries = sum(len(block.queries) for group in plan.groups for block in group.blocks) // plan_key.heads
    assert queries <= 1.4 * plan_key.tokens
    assert plan.back.unique().numel() == plan_key.tokens * plan_key.heads


@given(st.lists(st.integers(1, 500), min_size=1, max_size=120))
def test_rows_share_their_products_in_few_numbers_and_with_rows_about_as_long(lengths: list[int]):
    groups = list(_of_about_the_same_length(lengths))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert len(group) in TOGETHER
        assert all(longest - lengths[row] <= max(16, 0.15 * longest) for row in group)


def test_a_default_device_of_the_process_does_not_matter():
    """Tables that were made without a device went to torch's default one."""
    plan_key = PlanKey(9, 0, 2, 1, 4, torch.float32, torch.device("cpu"), inference=False)
    with torch.device("meta"):
        plan = plan_blocks((0, 5, 9), 0, plan_key)
    assert {plan.back.device.type, *(group.keys.device.type for group in plan.groups)} == {"cpu"}
    assert {block.mask.device.type for group in plan.groups for block in group.blocks} == {"cpu"}
