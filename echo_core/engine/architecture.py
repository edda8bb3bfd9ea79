"""What a model's config tells: windows, soft caps, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from echo_core.errors import ModelError

_WIDTHS = ("hidden_size", "intermediate_size", "vocab_size")


def exact_attention(config: Any) -> str | None:
    """The attention to ask transformers for; None: its choice.

    Soft caps (Gemma 2) are silently left out by its sdpa up to some version of 5.
    """
    settings = config.get_text_config(decoder=True)
    return "eager" if getattr(settings, "attn_logit_softcapping", None) is not None else None


def sliding_window_of(settings: Any) -> int | None:
    """Tokens that a token sees in those layers that slide; None: all."""
    kinds = getattr(settings, "layer_types", None)
    slides = any("sliding" in kind for kind in kinds) if kinds else bool(getattr(settings, "use_sliding_window", True))
    return getattr(settings, "sliding_window", None) if slides else None


def head_width_of(settings: Any) -> int:
    """How many numbers a head has, d."""
    return int(getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads)


def check_sizes(settings: Any, shapes: Sequence[Sequence[int]]) -> None:
    """Return if weights of these shapes can belong to a model of this config.

    Asked before the model is built, which may take an absurd one minutes and all memory.

    Raises:
        ModelError: more layers than tensors, or a width beyond every tensor's.
    """
    widest = max((size for shape in shapes for size in shape), default=0)
    most = {"num_hidden_layers": len(shapes), **dict.fromkeys(_WIDTHS, widest)}
    for name, limit in most.items():
        size = getattr(settings, name, None)
        if isinstance(size, int) and not 1 <= size <= limit:
            rule = f"from 1 to {limit}, as its weights are {len(shapes)} tensors of at most {widest} numbers a side"
            raise ModelError(f"{name} of the model's config must be {rule}, got {size}; restore its config.json")
