"""The encoder's own attention in a model that ``encode`` runs: without padding on CUDA, faster on a CPU. Training keeps the model's attention."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from echo_core.attention import ROWS, register_attention, varlen_available

log = logging.getLogger("echo_sentence_transformers")

_PROBE = 6  # tokens of the two rows that both attentions are compared on
_lock = threading.Lock()


class RowAttention:
    """Switches a model between its own attention and the encoder's, and knows for each device and dtype whether the two agree."""

    def __init__(self, model: Any, wanted: bool) -> None:
        """``wanted`` is False where the user has chosen an attention: then nothing is ever switched."""
        self._own, self._wanted = model.config._attn_implementation, wanted
        self._serves: dict[tuple[str, torch.dtype], bool] = {}

    def switch_on(self, model: Any, states: Callable[[Tensor, Sequence[int] | None], Tensor]) -> bool:
        """True if rows shall be laid end to end. Switches where that is faster and the states of a probe stay the same.

        Args:
            model: of transformers.
            states: ids (B, T), and the rows' lengths if they lie end to end in one → the model's states.
        """
        device = next(model.parameters()).device
        packed = device.type == "cuda"
        if not self._wanted or device.type not in ("cpu", "cuda") or (packed and not varlen_available()):
            return False
        with _lock:
            key = (device.type, model.dtype)
            if key not in self._serves:
                self._serves[key] = self._agrees(model, states, packed)
            if self._serves[key] and model.config._attn_implementation != ROWS:
                model.set_attn_implementation(ROWS)
        return packed and self._serves[key]

    def switch_off(self, model: Any) -> None:
        """The model's own attention again, which knows dropout and masks."""
        if model.config._attn_implementation != self._own:
            model.set_attn_implementation(self._own)

    @torch.inference_mode()
    def _agrees(self, model: Any, states: Callable[[Tensor, Sequence[int] | None], Tensor], packed: bool) -> bool:
        ids = torch.arange(2 * _PROBE).view(2, _PROBE).flip(0).to(next(model.parameters()).device)
        ids = ids % model.config.get_text_config(decoder=True).vocab_size
        own = states(ids, None)
        register_attention()
        try:
            model.set_attn_implementation(ROWS)
            ours = states(ids.view(1, -1), [_PROBE, _PROBE]).view_as(own) if packed else states(ids, None)
        except Exception as error:  # a model may fail in any way over an attention that it does not know
            log.info("encode keeps the attention of %s: %s", type(model).__name__, error)
            return False
        finally:
            model.set_attn_implementation(self._own)
        apart = ((ours - own).float().norm(dim=-1) / own.float().norm(dim=-1).clamp_min(1e-6)).max()
        return float(apart) <= max(1e-3, 16 * torch.finfo(own.dtype).eps)
