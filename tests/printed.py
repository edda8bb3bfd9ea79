"""Whether a program printed what a page shows: numbers to the digits shown, white space apart, "…" for what is left out."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d*)?(?![\w])|(?<![\w.])[-+]?\.\d+(?![\w])")
_REST = "…"  # alone on a line: any lines; within a line: any text


def same_print(shown: str, printed: str) -> bool:
    """True if ``printed`` is what ``shown`` says.

    A number with decimals may differ by one in its last digit, as processors round differently; whole numbers and
    words may not.
    """
    shown, printed = shown.strip(), printed.strip()
    parts = [re.escape(part) for part in re.split(rf"\s*{_REST}\s*", _masked(shown))]
    pattern = re.sub(r"(?:\\?\s)+", r"\\s+", ".*?".join(parts))
    pattern = pattern.replace(re.escape(_MARK), "(" + _NUMBER.pattern + ")")
    found = re.fullmatch(pattern, printed, re.DOTALL)
    return bool(found) and all(map(_near, _decimals(shown), found.groups()))


_MARK = "\0"


def _masked(text: str) -> str:
    return _NUMBER.sub(lambda number: _MARK if "." in number.group() else number.group(), text)


def _decimals(text: str) -> list[str]:
    return [number for number in _NUMBER.findall(text) if "." in number]


def _near(shown: str, printed: str) -> bool:
    digits = len(shown.partition(".")[2])
    one, other = (float(number.replace(",", "")) for number in (shown, printed))
    return abs(one - other) <= 1.01 * 10**-digits
