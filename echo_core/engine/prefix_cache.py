"""What rows begin with, run once: its keys and values in every layer are kept for later batches and later calls.

Under causal attention the states of a row's first tokens do not depend on what follows. So an instruction, in-context
examples or a chunk's surroundings, said before every text, cost their tokens once and not in each batch. A few tokens
are not worth it: they run along in each batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from echo_core.text.rows import Row

Ids = NDArray[np.int64]

WORTH = 16  # tokens; fewer cost less in each batch than their keys before every layer's own (LOG.md)
MOST = 4096  # tokens; of a model with 7 billion weights 0.5 to 2 GiB
KEPT = 2  # prefixes: that of queries and that of documents


def shared_tokens(rows: Sequence[Row]) -> int:
    """The number of tokens that all rows begin with, before any span; 0 for fewer than two rows, or with slots."""
    return len(prefix_of(rows)) if len(rows) > 1 else 0


def prefix_of(rows: Sequence[Row]) -> Ids:
    """The ids (P,) that all of these rows, one or more, begin with, before any span; none with slots."""
    if any(row.slots for row in rows):
        return rows[0].ids[:0]
    most = min(min(len(row.ids) - 1, *(span.start for span in row.spans)) for row in rows)
    first = rows[0].ids[:most]
    return first[: _length_of(np.logical_and.reduce([row.ids[:most] == first for row in rows]))]


def common_prefix(one: Ids, other: Ids) -> Ids:
    """The ids that both begin with."""
    most = min(len(one), len(other))
    return one[: _length_of(one[:most] == other[:most])]


def _length_of(same: NDArray[np.bool_]) -> int:
    """The number of entries that are True before the first that is not."""
    return int(len(same) if same.all() else same.argmin())


class Prefix:
    """The keys and values of some first tokens, layer by layer.

    One forward pass fills it; then they are put before the keys of any number of other tokens.
    """

    def __init__(self, ids: Ids) -> None:
        """``ids``: the tokens, (P,)."""
        self.ids = ids
        self.filled = False
        self._layers: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def exchange(self, layer: nn.Module, key: Tensor, value: Tensor, tokens: int) -> tuple[Tensor, Tensor] | None:
        """The first ``tokens`` keys and values of a layer, (1, G, tokens, d) each.

        Before it is filled: None, and it keeps the first ``tokens`` of key and value, (1, G, T, d) each.
        """
        if self.filled:
            keys, values = self._layers[layer]
            return keys[:, :, :tokens], values[:, :, :tokens]
        self._layers[layer] = (_copy(key[:, :, :tokens]), _copy(value[:, :, :tokens]))
        return None


def _copy(states: Tensor) -> Tensor:
    """The states (1, G, P, d) in memory of their own, token by token, as attention takes them."""
    return states.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


class PrefixCache:
    """The prefixes that a model keeps, the one used last at the end; for whoever holds the runner's lock."""

    def __init__(self, allowed: bool = True) -> None:
        """An empty cache; one that stays empty if not ``allowed``."""
        self._allowed = allowed
        self._kept: list[Prefix] = []

    def find(self, ids: Ids, rows: int) -> tuple[Prefix | None, int]:
        """The prefix for N rows that begin with these ids, and how many of its tokens serve.

        It is one that is kept, or else one that their batch shall fill; None if it is not worth keeping.
        """
        common = [(len(common_prefix(kept.ids, ids)), kept) for kept in self._kept]
        shared, nearest = max(common, key=lambda pair: pair[0], default=(0, None))
        if shared >= WORTH and rows * (len(ids) - shared) <= len(ids):  # what it lacks is less work than all of it
            return nearest, shared
        return Prefix(ids) if self._allowed and WORTH <= len(ids) <= MOST else None, len(ids)

    def keep(self, prefix: Prefix) -> None:
        """Keep a prefix that a batch has filled or used; the one that was used longest ago goes."""
        prefix.filled = True
        self._kept = [*(kept for kept in self._kept if kept is not prefix), prefix][-KEPT:]

    def any(self) -> bool:
        """True if a prefix is kept, and so takes memory."""
        return bool(self._kept)

    def forget(self) -> None:
        """Keep none any more, which frees their memory."""
        self._kept = []
