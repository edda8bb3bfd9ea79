"""The encoder's own attention in a model that ``encode`` runs: rows end to end where that is faster. Training keeps the model's attention."""

from __future__ import annotations

import threading
from typing import Any

import torch

from echo_core.engine.architecture import exact_attention
from echo_core.engine.attention.choose import choose_attention
from echo_core.engine.probes import Forward, ProbeRows

_lock = threading.Lock()


class RowAttention:
    """Switches a model between its own attention and the encoder's, and knows the layout of rows that each device and dtype allows."""

    def __init__(self, model: Any, chosen: bool) -> None:
        """Make the model's own attention one that computes what its config asks for; ``chosen`` by the user, it is never switched."""
        self._chosen = chosen
        if not chosen and (exact := exact_attention(model.config)):
            model.set_attn_implementation(exact)
        self._own = model.config._attn_implementation
        self._found: dict[tuple[str, torch.dtype], tuple[str, str]] = {}  # device and dtype → layout, attention

    def switch_on(self, model: Any, forward: Forward) -> str:
        """How rows shall lie, as ``choose_attention`` finds once for a device and dtype; from here on the attention that it found best serves."""
        if self._chosen:
            return "padded"
        with _lock:
            key = (next(model.parameters()).device.type, model.dtype)
            if key not in self._found:
                self.switch_off(model)
                vocabulary = model.config.get_text_config(decoder=True).vocab_size
                found = choose_attention(model, forward, ProbeRows.of((), vocabulary, model.device, model.dtype))
                self._found[key] = (found.layout, found.name)
            layout, attention = self._found[key]
            _set_attention(model, attention)
        return layout

    def switch_off(self, model: Any) -> None:
        """The model's own attention again, which knows dropout and masks."""
        _set_attention(model, self._own)


def _set_attention(model: Any, name: str) -> None:
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)
