"""A batch to hidden states at the read-out layer. The only file that knows weights, devices and dtypes.

Any decoder-only model of transformers serves, without code for single families: ``readout.py`` takes the states by hooks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from echo_core.config import EchoConfig, Runtime
from echo_core.engine.architecture import long_rows_from, sliding_window_of
from echo_core.engine.attention.interface import ROWS, ROWS_UNCOMPILED, choose_layout, register_uncompiled
from echo_core.engine.attention.packing import packing_arguments
from echo_core.engine.batches import Batch, to_device
from echo_core.engine.device import choose_device, choose_dtype
from echo_core.engine.loading import load_model
from echo_core.engine.memory import Widths, choose_budget
from echo_core.engine.prefix_cache import Prefix
from echo_core.engine.readout import ReadOut
from echo_core.engine.speedups.fp8 import check_exact_enough, check_fp8, quantize_linear
from echo_core.engine.speedups.packed_weights import pack_weights, unpack_weights
from echo_core.engine.speedups.pruning import DISTINCT, POOLED, WORTH, Pruning
from echo_core.errors import ModelError

log = logging.getLogger("echo_core")

_PROBE = 6  # tokens of the rows that causality is checked with


class Decoder:
    """The decoder layers of a causal language model up to the read-out layer, on one device; no LM head, no KV cache."""

    def __init__(self, folder: Path, config: EchoConfig, runtime: Runtime) -> None:
        """Load from a local folder, cut behind the layer, and check that the model is causal.

        Raises:
            ModelError: an encoder, an encoder-decoder, or an architecture that transformers does not know.
            ConfigError: ``layer`` beyond the model's, a device that is not there, or a dtype that it cannot multiply or that the model does not bear.
        """
        self.device = choose_device(runtime.device)
        self.dtype = choose_dtype(runtime.dtype, self.device)
        if runtime.dtype == "fp8":
            check_fp8(self.device)
        self._model = load_model(folder, self.dtype, runtime.trust_remote_code).to(self.device)
        self._settings = self._model.config.get_text_config(decoder=True)
        self._readout = ReadOut(self._model, self._settings, config.layers, config.prepend_layers)
        self.vocabulary: int = self._settings.vocab_size
        self.max_positions: int | None = getattr(self._settings, "max_position_embeddings", None)
        self.sliding_window = sliding_window_of(self._settings)
        self.width: int = self._probe()
        self.layout = choose_layout(self._model, self.forward, runtime.attention)
        self.long_from = long_rows_from(self._settings)
        self.keeps = not runtime.compile  # code would be compiled for each prefix
        if runtime.dtype == "fp8":
            self._quantize()
        elif self.device.type == "cpu" and not runtime.compile:  # torch's compiler cannot trace packed weights
            self._try_packed_weights()
        layers = self._readout.layers
        prunings = [Pruning(layers[-1], POOLED)]
        if (
            self.device.type == "cpu" and not runtime.compile and len(layers) > 1
        ):  # compiled layers bear no hooks; on a GPU it is a hundredth at most
            prunings.append(Pruning(layers[0], DISTINCT))
        self._prunings = [pruning for pruning in prunings if pruning.modules and self._bears(pruning)]
        if runtime.compile:
            self._compile_layers()

    def states(self, batch: Batch) -> Tensor:
        """Hidden states of all positions laid flat, right for those within spans: (B·T, D) in the model's dtype, on its device."""
        if self._readout.prepending is not None:
            self._readout.prepending.places = batch.slots
        ids = to_device(batch.ids, self.device)
        with ExitStack() as pruned:
            for pruning in self._prunings if ids.numel() >= WORTH else ():
                pruned.enter_context(pruning.only_for(batch, self.device))
            return self.forward(ids, batch.lengths, batch.shared, batch.prefix).flatten(0, 1)

    @torch.inference_mode()
    def forward(
        self, ids: Tensor, lengths: Sequence[int] | None = None, shared: int = 0, prefix: Prefix | None = None
    ) -> Tensor:
        """Hidden states (B, T, D) at the read-out layer, for ids (B, T) on the device; no mask is needed. Without gradients.

        Args:
            ids: rows padded on the right, as pooled tokens never see the padding; or, with ``lengths``, all rows end to end: (1, N).
            lengths: tokens of each row laid end to end; only where ``layout`` allows it.
            shared: tokens that stand before all rows laid end to end, once.
            prefix: keeps the shared tokens' keys and values, or, filled, has them, and the ids are without these tokens.
        """
        arguments = {}
        if lengths is not None:
            arguments = packing_arguments(lengths, self.device, shared, ids.shape[1], prefix, self.sliding_window)
        self._readout.start()
        return self._readout.take(self._model(input_ids=ids, use_cache=False, **arguments).last_hidden_state)

    def choose_budget(self) -> int:
        """Tokens of a batch that suit the device, its free memory and the model's shape."""
        return choose_budget(self.device, self.dtype, Widths.of(self._settings))

    def _quantize(self) -> None:
        ids = self._probe_rows()
        expected = self.forward(ids)
        quantize_linear(self._model)
        check_exact_enough(self.forward(ids), expected)

    def _try_packed_weights(self) -> None:
        """Pack the weights, if that leaves the states of two short rows as they are."""
        ids = self._probe_rows()
        plain = self.forward(ids)
        try:
            pack_weights(self._model)
            if self._same(self.forward(ids), plain):
                return
            problem: object = "states differ"
        except (
            Exception
        ) as error:  # no oneDNN, a dtype that it cannot multiply here, a module that reads its layers' weights itself
            problem = error
        log.debug("weights stay as they are: %s", problem)
        unpack_weights(self._model)

    def _bears(self, pruning: Pruning) -> bool:
        """Whether it leaves the pooled states of two short rows, of the same tokens at other places, as they are; if not, it is taken out."""
        ids = torch.arange(_PROBE) % self.vocabulary
        batch = Batch(torch.stack([ids, ids.flip(0)]), spans=((_PROBE - 2, _PROBE), (2 * _PROBE - 1, 2 * _PROBE)))
        pooled = [place for start, end in batch.spans for place in range(start, end)]
        whole = self.forward(batch.ids.to(self.device)).flatten(0, 1)[pooled]
        try:
            with pruning.only_for(batch, self.device, check=True):
                if self._same(self.forward(batch.ids.to(self.device)).flatten(0, 1)[pooled], whole):
                    return True
            problem: object = "pooled states differ"
        except Exception as error:  # a mixture of experts, say, that gives its router's scores too
            problem = error
        log.debug("a layer runs whole: %s", problem)
        pruning.remove()
        return False

    def _probe_rows(self) -> Tensor:
        return torch.arange(2 * _PROBE).view(2, _PROBE).to(self.device) % self.vocabulary

    def _same(self, states: Tensor, expected: Tensor) -> bool:
        """Whether they are, but for rounding."""
        apart = float((states.float() - expected.float()).norm() / expected.float().norm())
        return apart <= max(1e-5, 16 * torch.finfo(self.dtype).eps)

    def _compile_layers(self) -> None:
        """Compile each layer for any length. A layer at a time: the layers share their code, and the hooks of the read-out stay outside."""
        if self.device.type == "cpu" and self._model.config._attn_implementation == ROWS:
            register_uncompiled()
            self._model.set_attn_implementation(ROWS_UNCOMPILED)
        for layer in self._readout.layers[: -1 if self._prunings else None]:
            layer.forward = torch.compile(layer.forward, dynamic=True)

    def _probe(self) -> int:
        """The width of the states; checks on two short rows that no token sees a later one and that padding changes nothing."""
        ids = torch.arange(_PROBE) % self.vocabulary
        other = ids.clone()
        other[-1] = (ids[-1] + 1) % self.vocabulary
        states = self.forward(torch.stack([ids, other]).to(self.device)).float()
        alone = self.forward(ids[None, :-1].to(self.device)).float()
        tolerance = max(1e-4, 8 * torch.finfo(self.dtype).eps) * float(alone.abs().max())
        looks_ahead = any(getattr(module, "is_causal", True) is False for module in self._model.modules())
        if looks_ahead or float((states[:, :-1] - alone).abs().max()) > tolerance:
            name = type(self._model).__name__
            raise ModelError(
                f"model must be a causal decoder, got {name}, whose tokens see later ones; take a causal language model"
            )
        return states.shape[-1]
