"""OpenAI's embeddings endpoint over the shared encoder, and a page that searches a folder: ``create_app``."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

_missing = [name for name in ("fastapi", "httptools", "orjson", "prometheus_client", "uvicorn") if not find_spec(name)]
if _missing:
    raise ImportError(f"echo_server needs {', '.join(_missing)}: pip install 'echo-embed[server]'")

_HOMES = {"create_app": "app", "Limits": "limits", "Passage": "passages", "Passages": "passages"}

__all__ = ["Limits", "Passage", "Passages", "create_app"]

if TYPE_CHECKING:
    from echo_server.app import create_app as create_app
    from echo_server.limits import Limits as Limits
    from echo_server.passages import Passage as Passage
    from echo_server.passages import Passages as Passages


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'echo_server' has no attribute {name!r}")
    return getattr(import_module(f"echo_server.{_HOMES[name]}"), name)
