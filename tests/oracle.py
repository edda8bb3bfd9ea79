"""The obvious slow way to an echo vector.

Written from the method's description and sharing no code with the stages of echo_core.

One text, no padding, float32, eager attention, a mask made by hand, every layer run, pooled in float64. Token ids are
made piece by piece: the prompt's words up to a value, then the value with the white space before it, as the template's
definition says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

# A template in the oracle's own words: (what, string, pooled). "say" is a literal with the white space that belongs to
# the value taken off; "value" names the variable and carries that white space before it, as "white space + name".
Piece = tuple[str, str, bool]
PIECES: dict[str, list[Piece]] = {
    "echo": [
        ("say", "Rewrite the following paragraph:", False),
        ("value", " text", False),
        ("say", ". The rewritten paragraph:", False),
        ("value", " text", True),
    ],
    "classical": [("say", "Write a paragraph:", False), ("value", " text", True)],
    "prompteol": [
        ("say", 'This sentence: "', False),
        ("value", "text", False),
        ("say", '" means in one word:', False),
        ("say", '"', True),
    ],
    "finetuned-query": [
        ("say", "Instruct:", False),
        ("value", " instruction", False),
        ("say", "\nQuery:", False),
        ("value", " text", False),
        ("say", "\nQuery again:", False),
        ("value", " text", True),
        ("eos", "", True),
    ],
    "finetuned-document": [
        ("say", "Document:", False),
        ("value", " text", False),
        ("say", "\nDocument again:", False),
        ("value", " text", True),
        ("eos", "", True),
    ],
}
NEUTRAL = "\n"  # a piece in the middle of a prompt is tokenised behind this, whose own tokens are taken off again


@dataclass(frozen=True)
class Oracle:
    """A checkpoint, loaded whole and plain."""

    tokenizer: Any
    model: Any

    def ids_and_pooled(self, pieces: Sequence[Piece], values: Mapping[str, str]) -> tuple[list[int], list[int]]:
        """The row's ids, and the positions that are pooled."""
        ids = self.leading()
        positions: list[int] = []
        begun = False
        for what, string, pooled in pieces:
            if what == "eos":
                new = [self.tokenizer.eos_token_id]
            else:
                new = self.piece_ids(_text_of(what, string, values), begun)
                begun = True
            positions += range(len(ids), len(ids) + len(new)) if pooled else []
            ids += new
        return ids, positions

    def leading(self) -> list[int]:
        """What the tokenizer puts before a text of its own accord, found by taking a text's own tokens off."""
        whole, bare = self.tokenizer("x").input_ids, self.tokenizer("x", add_special_tokens=False).input_ids
        return list(whole[: len(whole) - len(bare)])

    def piece_ids(self, text: str, begun: bool) -> list[int]:
        """Ids of a piece, without a dummy space if the prompt has begun already; special tokens' names stay text."""
        if not begun:
            return self._plain(text)
        behind, alone = self._plain(NEUTRAL + text), self._plain(NEUTRAL)
        if behind[: len(alone)] == alone:
            return behind[len(alone) :]
        return self._plain(text)  # the neutral sign melted into the text: no SentencePiece vocabulary does that

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    @torch.no_grad()
    def states(self, ids: Sequence[int], layer: int = -1) -> torch.Tensor:
        """(T, D) float32 states behind a layer, counted from 1 or from -1, of one row."""
        ids_tensor = torch.tensor([list(ids)])
        output = self.model(
            input_ids=ids_tensor, attention_mask=self._masks(len(ids)), output_hidden_states=True, use_cache=False
        )
        hidden = output.hidden_states  # embeddings first
        assert len(hidden) == self.model.config.num_hidden_layers + 1
        return hidden[layer if layer > 0 else len(hidden) + layer][0]

    def _masks(self, length: int) -> Any:
        """By hand: 0 where a token may look, the least number elsewhere.

        It is (1, 1, T, T), for each kind of layer its own where a model has two.
        """
        row, column = torch.arange(length)[:, None], torch.arange(length)[None, :]
        config = self.model.config
        full = column <= row
        window = getattr(config, "sliding_window", None) or length
        sliding = full & (column > row - window)
        kinds = set(getattr(config, "layer_types", None) or [])
        if "sliding_attention" in kinds:
            return {"full_attention": _additive(full), "sliding_attention": _additive(sliding)}
        if config.model_type == "opt":  # counts positions by the mask: takes the flat one only
            return torch.ones(1, length, dtype=torch.long)
        return _additive(sliding if config.model_type == "mistral" else full)

    def vector(
        self,
        pieces: Sequence[Piece],
        values: Mapping[str, str],
        pooling: str = "mean",
        layer: int = -1,
        normalize: bool = True,
    ) -> np.ndarray[Any, Any]:
        """The vector (D,) float64 of one text."""
        ids, positions = self.ids_and_pooled(pieces, values)
        return pool(self.states(ids, layer)[positions].double().numpy(), pooling, normalize)


def pool(states: np.ndarray[Any, Any], pooling: str, normalize: bool = True) -> np.ndarray[Any, Any]:
    """(T, D) float64 → (D,)."""
    ranks = np.arange(1, len(states) + 1)
    weights = {"mean": np.ones(len(states)), "last": (ranks == len(states)).astype(float), "weighted_mean": ranks}[
        pooling
    ]
    vector = (weights[:, None] * states).sum(axis=0) / weights.sum()
    return vector / np.sqrt((vector**2).sum()) if normalize else vector


def _text_of(what: str, string: str, values: Mapping[str, str]) -> str:
    if what == "say":
        return string
    name = string.strip()
    return string[: len(string) - len(name)] + values[name]


def _additive(allowed: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, 1, *allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


@lru_cache(maxsize=32)
def open_oracle(folder: Path) -> Oracle:
    """The oracle of a checkpoint's folder."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return Oracle(AutoTokenizer.from_pretrained(folder), model)
