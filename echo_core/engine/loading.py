"""A folder to a model in a dtype: the base model of a checkpoint, without its LM head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from echo_core.engine.architecture import exact_attention
from echo_core.errors import ModelError


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
