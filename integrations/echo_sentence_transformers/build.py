"""A causal model to the modules of a sentence-transformers model; and the check that modules belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from echo_core.config import EchoConfig
from echo_core.errors import ConfigError, ModelError
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.identity.files import local_path
from echo_core.identity.presets import preset_for
from echo_core.methods.embed_filter import filter_basis
from echo_core.options.released import SHIPPED
from echo_sentence_transformers.finish import EchoFinish, finish_matrix, needs_matrix
from echo_sentence_transformers.pooling import EchoPooling
from echo_sentence_transformers.transformer import EchoTransformer

_SHARED = {
    "token": "token",
    "trust_remote_code": "trust_remote_code",
    "revision": "revision",
    "local_files_only": "local_files_only",
    "cache_folder": "cache_dir",
}  # sentence-transformers' name → transformers'
_KINDS = ("model_kwargs", "processor_kwargs", "config_kwargs")


def config_for(model_name_or_path: str, options: Mapping[str, Any]) -> EchoConfig:
    """The config that EchoEncoder.save left in a folder, else what was measured best for the model, else the defaults.

    A model on the Hub that only the caller's own ``options`` can find is not looked at.
    """
    if _on_the_hub(model_name_or_path) and any(options.get(name) for name in ("token", "cache_folder")):
        return EchoConfig(model_name_or_path, options.get("revision"))
    return preset_for(model_name_or_path, options.get("revision"))


def checkpoint_of(echo: EchoConfig) -> str:
    """The config's model as transformers takes it: a folder, or a name on the Hub, for the caller's options."""
    named = echo.model and _on_the_hub(echo.model) and echo.base is None
    return str(echo.model) if named else str(find_checkpoint(echo))


def may_be_saved(model_name_or_path: str) -> bool:
    """True for a folder that sentence-transformers wrote, and for a name on the Hub, where it looks itself."""
    return _on_the_hub(model_name_or_path) or (local_path(model_name_or_path) / "modules.json").is_file()


def _on_the_hub(name: str) -> bool:
    of_a_file = name.lower().endswith(".gguf") or name.startswith((".", "/", "~"))
    return name.count("/") <= 1 and not of_a_file and name not in SHIPPED and not local_path(name).exists()


def build_modules(model_name_or_path: str, echo: EchoConfig, options: dict[str, Any]) -> list[nn.Module]:
    """The transformer, the pooling, what the config does to pooled states, and unit length where it wants that.

    Args:
        model_name_or_path: of a causal model.
        echo: what defines the vector.
        options: those of ``SentenceTransformer`` that say how to load.
    """
    shared = {theirs: options[ours] for ours, theirs in _SHARED.items() if options.get(ours) is not None}
    given: dict[str, Any] = {kind: {**shared, **(options.get(kind) or {})} for kind in _KINDS}
    transformer = EchoTransformer(model_name_or_path, echo=echo, **given)
    width = transformer.get_embedding_dimension()
    unit = [Normalize()] if echo.normalize else []
    if not needs_matrix(echo):
        return [transformer, EchoPooling(width, echo.pooling, echo.dimension), *unit]
    trusted = bool(options.get("trust_remote_code"))
    basis = None if echo.filter is None else filter_basis(find_checkpoint(echo), trusted)
    roles = ("document", "query") if echo.query_centre is not None else ("document",)
    matrices = [finish_matrix(echo, width, basis, role) for role in roles]
    return [transformer, EchoPooling(width, echo.pooling), EchoFinish(*matrices), *unit]


def check_modules(modules: Sequence[nn.Module]) -> None:
    """Return if the modules begin with an EchoTransformer and give what its config says.

    Raises:
        ModelError: they begin with something else.
        ConfigError: states are pooled otherwise, or what the config does to pooled states is missing.
    """
    first, *others = modules
    pooling = next((module for module in others if isinstance(module, EchoPooling)), None)
    if not isinstance(first, EchoTransformer) or pooling is None:
        kinds = [type(module).__name__ for module in modules]
        raise ModelError(
            f"modules must be an EchoTransformer, an EchoPooling and others, got {kinds}; use SentenceTransformer"
        )
    if pooling.pooling != first.echo.pooling:
        raise ConfigError(
            f"pooling must be the same in both modules, got {first.echo.pooling!r} and {pooling.pooling!r}"
        )
    if needs_matrix(first.echo) and not any(isinstance(module, EchoFinish) for module in others):
        raise ConfigError(
            "modules must have an EchoFinish where the config has a centre or a filter, got none; make them anew"
        )
