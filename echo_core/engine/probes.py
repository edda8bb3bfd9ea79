"""Questions to a model at load, each answered by three short rows.

Ask what is meant. *Do rows see each other?* Change one row: the others' states must stay, as nothing else in the pass
has changed. *Is the sum right?* Compare with the model's own attention. In half precision a few tokens of a pretrained
model are chaotic (a rounding moves their states by more than their length, in any exact attention), so there a row's
middle state counts, and the ids should be plain text, not special tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from echo_core.engine.batches import Batch
from echo_core.engine.prefix_cache import Prefix

ROW, SHARED = 6, 2  # tokens of a probe row, and those that the first and the third begin with

Forward = Callable[[Tensor, Sequence[int] | None, int, Prefix | None], Tensor]  # as ``Decoder.forward``


@dataclass(frozen=True)
class Tolerance:
    """How far states may be off, as a share of their length."""

    exact: float  # in float32
    roundings: float  # in half precision, in units of the dtype's own rounding

    def of(self, dtype: torch.dtype) -> float:
        """The share for a dtype."""
        return max(self.exact, self.roundings * torch.finfo(dtype).eps)


TOLERANCES = {
    "unmoved": Tolerance(1e-4, 4),  # the same sizes, another token: only a mixture of experts adds up otherwise then
    "same sum": Tolerance(1e-3, 16),  # another attention, in another order
    "same product": Tolerance(1e-4, 16),  # other machine code for the same numbers
}


@dataclass(frozen=True)
class ProbeRows:
    """Three rows, the third of which begins like the first and goes on like the second."""

    ids: Tensor  # (3, ROW) int64, on the model's device
    dtype: torch.dtype  # what the model computes in: the mean of several layers comes in float32, and is no more exact

    @classmethod
    def of(cls, ids: Sequence[int], vocabulary: int, device: torch.device, dtype: torch.dtype) -> ProbeRows:
        """Rows of these ids.

        Args:
            ids: plain text of the model's language; where too few differ, ids from the middle of the vocabulary stand
                in, as special tokens are at its ends.
            vocabulary: V; ids beyond it are left out.
            device: of the model.
            dtype: that the model computes in.
        """
        needed = 2 * ROW
        middle = (vocabulary // 3 + place * max(1, vocabulary // (3 * needed)) for place in range(needed))
        different = list(dict.fromkeys(i for i in (*ids, *middle) if i < vocabulary))[:needed]
        filled = [different[place % len(different)] for place in range(needed)]
        first, second = torch.tensor(filled, dtype=torch.int64, device=device).view(2, ROW)
        return cls(torch.stack([first, second, torch.cat([first[:SHARED], second[SHARED:]])]), dtype)

    def ending_otherwise(self, row: slice, start: int) -> Tensor:
        """The ids with another row's tokens from ``start`` on in these rows; another order would not move a mean."""
        other = self.ids.clone()
        other[row, start:] = self.ids.roll(1, 0)[row, start:]
        return other


def is_causal(forward: Forward, rows: ProbeRows, states: Tensor) -> bool:
    """Whether rows' first states, of their ``states`` (3, ROW, D), stay as they are when the rows end otherwise."""
    first = ROW - 2
    other = forward(rows.ending_otherwise(slice(None), first), None, 0, None)
    return near("unmoved", other[:, :first], states[:, :first], rows.dtype)


def rows_stay_apart(forward: Forward, rows: ProbeRows, states: Tensor) -> bool:
    """Whether other rows' ``states``, as ``end_to_end`` gives them, stay when the first row ends otherwise."""
    unchanged = [place for place, row in enumerate(_END_TO_END) if row != 0]
    other = end_to_end(forward, rows.ending_otherwise(slice(1), SHARED))
    return near("unmoved", other[unchanged], states[unchanged], rows.dtype)


def sum_is_right(states: Tensor, own: Tensor, dtype: torch.dtype) -> bool:
    """Whether states are those of the model's own attention over padded rows, (3, ROW, D).

    ``states`` are those of the same padded rows, or what ``end_to_end`` gives.
    """
    return near("same sum", states, own if states.shape == own.shape else own[list(_END_TO_END), SHARED:], dtype)


def products_are_right(states: Tensor, plain: Tensor, dtype: torch.dtype) -> bool:
    """Whether the states with other machine code are those with torch's own."""
    return near("same product", states, plain, dtype)


def pooled_states_stay(
    forward: Forward, rows: ProbeRows, pruned: Callable[[Batch], AbstractContextManager[None]]
) -> bool:
    """Whether pruning leaves the states of spans, here of each row's last two tokens, as they are."""
    spans = tuple((end - 2, end) for end in range(ROW, rows.ids.numel() + 1, ROW))
    whole = forward(rows.ids, None, 0, None)[:, -2:]
    with pruned(Batch(rows.ids.cpu(), spans)):
        return near("same product", forward(rows.ids, None, 0, None)[:, -2:], whole, rows.dtype)


_END_TO_END = (0, 1, 2, 0, 2, 0, 2)  # which of the probe rows ``end_to_end`` gives the ends of


def end_to_end(forward: Forward, ids: Tensor) -> Tensor:
    """States of the rows' ends, (7, ROW - SHARED, D).

    Of all rows laid end to end; of two after a beginning that is said once; of two after one that was kept.
    """
    packed = forward(ids.view(1, -1), [ROW] * len(ids), 0, None).view(*ids.shape, -1)
    once, ends = torch.cat([ids[0], ids[2, SHARED:]])[None], [ROW - SHARED] * 2
    prefix = Prefix(once[0, :SHARED].cpu().numpy())
    filling = forward(once, ends, SHARED, prefix)[0, SHARED:]
    prefix.filled = True
    after = forward(once[:, SHARED:], ends, SHARED, prefix)[0]
    return torch.cat([packed[:, SHARED:], torch.cat([filling, after]).view(-1, ROW - SHARED, packed.shape[-1])])


def near(question: str, states: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether states are the expected ones, within the tolerance of a question.

    Not a number is near only where it is expected: of weights that are none, the texts' own error tells.
    """
    return apart(states, expected, dtype) <= TOLERANCES[question].of(dtype)


def apart(states: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """How far states (R, T, D) are off in the worst row, as a share of their length.

    By a row's worst state, or, where the model computes in half precision, by its middle one.
    """
    neither = ~(states.isfinite() | expected.isfinite())
    states, expected = (each.float().masked_fill(neither, 0) for each in (states, expected))
    off = (states - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-6)
    return float((off.median(dim=-1).values if dtype.itemsize < 4 else off).max())
