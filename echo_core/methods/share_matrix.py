"""Several passages found by one query, as a matrix: what each of the query's words adds to each passage's score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_core.methods.explanation import Explanation

TITLE = 48  # characters of a passage that stand beside its row


def share_matrix(explanations: Sequence[Explanation]) -> tuple[list[str], NDArray[np.float64]]:
    """The query's W words, and what they add to the scores of P passages: (P, W); a row adds up to its score."""
    words = [word for word, _ in explanations[0].query_word_shares] if explanations else []
    shares = [[share for _, share in each.query_word_shares] for each in explanations]
    return words, np.asarray(shares, dtype=np.float64).reshape(len(explanations), len(words))


def plot_shares(explanations: Sequence[Explanation], passages: Sequence[str], target: Any) -> Any:
    """The matrix drawn: a row a passage with its score, a column a word of the query.

    Args:
        explanations: of one query with each of P passages.
        passages: P texts, whose beginnings name the rows.
        target: a file to write (its ending says what: .png, .svg, .pdf), or Axes of matplotlib to draw on.

    Returns:
        The Axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    words, shares = share_matrix(explanations)
    axes = _axes(shares.shape) if isinstance(target, str | os.PathLike) else target
    most = max(float(np.abs(shares).max(initial=0)), 1e-9)
    axes.imshow(shares, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(words)), words, rotation=35, ha="right")
    titles = [
        text if len(text) <= TITLE else f"{text[: TITLE - 1]}…" for text in (" ".join(p.split()) for p in passages)
    ]
    axes.set_yticks(range(len(titles)), [f"{t}  {e.score:.2f}" for t, e in zip(titles, explanations, strict=True)])
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if abs(share) > 0.6 * most else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=8)
    if axes is not target:
        axes.figure.savefig(target, dpi=150, bbox_inches="tight")
    return axes


def _title(passage: str) -> str:
    text = " ".join(passage.split())
    return text if len(text) <= TITLE else f"{text[: TITLE - 1]}…"


def _axes(shape: tuple[int, ...]) -> Any:
    """Axes of a figure that no window and no global state of matplotlib knows of."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError("plot needs matplotlib; install it with: pip install matplotlib") from error
    rows, columns = shape
    return Figure(figsize=(2.5 + 0.8 * columns, 1.2 + 0.45 * rows)).add_subplot()
