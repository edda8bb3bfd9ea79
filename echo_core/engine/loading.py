"""A folder to a model on a device, in a dtype: the base model of a checkpoint, without its LM head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from echo_core.engine.architecture import exact_attention
from echo_core.errors import ConfigError, ModelError


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
        raise ConfigError(
            f"device {wanted!r} is not available here; available: {', '.join(kind for kind, available in there.items() if available)}"
        )
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype that a Runtime names, of all but linear layers for "fp8"; "auto": bfloat16 where the hardware multiplies it, else float32."""
    if wanted == "fp8":
        return torch.bfloat16
    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private in torch: absent means no
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def load_model(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The base model, without LM head. Loading in the dtype, not casting: a cast would round the rotary frequencies too."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **where)
        if config.is_encoder_decoder:
            raise ModelError(
                f"model must be a decoder, got {config.model_type!r}, an encoder-decoder; use a causal language model"
            )
        with _quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=exact_attention(config),
                use_safetensors=True,
                output_loading_info=True,
                **where,
            )
    except ModelError:
        raise
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model in {folder} cannot be loaded: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"model in {folder} must have all its weights, got none for {missing[:3]}; save it again, whole"
        )
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
