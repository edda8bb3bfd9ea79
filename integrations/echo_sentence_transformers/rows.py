"""Texts to rows, and rows to what the modules exchange: padded features for training, a plan of rows for ``encode``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from echo_core.config import EchoConfig
from echo_core.engine.batches import pad_rows
from echo_core.errors import ConfigError, TextError, UnencodableTextError, VariableError
from echo_core.text.inputs import fill_variables, is_blank
from echo_core.text.prompts import PromptTokenizer, Tokenised
from echo_core.text.rows import Row, Span

INPUT, MASK, POOL, PLAN = "input_ids", "attention_mask", "pooling_mask", "echo_plan"


class WholeText(str):
    """A text of an ``encode`` call and its number there: it is read whole, in windows if it is long, and an error names its number."""

    number: int

    @classmethod
    def of(cls, text: str, number: int) -> WholeText:
        """The text, marked; one that is marked already keeps its number."""
        if isinstance(text, cls):
            return text
        marked = cls(text)
        marked.number = number
        return marked


@dataclass(frozen=True)
class Plan:
    """The rows of some texts, which texts have any (a blank one has none), and each text's number for messages."""

    rows: list[Row]
    kept: list[int]
    numbers: list[int]


def plan_rows(
    texts: Sequence[str], prompts: PromptTokenizer, echo: EchoConfig, instruction: str | None
) -> tuple[Plan, int]:
    """The plan for N texts, and how many of them were longer than ``max_tokens``.

    Raises:
        TextError: a text is no string, empty, too long or not valid Unicode; names its number in the call of ``encode``, else its index.
        VariableError: the template has no ``{instruction}`` and one is given, or the other way round.
    """
    numbers = [getattr(text, "number", index) for index, text in enumerate(texts)]
    for number, text in zip(numbers, texts, strict=True):
        if not isinstance(
            text, str
        ):  # no TypeError: BaseModel.preprocess would answer it by gluing the prompt onto the texts
            raise UnencodableTextError(number, f"must be a string, got {type(text).__name__}")
    if "instruction" in prompts.template.variables and instruction is None and echo.instruction is None:
        way_out = "give prompt=…, or set EchoConfig(instruction=…), which the trainer needs even where it has prompts of its own"
        raise VariableError(
            f"the template needs a value for {{instruction}}; {way_out}; it is {prompts.template.source!r}"
        )
    kept = [index for index, text in enumerate(texts) if not is_blank(text, numbers[index], echo.empty)]
    variables = fill_variables(prompts.template, len(kept), echo.instruction, instruction, None)
    try:
        tokenised = prompts.tokenise([texts[index] for index in kept], variables) if kept else Tokenised([], 0)
    except TextError as error:
        raise error.at(numbers[kept[error.index]]) from error.__cause__
    return Plan(tokenised.rows, kept, numbers), tokenised.long_texts


def padded_features(plan: Plan, pad_id: int) -> dict[str, Any]:
    """One row a text, padded on the right: ids, attention mask and pooling mask, (N, T) int64 each; a blank text pools nothing."""
    rows = [Row(torch.tensor([pad_id]).numpy(), ())] * len(plan.numbers)
    for index, row in zip(plan.kept, plan.rows, strict=True):
        rows[index] = row
    ids = pad_rows(rows).ids
    lengths = torch.tensor([len(row.ids) for row in rows])[:, None]
    spans = [row.spans[0] if row.spans else Span(0, 0, 0) for row in rows]
    start, end = (
        torch.tensor(ends)[:, None] for ends in ([span.start for span in spans], [span.end for span in spans])
    )
    at = torch.arange(ids.shape[1])
    ids = ids.masked_fill(at >= lengths, pad_id)
    return {INPUT: ids, MASK: (at < lengths).long(), POOL: ((start <= at) & (at < end)).long()}


def check_supported(echo: EchoConfig) -> None:
    """Raise ConfigError if the config has an option that only ``EchoEncoder`` serves."""
    for field in ("filter", "centre", "prepend_layers"):
        if getattr(echo, field, None) is not None:
            raise ConfigError(
                f"{field} must be left out in a sentence-transformers model, got {getattr(echo, field)!r}; EchoEncoder serves it"
            )
    if not isinstance(echo.layer, int):
        raise ConfigError(
            f"layer must be one integer in a sentence-transformers model, got {echo.layer!r}; EchoEncoder takes the mean of several"
        )
