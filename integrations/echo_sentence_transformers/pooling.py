"""The second module: the states of a text's pooled region to one vector."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from echo_core.engine.pooling import POOLERS, pool_spans
from echo_core.errors import ConfigError, check_choice, check_integer
from echo_sentence_transformers.features import POOL

_NAMES = {"mean": "mean", "last": "lasttoken", "weighted_mean": "weightedmean"}  # ours → sentence-transformers'


class EchoPooling(Pooling):  # type: ignore[misc]
    """Pools over the template's region only, summed in float32; what ``encode`` has pooled already is only cut."""

    __module__ = "echo_sentence_transformers"
    config_keys = ("embedding_dimension", "pooling", "dimension")

    def __init__(self, embedding_dimension: int, pooling: str = "mean", dimension: int | None = None) -> None:
        """``embedding_dimension`` is the model's width; ``pooling`` and ``dimension`` are those of EchoConfig.

        Raises:
            ConfigError: another pooling, or a dimension beyond the width.
        """
        check_choice("pooling", pooling, POOLERS)
        if dimension is not None:
            check_integer("dimension", dimension, 1)
            if dimension > embedding_dimension:
                raise ConfigError(f"dimension must be at most {embedding_dimension} for this model, got {dimension}")
        super().__init__(embedding_dimension, _NAMES[pooling])
        self.pooling, self.dimension = pooling, dimension

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The same dict with ``sentence_embedding`` (B, D) float32; a row that pools nothing gives zeros."""
        if "token_embeddings" in features:
            states, mask = features["token_embeddings"], features[POOL]
            pooled = pool_spans(states.flatten(0, 1), _spans(mask), self.pooling)
            features["sentence_embedding"] = pooled * mask.any(dim=1, keepdim=True)
        features["sentence_embedding"] = features["sentence_embedding"][:, : self.dimension]
        return features

    def get_embedding_dimension(self) -> int:
        """Numbers in a vector."""
        return self.dimension or self.embedding_dimension


def _spans(mask: Tensor) -> list[tuple[int, int]]:
    """(start, end) of each row's ones, (B, T), in the positions laid flat; of a row without any, its first position."""
    first = torch.arange(len(mask), dtype=torch.int64, device=mask.device) * mask.shape[1]
    starts = first + mask.argmax(dim=1)
    ends = starts + mask.sum(dim=1).clamp(min=1)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
