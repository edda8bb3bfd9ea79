"""A causal model, not yet one of sentence-transformers', to the modules of a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from echo_core.config import EchoConfig
from echo_core.identity.checkpoint import CONFIG_FILE, load_config
from echo_sentence_transformers.pooling import EchoPooling
from echo_sentence_transformers.transformer import EchoTransformer

_SHARED = {
    "token": "token",
    "trust_remote_code": "trust_remote_code",
    "revision": "revision",
    "local_files_only": "local_files_only",
}
_SHARED["cache_folder"] = "cache_dir"  # sentence-transformers' name → transformers'
_KINDS = ("model_kwargs", "processor_kwargs", "config_kwargs")


def config_for(model_name_or_path: str) -> EchoConfig:
    """The config that EchoEncoder.save left in a folder, else the presets or defaults for a model of this name."""
    folder = Path(model_name_or_path)
    return load_config(folder) if (folder / CONFIG_FILE).is_file() else EchoConfig(model_name_or_path)


def build_modules(model_name_or_path: str, echo: EchoConfig, options: dict[str, Any]) -> list[nn.Module]:
    """The transformer, the pooling, and unit length where the config wants it.

    Args:
        model_name_or_path: of a causal model.
        echo: what defines the vector.
        options: those of ``SentenceTransformer`` that say how to load.
    """
    shared = {theirs: options[ours] for ours, theirs in _SHARED.items() if options.get(ours) is not None}
    given: dict[str, Any] = {kind: {**shared, **(options.get(kind) or {})} for kind in _KINDS}
    transformer = EchoTransformer(model_name_or_path, echo=echo, **given)
    pooling = EchoPooling(transformer.get_embedding_dimension(), echo.pooling, echo.dimension)
    return [transformer, pooling, *([Normalize()] if echo.normalize else [])]
