"""A causal language model with a LoRA adapter, trained over the project's own packed rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from recipe import Recipe
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM

from echo_core import EchoConfig
from echo_core.engine.batches import Batch, pack_rows, pad_rows
from echo_core.engine.decoder import Decoder
from echo_core.engine.device import choose_dtype
from echo_core.engine.pooling import pool_spans
from echo_core.identity.checkpoint import CONFIG_FILE, find_checkpoint
from echo_core.identity.files import read_json, write_json
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.rows import Row
from echo_core.text.tokenizer import TextTokenizer

WIDEST = 65_536  # tokens of a batch without gradients


@dataclass(frozen=True)
class Words:
    """Texts to rows, for each role."""

    prompts: dict[str, PromptTokenizer]

    @classmethod
    def of(cls, folder: Path, recipe: Recipe) -> Words:
        """The tokenizer of a checkpoint, with the recipe's templates."""
        templates = {"query_template": recipe.query_template, "document_template": recipe.document_template}
        config = EchoConfig(str(folder), **templates, max_tokens=recipe.max_tokens, overflow="truncate")
        tokenizer = TextTokenizer.from_folder(folder)
        return cls({role: PromptTokenizer(tokenizer, config.template(role), config) for role in ("query", "document")})

    def rows(self, texts: Sequence[str], roles: Sequence[str]) -> list[Row]:
        """A row a text, in their order."""
        rows: dict[int, Row] = {}
        for role, prompts in self.prompts.items():
            places = [place for place, said in enumerate(roles) if said == role]
            rows.update(zip(places, prompts.tokenise([texts[place] for place in places], {}).rows, strict=True))
        return [rows[place] for place in range(len(texts))]


class Student:
    """The model, the adapter's weights in the model's dtype, and their float32 masters, which the optimiser holds."""

    def __init__(self, base: str, recipe: Recipe, device: str, dtype: torch.dtype | None = None) -> None:
        """Load a base (a Hub name, a folder or a GGUF file) and put a new adapter into all its linear layers.

        ``dtype`` None is bfloat16 where the device multiplies it faster than float32, else float32.
        """
        dtype = dtype or choose_dtype("auto", torch.device(device))
        self.folder, self.recipe = find_checkpoint(EchoConfig(base)), recipe
        torch.manual_seed(recipe.seed)
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype).to(device)
        lora = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        self.peft = get_peft_model(model, lora, autocast_adapter_dtype=False)
        self.decoder = Decoder(self.peft.get_base_model(), [-1])
        self.packed = self.decoder.layout == "packed"
        self.head: Tensor = model.get_output_embeddings().weight
        self.words = Words.of(self.folder, recipe)
        for weight in self._trained():
            weight.data = weight.data.to(dtype)
        self.masters = [weight.detach().float().clone() for weight in self._trained()]
        self.optimiser = torch.optim.AdamW(
            self.masters, recipe.rate, (0.9, 0.98), weight_decay=recipe.weight_decay, fused=device != "cpu"
        )

    def _trained(self) -> list[Any]:
        return [weight for weight in self.peft.parameters() if weight.requires_grad]

    def batch(self, rows: Sequence[Row]) -> Batch:
        """The rows laid out as they serve this model: end to end, or padded."""
        return pack_rows(rows) if self.packed else pad_rows(rows)

    def states(self, batch: Batch) -> Tensor:
        """(T, D) of all places laid flat, with gradients."""
        return self.decoder.train_states(batch.ids.to(self.decoder.device), batch.lengths).flatten(0, 1)

    def pool(self, states: Tensor, batch: Batch) -> Tensor:
        """(N, D) float32 unit vectors of the batch's spans."""
        return normalize(pool_spans(states, batch.spans, self.recipe.pooling), dim=1)

    def step(self, scale: float) -> None:
        """One optimiser step at ``scale`` times the learning rate, on the gradients of the adapter's weights."""
        trained = self._trained()
        for master, weight in zip(self.masters, trained, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, self.recipe.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * scale
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_([weight.data for weight in trained], self.masters)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], role: str) -> Tensor:
        """(N, D) vectors of texts, in their order."""
        rows = self.words.rows(texts, [role] * len(texts))
        order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids))
        found = torch.empty(len(rows), self.head.shape[1], device=self.decoder.device)
        for places in _groups(order, [len(row.ids) for row in rows]):
            batch = self.batch([rows[place] for place in places])
            found[torch.tensor(places, device=found.device)] = self.pool(self.states(batch), batch)
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"masters": self.masters, "optimiser": self.optimiser.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Back to a checkpoint."""
        with torch.no_grad():
            for own, weight, saved in zip(self.masters, self._trained(), state["masters"], strict=True):
                own.copy_(saved)
                weight.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self, folder: Path, base_name: str) -> None:
        """The adapter as peft's files, in the model's dtype, and the templates that it was trained with.

        ``base_name`` is what the files say they belong to.
        """
        self.peft.save_pretrained(folder)
        path = folder / "adapter_config.json"
        write_json(path, dict(sorted({**read_json(path), "base_model_name_or_path": base_name}.items())))
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty card
        said = {name: getattr(self.recipe, name) for name in ("query_template", "document_template", "pooling")}
        write_json(folder / CONFIG_FILE, EchoConfig(**said).to_dict())


def _groups(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Parts of an order whose rows, padded to the longest, have at most WIDEST tokens."""
    part: list[int] = []
    for place in order:
        if part and (len(part) + 1) * lengths[place] > WIDEST:
            yield part
            part = []
        part.append(place)
    if part:
        yield part


def last_places(lengths: Sequence[int]) -> Tensor:
    """(R,) the last place of each of R rows laid end to end."""
    return torch.from_numpy(np.cumsum(lengths) - 1)
