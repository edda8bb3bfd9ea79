"""How many tokens a step may cost at present: halved when memory runs out, and grown back after a time without."""

from __future__ import annotations

PATIENCE = 16  # full steps that must go well before the budget is doubled again; twice as many after each further lack
MOST_PATIENCE = 4096


class Budget:
    """The tokens that a step may cost. Only whoever holds the runner's lock may change it."""

    def __init__(self, chosen: int) -> None:
        """``chosen``: what it is at first, and at most."""
        self.chosen = self.tokens = chosen
        self._patience, self._went_well = PATIENCE // 2, 0  # doubled when memory runs out

    def after_running_out(self, cost: int) -> None:
        """Lower it to half of what a step cost that did not fit."""
        self.tokens = max(1, min(self.tokens, cost // 2))
        self._patience, self._went_well = min(2 * self._patience, MOST_PATIENCE), 0

    def after_success(self, cost: int) -> None:
        """Double it, to what was chosen at most, once enough steps have gone well that used more than half of it."""
        if self.tokens == self.chosen or 2 * cost <= self.tokens:
            return
        self._went_well += 1
        if self._went_well >= self._patience:
            self.tokens, self._went_well = min(self.chosen, 2 * self.tokens), 0
