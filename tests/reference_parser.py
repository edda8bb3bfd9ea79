"""How the paper's reference code turns a template and values into ids, written anew from its description.

For the reference seam's tests.

``{…}`` is a piece that is pooled, ``{!…}`` one that is not; inside, ``%%name%%`` stands for a value. What stands
between braces is a literal, never pooled. Every piece is tokenised on its own, without special tokens added, but with
``<s>`` and ``</s>`` read as such, and is cut to ``max_length``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_BRACED = re.compile(r"\{([^{}]+)\}")


def reference_ids(
    tokenizer: Any, template: str, values: Mapping[str, str], max_length: int
) -> tuple[list[int], list[int]]:
    """The row's ids and the positions that are pooled."""
    ids: list[int] = []
    pooled: list[int] = []
    for i, string in enumerate(_BRACED.split(template)):  # literals at even places, what was in braces at odd ones
        braced = i % 2 == 1
        silent = not braced or string.startswith("!")
        filled = string.removeprefix("!") if braced else string
        for name, value in values.items():
            filled = filled.replace(f"%%{name}%%", value) if braced else filled
        new = tokenizer(filled, add_special_tokens=False).input_ids[:max_length] if filled else []
        pooled += [] if silent else range(len(ids), len(ids) + len(new))
        ids += new
    return ids, pooled
