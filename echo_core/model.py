"""A batch to hidden states at the read-out layer. The only file that knows weights, devices and dtypes.

Any decoder-only model of transformers serves, without code for single families: the layers behind the read-out layer are dropped after loading,
and the states are taken by a hook on the last one that is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echo_core.batches import Batch
from echo_core.config import EchoConfig, Runtime
from echo_core.errors import ConfigError, ModelError

_PROBE = 6  # tokens of the rows that a model is checked with


class Decoder:
    """The decoder layers of a causal language model up to the read-out layer, on one device; no LM head, no KV cache."""

    def __init__(self, folder: Path, config: EchoConfig, runtime: Runtime) -> None:
        """Load from a local folder, cut behind the layer, and check that the model is causal.

        Raises:
            ModelError: an encoder, an encoder-decoder, or an architecture that transformers does not know.
            ConfigError: ``layer`` beyond the model's, or a device that is not there.
        """
        self.device = choose_device(runtime.device)
        self.dtype = choose_dtype(runtime.dtype, self.device)
        self._model = _load(folder, self.dtype, runtime.trust_remote_code).to(self.device)
        self._settings = self._model.config.get_text_config(decoder=True)
        self._read: Tensor | None = None
        self._cut_behind(config.layer)
        self.vocabulary: int = self._settings.vocab_size
        self.max_positions: int | None = getattr(self._settings, "max_position_embeddings", None)
        self.sliding_window: int | None = getattr(self._settings, "sliding_window", None) if _slides(self._settings) else None
        self.width: int = self._probe()

    @torch.inference_mode()
    def states(self, batch: Batch) -> Tensor:
        """Hidden states of all positions laid flat: (B·T, D) in the model's dtype, on its device."""
        return self.forward(batch.ids.to(self.device, non_blocking=True)).flatten(0, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states (B, T, D) at the read-out layer for right-padded ids (B, T); no mask, as pooled tokens never see the padding."""
        output = self._model(input_ids=ids, use_cache=False)
        if not self._hooked:
            return output.last_hidden_state  # type: ignore[no-any-return]
        states, self._read = self._read, None
        return states  # type: ignore[return-value]

    def _cut_behind(self, layer: int) -> None:
        """Drop the layers after ``layer``. The last layer's states are those after the final norm, an earlier one's those before any norm."""
        layers = _find_layers(self._model, self._settings.num_hidden_layers)
        count = len(layers)
        if not -count <= layer <= count:
            raise ConfigError(f"layer must be from 1 to {count} or from -1 to -{count} for this model, got {layer}")
        keep = layer if layer > 0 else count + 1 + layer
        self._hooked = keep < count
        if self._hooked:
            del layers[keep:]
            self._settings.num_hidden_layers = keep
            layers[-1].register_forward_hook(self._take)

    def _take(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._read = output[0] if isinstance(output, tuple) else output

    @torch.inference_mode()
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
            raise ModelError(f"model must be a causal decoder, got {name}, whose tokens see later ones; take a causal language model")
        return states.shape[-1]


def choose_device(wanted: str) -> torch.device:
    """The device that a Runtime names; "auto": CUDA, else MPS, else CPU.

    Raises:
        ConfigError: it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"device must be a device of torch, got {wanted!r}") from error
    if not there.get(device.type, False):
        raise ConfigError(f"device {wanted!r} is not available here; available: {', '.join(kind for kind, available in there.items() if available)}")
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype that a Runtime names; "auto": bfloat16 where the hardware multiplies it, else float32."""
    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private in torch: absent means no
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def _load(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The base model, without LM head. Loading in the dtype, not casting: a cast would round the rotary frequencies too."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        if config.is_encoder_decoder:
            raise ModelError(f"model must be a decoder, got {config.model_type!r}, an encoder-decoder; use a causal language model")
        with _quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"model in {folder} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        raise ModelError(f"model in {folder} must have all its weights, got none for {sorted(report['missing_keys'])[:3]}; save it again, whole")
    return getattr(model, "language_model", model).eval()  # of a vision-language model, the language part


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without transformers' report of unexpected keys (the LM head, which is left out on purpose) and its bar for each load."""
    from transformers.utils import logging as transformers_logging

    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def _find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"model must keep its {count} layers in one ModuleList, {type(model).__name__} does not")


def _slides(settings: Any) -> bool:
    """True if any layer attends within a sliding window only."""
    kinds = getattr(settings, "layer_types", None)
    return any("sliding" in kind for kind in kinds) if kinds else bool(getattr(settings, "use_sliding_window", True))
