"""The last module of a sparse model: a pooled state to weights of all tokens, zeros but for its aligned ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Module
from torch import Tensor

from echo_core.errors import ModelError
from echo_core.methods.key_tokens import ROWS
from echo_sentence_transformers.features import IS_QUERY
from echo_sentence_transformers.finish import PLACE, WEIGHTS

_TENSORS = ("head", "shared", "query_shared")


class EchoKeyTokens(Module):  # type: ignore[misc]
    """log(1 + relu(score)) of the k tokens that a state less its shared part is aligned with; it is not trained.

    It keeps the LM head, (V, D) in the checkpoint's dtype, which a model for embeddings is without.
    """

    __module__ = "echo_sentence_transformers"
    config_keys = ("k", "query_k")

    def __init__(self, head: Tensor, shared: Tensor, query_shared: Tensor, k: int, query_k: int) -> None:
        """Take the head, and what texts of each role share, (D,) float32; ``k`` tokens of a document or a query."""
        super().__init__()
        for name, tensor in zip(_TENSORS, (head, shared, query_shared), strict=True):
            self.register_buffer(name, tensor)
        self.k, self.query_k = min(k, len(head)), min(query_k, len(head))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The same dict with ``sentence_embedding`` (B, V) float32, zeros but for k of each; all, of a blank text."""
        pooled = features["sentence_embedding"]
        is_query = features[IS_QUERY][:, None] > 0
        said = pooled.ne(0).any(dim=1, keepdim=True)
        own = (pooled - torch.where(is_query, self.query_shared, self.shared)) * said
        scores = torch.cat([own @ part.float().T for part in self.head.split(ROWS)], dim=1)
        weights = torch.log1p(scores.relu())
        most = min(max(self.k, self.query_k), weights.shape[1])
        best, places = weights.topk(most, dim=1)
        ranks = torch.arange(most, dtype=torch.int64, device=best.device)
        best = best * (ranks < torch.where(is_query, self.query_k, self.k))
        features["sentence_embedding"] = torch.zeros_like(weights).scatter(1, places, best)
        return features

    def get_embedding_dimension(self) -> int:
        """Tokens of the vocabulary."""
        return int(self.head.shape[0])

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the tensors as safetensors, and how many tokens are kept."""
        save_file({name: tensor.contiguous() for name, tensor in self.named_buffers()}, Path(output_path) / WEIGHTS)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, **options: Any) -> EchoKeyTokens:
        """The module that ``save`` wrote, in a folder or on the Hub.

        Raises:
            ModelError: one of its tensors is missing.
        """
        place = {name: options[name] for name in PLACE if name in options}
        found = cls.load_file_path(model_name_or_path, WEIGHTS, **place)
        tensors = load_file(found) if found else {}
        if set(tensors) != set(_TENSORS):
            file = f"{options.get('subfolder', '')}/{WEIGHTS}"
            raise ModelError(
                f"{model_name_or_path} must have {_TENSORS} in {file}, got {sorted(tensors)}; save it again"
            )
        config: dict[str, Any] = cls.load_config(model_name_or_path, **place)
        return cls(tensors["head"], tensors["shared"], tensors["query_shared"], **config)

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> EchoKeyTokens:
        return super()._apply(lambda tensor: tensor.to(move(tensor).device), recurse)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"EchoKeyTokens(k={self.k}, query_k={self.query_k}, vocabulary={len(self.head)})"
