"""What ``EchoConfig(rope_scaling=…)`` may say: how rotary positions are stretched so that longer rows fit.

The kinds and their keys are those of transformers' configs; the table here knows them without importing it, and
transformers checks them once more where the model is loaded (``engine/rotation.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from echo_core.errors import ConfigError

# Kind → the keys that it needs, and those that it may have besides.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (
        ("factor",),
        (
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ("original_max_position_embeddings",)),
    "longrope": (
        ("short_factor", "long_factor"),
        ("factor", "original_max_position_embeddings", "attention_factor"),
    ),
}
_EVERY = ("rope_theta",)  # another base of the frequencies; left out: the model's own
_FIGURE = "a finite number above 0"


def checked_scaling(value: Any) -> dict[str, Any]:
    """The fields of a scaling with ``rope_type`` first, numbers written in one way.

    Raises:
        ConfigError: no mapping, an unknown kind, a key that it needs or does not have, or a value that it cannot take.
    """
    fields = dict(value) if isinstance(value, Mapping) else {}
    kind = fields.pop("rope_type", fields.pop("type", None))  # "type" is what older configs call it
    fields.pop("type", None)
    if not isinstance(kind, str) or kind not in KINDS:
        rule = f"must be fields of transformers' rope_parameters with rope_type of {', '.join(map(repr, KINDS))}"
        raise ConfigError(f"rope_scaling {rule}, got {str(value)[:80]}; {{'rope_type': 'yarn', 'factor': 4}}, say")
    needed, further = KINDS[kind]
    missing, unknown = set(needed) - set(fields), set(fields) - {*needed, *further, *_EVERY}
    if missing or unknown:
        rule = f"of {kind!r} must have {_listed(needed)} and may have {_listed((*further, *_EVERY))}"
        raise ConfigError(f"rope_scaling {rule}, got {_listed(fields)}")
    checked = {name: _checked(name, fields[name]) for name in fields}
    if kind == "llama3" and checked["high_freq_factor"] <= checked["low_freq_factor"]:
        low, high = checked["low_freq_factor"], checked["high_freq_factor"]
        raise ConfigError(f"high_freq_factor of rope_scaling must be above low_freq_factor={low}, got {high}")
    return {"rope_type": kind, **checked}


def _checked(name: str, value: Any) -> Any:
    rule, holds = _RULES.get(name, (_FIGURE, _is_figure))
    if not holds(value):
        raise ConfigError(f"{name} of rope_scaling must be {rule}, got {value!r}")
    if isinstance(value, list | tuple):
        return [float(number) for number in value]
    if isinstance(value, bool) or name == "attention_factor":  # transformers wants this one as a float
        return value if isinstance(value, bool) else float(value)
    return int(value) if value == int(value) else value


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


_FIGURES: tuple[str, Callable[[Any], bool]] = (
    "a list of finite numbers above 0",
    lambda value: isinstance(value, list | tuple) and bool(value) and all(map(_is_figure, value)),
)
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "factor": ("a number of at least 1", lambda value: _is_figure(value) and value >= 1),
    "original_max_position_embeddings": (
        "an integer of at least 1",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
    ),
    "short_factor": _FIGURES,
    "long_factor": _FIGURES,
    "truncate": ("True or False", lambda value: isinstance(value, bool)),
}


def _listed(names: Any) -> str:
    return ", ".join(names) or "nothing else"
