"""Echo embeddings: say a text twice to a causal language model, pool the second saying, and you have an embedding.

The method is that of arXiv 2402.15449.

Names are loaded when they are used, so that importing this package (or an adapter) imports neither torch nor any
framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "EchoEncoder": "encoder",
    "shared_encoder": "encoder",
    "EchoConfig": "config",
    "Runtime": "config",
    "SparseOptions": "methods.sparse_options",
    "TEMPLATES": "template",
    "INSTRUCTIONS": "options.instructions",
    "PRESETS": "options.released",
    "tune": "tuning.search",
    "Tuning": "tuning.search",
    "check_space": "identity.space",
    "space_metadata": "identity.space",
    "space_of": "identity.space",
    "EchoError": "errors",
    "ConfigError": "errors",
    "TemplateError": "errors",
    "VariableError": "errors",
    "EmptyTextError": "errors",
    "TextTooLongError": "errors",
    "UnencodableTextError": "errors",
    "ModelError": "errors",
    "NotFiniteError": "errors",
    "EmbeddingSpaceMismatch": "errors",
    "StoreError": "errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from echo_core.config import EchoConfig as EchoConfig
    from echo_core.config import Runtime as Runtime
    from echo_core.encoder import EchoEncoder as EchoEncoder
    from echo_core.encoder import shared_encoder as shared_encoder
    from echo_core.errors import ConfigError as ConfigError
    from echo_core.errors import EchoError as EchoError
    from echo_core.errors import EmbeddingSpaceMismatch as EmbeddingSpaceMismatch
    from echo_core.errors import EmptyTextError as EmptyTextError
    from echo_core.errors import ModelError as ModelError
    from echo_core.errors import NotFiniteError as NotFiniteError
    from echo_core.errors import StoreError as StoreError
    from echo_core.errors import TemplateError as TemplateError
    from echo_core.errors import TextTooLongError as TextTooLongError
    from echo_core.errors import UnencodableTextError as UnencodableTextError
    from echo_core.errors import VariableError as VariableError
    from echo_core.identity.space import check_space as check_space
    from echo_core.identity.space import space_metadata as space_metadata
    from echo_core.identity.space import space_of as space_of
    from echo_core.methods.sparse_options import SparseOptions as SparseOptions
    from echo_core.options.instructions import INSTRUCTIONS as INSTRUCTIONS
    from echo_core.options.released import PRESETS as PRESETS
    from echo_core.template import TEMPLATES as TEMPLATES
    from echo_core.tuning.search import Tuning as Tuning
    from echo_core.tuning.search import tune as tune


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'echo_core' has no attribute {name!r}")
    return getattr(import_module(f"echo_core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
