"""The third module, where the config asks for it: the mean direction taken out, the filter and the cut, as one matrix.

A standard ``Dense`` would be cast to the model's dtype by sentence-transformers, and could then not take the pooled
states, which are float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Module
from torch import Tensor

from echo_core.config import EchoConfig
from echo_core.errors import ModelError
from echo_core.methods.finish import finish
from echo_core.methods.fitting import check_finish
from echo_sentence_transformers.features import IS_QUERY

WEIGHTS = "model.safetensors"
PLACE = ("subfolder", "token", "cache_folder", "revision", "local_files_only")  # where a saved module's files are


def needs_matrix(echo: EchoConfig) -> bool:
    """True if more than a cut and unit length lies between a pooled state and a vector of this config."""
    return any(field is not None for field in (echo.centre, echo.query_centre, echo.filter))


def finish_matrix(echo: EchoConfig, width: int, basis: NDArray[np.float32] | None, role: str) -> Tensor:
    """The matrix (width, D) float32 of what ``methods.finish`` does to a role's states before unit length.

    Raises:
        ConfigError, ModelError: see ``check_finish``.
    """
    check_finish(echo, width, basis)
    linear = dataclasses.replace(echo, normalize=False)
    return torch.from_numpy(np.ascontiguousarray(finish(np.eye(width, dtype=np.float32), linear, basis, role)))


class EchoFinish(Module):  # type: ignore[misc]
    """Multiplies pooled states by the role's matrix, in float32 whatever the model's dtype is. It is not trained."""

    __module__ = "echo_sentence_transformers"

    def __init__(self, matrix: Tensor, query_matrix: Tensor | None = None) -> None:
        """Take (width of the states, D) float32, as ``finish_matrix`` gives them; None: one serves both roles."""
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("query_matrix", query_matrix)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The same dict with ``sentence_embedding`` (B, D) float32."""
        pooled = features["sentence_embedding"]
        vectors = pooled @ self.matrix
        if self.query_matrix is not None and IS_QUERY in features:
            vectors = torch.where(features[IS_QUERY][:, None] > 0, pooled @ self.query_matrix, vectors)
        features["sentence_embedding"] = vectors
        return features

    def get_embedding_dimension(self) -> int:
        """Numbers in a vector."""
        return int(self.matrix.shape[1])

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the matrices as safetensors."""
        save_file({name: tensor.contiguous() for name, tensor in self.named_buffers()}, Path(output_path) / WEIGHTS)

    @classmethod
    def load(cls, model_name_or_path: str, **options: Any) -> EchoFinish:
        """The module that ``save`` wrote, in a folder or on the Hub.

        Raises:
            ModelError: its matrix is missing.
        """
        place = {name: options[name] for name in PLACE if name in options}
        found = cls.load_file_path(model_name_or_path, WEIGHTS, **place)
        tensors = load_file(found) if found else {}
        if not {"matrix"} <= set(tensors) <= {"matrix", "query_matrix"}:
            file = f"{options.get('subfolder', '')}/{WEIGHTS}"
            raise ModelError(f"{model_name_or_path} must have a matrix in {file}, got {sorted(tensors)}; save it again")
        return cls(**tensors)

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> EchoFinish:
        return super()._apply(lambda tensor: tensor.to(move(tensor).device), recurse)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"EchoFinish{tuple(self.matrix.shape)}"
