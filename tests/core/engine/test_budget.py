from __future__ import annotations

from echo_core.engine.budget import MOST_PATIENCE, PATIENCE, Budget


def test_the_budget_comes_back_after_full_steps_that_went_well():
    """One lack of memory halved it for good, for calls that had nothing to do with it too."""
    budget = Budget(1000)
    budget.after_running_out(900)
    assert budget.tokens == 450
    for _ in range(PATIENCE - 1):
        budget.after_success(400)
    assert budget.tokens == 450
    budget.after_success(400)
    assert budget.tokens == 900
    for _ in range(PATIENCE):
        budget.after_success(800)
    assert budget.tokens == 1000, "and no further than what was chosen"


def test_small_steps_do_not_say_that_there_is_room_again():
    budget = Budget(1000)
    budget.after_running_out(900)
    for _ in range(100):
        budget.after_success(225)
    assert budget.tokens == 450


def test_where_memory_runs_out_again_and_again_it_is_tried_less_and_less_often():
    budget, steps = Budget(1000), []
    for _ in range(12):
        budget.after_running_out(1000)
        steps.append(0)
        while budget.tokens < 1000:
            budget.after_success(budget.tokens)
            steps[-1] += 1
    assert steps[0] == PATIENCE
    assert steps == sorted(steps)
    assert steps[-1] == MOST_PATIENCE


def test_a_budget_never_falls_to_nothing():
    budget = Budget(3)
    for _ in range(5):
        budget.after_running_out(budget.tokens)
    assert budget.tokens == 1
