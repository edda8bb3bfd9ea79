"""What the modules hand to each other: padded tensors for training, or the whole texts of an ``encode`` call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echo_core.text.inputs import check_collection, check_text, is_blank
from echo_core.text.rows import Row

INPUT, MASK, POOL, WHOLE = "input_ids", "attention_mask", "pooling_mask", "echo_texts"
SLOT = "slot_mask"  # with Token Prepending alone
IS_QUERY = "is_query"  # (N,) int64, where queries have a mean direction of their own


class WholeText(str):
    """A text of an ``encode`` call and its number there, for errors; it is read whole, in windows if it is long."""

    number: int

    @classmethod
    def of(cls, text: str, number: int) -> WholeText:
        """The text, marked; one that is marked already keeps its number."""
        if isinstance(text, cls):
            return text
        marked = cls(text)
        marked.number = number
        return marked


@dataclass(frozen=True)
class WholeTexts:
    """Texts that the core's pipeline shall turn into pooled vectors."""

    texts: list[WholeText]
    role: str
    instruction: str | None


def mark_texts(inputs: Any, empty: str) -> Any:
    """Each text with its number, so that the first module reads it whole and an error can name it.

    Args:
        inputs: a text, or a list of texts.
        empty: as in EchoConfig.
    """
    if isinstance(inputs, str):
        return WholeText.of(inputs, 0)
    texts = [WholeText.of(check_text(text, number), number) for number, text in enumerate(check_collection(inputs))]
    for text in texts:  # here, as an error in a worker of a pool hangs versions before 6.2
        is_blank(text, text.number, empty)
    return texts


def padded_features(rows: Mapping[int, Row], count: int, pad_id: int, slots: bool) -> dict[str, Tensor]:
    """Ids, attention mask and pooling mask of N texts, (N, T) int64 each, padded on the right.

    Args:
        rows: for the texts that have one (a blank one has none), the row, with one span.
        count: N.
        pad_id: is never seen by what is pooled.
        slots: True adds a mask of where the slots stand (Token Prepending).
    """
    width = max((len(row.ids) for row in rows.values()), default=1)
    features = {name: np.zeros((count, width), dtype=np.int64) for name in (INPUT, MASK, POOL, *[SLOT][: int(slots)])}
    features[INPUT][:] = pad_id
    for index, row in rows.items():
        (span,) = row.spans
        features[INPUT][index, : len(row.ids)] = row.ids
        features[MASK][index, : len(row.ids)] = 1
        features[POOL][index, span.start : span.end] = 1
        if slots:
            features[SLOT][index, list(row.slots)] = 1
    return {name: torch.from_numpy(values) for name, values in features.items()}


def slots_of(features: Mapping[str, Any]) -> Tensor | None:
    """The slots of padded features as ``token_prepending.overwrite`` takes them; None: they have none."""
    if SLOT not in features:
        return None
    rows, places = features[SLOT].nonzero(as_tuple=True)
    width, last = features[SLOT].shape[1], features[MASK].sum(dim=1) - 1
    return torch.stack([rows * width + places, rows * width + last[rows]])
