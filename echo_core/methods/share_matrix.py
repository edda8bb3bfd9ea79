"""Several passages found by one query, as a matrix: what each of the query's words adds to each passage's score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_core.errors import ConfigError
from echo_core.methods.explanation import Explanation

TITLE = 48  # characters of a passage that stand beside its row


def share_matrix(explanations: Sequence[Explanation]) -> tuple[list[str], NDArray[np.float64]]:
    """The query's W words, and what they add to the scores of P passages: (P, W); a row adds up to its score."""
    words = [word for word, _ in explanations[0].query_word_shares] if explanations else []
    shares = [[share for _, share in each.query_word_shares] for each in explanations]
    return words, np.asarray(shares, dtype=np.float64).reshape(len(explanations), len(words))


def check_target(target: object, passages: int) -> None:
    """Return if a matrix of so many passages can be drawn there, or nothing shall be (None); asked before a model runs.

    Raises:
        ImportError: matplotlib is not installed.
        ConfigError: no passage, or a file of a kind that matplotlib does not write, or in a folder that is not there.
        TypeError: neither a file nor Axes.
    """
    if target is not None and not passages:
        raise ConfigError("documents must hold a passage at least for a plot, got none; leave plot out")
    if isinstance(target, str | os.PathLike):
        path, kinds = Path(target), _axes((1, 1)).figure.canvas.get_supported_filetypes()
        if path.suffix[1:].lower() not in kinds:
            raise ConfigError(f"plot must end in one of {', '.join(sorted(kinds))}, got {os.fspath(target)!r}")
        if not path.parent.is_dir():
            raise ConfigError(f"plot must be a file in a folder that exists, got {os.fspath(target)!r}; make it first")
    elif target is not None and not hasattr(target, "imshow"):
        raise TypeError(f"plot must be a file's path or Axes of matplotlib, got {type(target).__name__}")


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
    plain = {"parse_math": False}  # a text with two dollar signs is no formula
    axes.set_xticks(range(len(words)), words, rotation=35, ha="right", **plain)
    titles = [f"{_title(p)}  {e.score:.2f}" for p, e in zip(passages, explanations, strict=True)]
    axes.set_yticks(range(len(titles)), titles, **plain)
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
