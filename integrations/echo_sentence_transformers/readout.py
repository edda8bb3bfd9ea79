"""The running half of the first module: a causal model up to its read-out layer, ids in, states out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.modules import Transformer
from torch import Tensor

from echo_core.engine.architecture import sliding_window_of
from echo_core.engine.attention.interface import register_attention
from echo_core.engine.attention.packing import packing_arguments
from echo_core.engine.prefix_cache import Prefix
from echo_sentence_transformers.attention import RowAttention
from echo_sentence_transformers.layers import tap_layer
from echo_sentence_transformers.rows import INPUT

_TEXT_ONLY = {
    "text": {"method": "forward", "method_output_name": "last_hidden_state"}
}  # an instruct model would else bring its chat template


class ReadOutTransformer(Transformer):  # type: ignore[misc]
    """sentence-transformers' ``Transformer``, cut behind the read-out layer, for rows padded on the right or laid end to end."""

    def __init__(self, model_name_or_path: str, layer: int, options: dict[str, Any]) -> None:
        """Load a causal model; ``options`` are those of ``Transformer``; raises like ``tap_layer``."""
        fixed = {"modality_config": _TEXT_ONLY, "module_output_name": "token_embeddings", "unpad_inputs": False}
        super().__init__(model_name_or_path, **fixed, **options)
        self._layer, self._tap = tap_layer(self.model, layer)
        self._attention = RowAttention(self.model, chosen="attn_implementation" in (options.get("model_kwargs") or {}))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The same dict with ``token_embeddings`` (B, T, D): the states at the read-out layer.

        The model gets no attention mask: rows are padded on the right, so nothing that is pooled sees the padding, and attention takes its fast path.
        """
        if self._tap:
            self._tap.open()
        output = super().forward({INPUT: features[INPUT]}, use_cache=False, **kwargs)
        output["token_embeddings"] = self._tap.take() if self._tap else output["token_embeddings"]
        features.update({key: value for key, value in output.items() if key != INPUT})
        return features

    def states(
        self, ids: Tensor, lengths: Sequence[int] | None = None, shared: int = 0, prefix: Prefix | None = None
    ) -> Tensor:
        """States (B, T, D) at the read-out layer; the arguments are those of ``Decoder.forward``."""
        window = sliding_window_of(self.model.config.get_text_config(decoder=True))
        layout = {} if lengths is None else packing_arguments(lengths, ids.device, shared, ids.shape[1], prefix, window)
        if self._tap:
            self._tap.open()
        output: Tensor = self.model(input_ids=ids, use_cache=False, **layout).last_hidden_state
        return self._tap.take() if self._tap else output

    def choose_layout(self) -> str:
        """How ``states`` wants its rows to lie; from here on the encoder's attention serves, where it can, until training."""
        return self._attention.switch_on(self.model, self.states)

    def train(self, mode: bool = True) -> ReadOutTransformer:
        """As ``Module.train``; training keeps the model's own attention."""
        if mode:
            self._attention.switch_off(self.model)
        return super().train(mode)  # type: ignore[no-any-return]

    def __setstate__(self, state: dict[str, Any]) -> None:
        register_attention()  # in a new process transformers does not know it yet
        super().__setstate__(state)

    def _positions(self) -> int | None:
        return getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
