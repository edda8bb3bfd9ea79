"""Echo embeddings on Ray Data: a stage for any dataset, the common case of it, and a Chroma server to write into.

Scheduling, retries, back-pressure and progress are Ray's.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if not find_spec("ray") or not find_spec("pyarrow"):
    raise ImportError("echo_ray needs Ray Data: pip install 'echo-embed[ray]'")

_HOMES = {
    "Columns": "columns",
    "EchoBatchEmbedder": "embedder",
    "Written": "chroma",
    "embed_dataset": "dataset",
    "without_stored": "chroma",
    "write_chroma": "chroma",
}

__all__ = ["Columns", "EchoBatchEmbedder", "Written", "embed_dataset", "without_stored", "write_chroma"]

if TYPE_CHECKING:
    from echo_ray.chroma import Written as Written
    from echo_ray.chroma import without_stored as without_stored
    from echo_ray.chroma import write_chroma as write_chroma
    from echo_ray.columns import Columns as Columns
    from echo_ray.dataset import embed_dataset as embed_dataset
    from echo_ray.embedder import EchoBatchEmbedder as EchoBatchEmbedder


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'echo_ray' has no attribute {name!r}")
    return getattr(import_module(f"echo_ray.{_HOMES[name]}"), name)
