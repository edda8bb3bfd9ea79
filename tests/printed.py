"""Whether a program printed what a page shows: white space apart, numbers nearly, "…" for what is left out."""

from __future__ import annotations

import re

_DECIMAL = re.compile(r"(?<![\w.])[-+]?\d*\.\d+(?![\w.])")
_HOLE = "\0"  # stands for a decimal while the words are compared


def same_print(shown: str, printed: str) -> bool:
    """True if ``printed`` is what ``shown`` says.

    A number with decimals may differ by one in the last digit shown, as processors round differently; whole numbers and
    words may not. "…" stands for any text, of several lines too.
    """
    words = re.escape(_DECIMAL.sub(_HOLE, " ".join(shown.split())))
    pattern = re.sub(r"(\\ )?…(\\ )?", ".*?", words).replace(re.escape(_HOLE), f"({_DECIMAL.pattern})")
    found = re.fullmatch(pattern, " ".join(printed.split()))
    return found is not None and all(map(_near, _DECIMAL.findall(shown), found.groups()))


def _near(shown: str, printed: str) -> bool:
    digits = len(shown.partition(".")[2])
    return abs(float(shown) - float(printed)) <= 1.01 * 10**-digits
