"""What one layer hands to attention, on any device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Flat = tuple[Tensor, Tensor, Tensor]  # token by token: queries (N, H, d), keys (M, G, d) and values (M, G, d)


@dataclass(frozen=True)
class Heads:
    """The heads of one layer, and how its scores are made; B rows of T tokens, or all rows end to end, with B = 1."""

    query: Tensor  # (B, H, T, d)
    key: Tensor  # (B, G, T, d), with G a divisor of H
    value: Tensor  # (B, G, T, d), whose d may be another
    scale: float  # what scores are multiplied with
    window: int | None = None  # tokens that a token sees, itself included; None: all before it
    before: tuple[Tensor, Tensor] | None = None  # keys and values (1, G, P, d) of shared tokens that are no row here

    def token_by_token(self) -> Flat:
        """The queries (B·T, H, d), keys and values (B·T, G, d) of the tokens here."""
        return _flatten(self.query), _flatten(self.key), _flatten(self.value)

    def before_token_by_token(self) -> tuple[Tensor, Tensor] | None:
        """The keys and values (P, G, d) of ``before``."""
        return None if self.before is None else (_flatten(self.before[0]), _flatten(self.before[1]))


def _flatten(states: Tensor) -> Tensor:
    """(B, heads, T, d) → (B·T, heads, d)."""
    return states.transpose(1, 2).flatten(0, 1)
