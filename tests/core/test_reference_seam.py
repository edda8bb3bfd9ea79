"""The reference seam mode: exactly the ids of the paper's reference parser.

It is for the checkpoints that were trained with it.
"""

from __future__ import annotations

import re

import pytest
from nasty_texts import ALL
from reference_parser import reference_ids
from tiny_tokenizers import TOKENIZERS

from echo_core.config import EchoConfig
from echo_core.text.prompts import PromptTokenizer
from echo_core.text.tokenizer import TextTokenizer

OWN = {name: TOKENIZERS[name]() for name in ("legacy", "byte_level_bos", "gemma")}


def prompts(tokenizer: str, template: str, **options: object) -> PromptTokenizer:
    config = EchoConfig(document_template=template, seam="reference", **options)  # type: ignore[arg-type]
    return PromptTokenizer(TextTokenizer(OWN[tokenizer]), config.document_template, config)


REFERENCE = {
    "{bos}Instruct:{instruction},\nQuery:{text}\nQuery again:[[{text}{eos}]]": (
        "<s>Instruct:{!%%prompt%%,}\nQuery:{!%%text%%}\nQuery again:{%%text%%}{</s>}"
    ),
    "{bos}Document:{text}\nDocument again:[[{text}{eos}]]": "<s>Document:{!%%text%%}\nDocument again:{%%text%%}{</s>}",
    "{bos}Rewrite: {text}. Rewritten: [[{text}]]": "<s>Rewrite: {!%%text%%.} Rewritten: {%%text%%}",
}
NO_MARKUP = [
    text for text in ALL if "<s>" not in text and "</s>" not in text and "%%" not in text and "<unk>" not in text
]


@pytest.mark.parametrize("limit", [300, 6])
@pytest.mark.parametrize("ours", REFERENCE)
@pytest.mark.parametrize("name", ["legacy", "byte_level_bos", "gemma"])
def test_the_reference_seam_gives_the_reference_parsers_ids(name: str, ours: str, limit: int):
    tokenizer = prompts(name, ours, max_tokens=limit, overflow="truncate")
    instruction = "Retrieve passages that answer the question"
    others = {"instruction": [instruction] * len(NO_MARKUP)} if "instruction" in ours else {}
    for text, row in zip(NO_MARKUP, tokenizer.tokenise(NO_MARKUP, others).rows, strict=True):
        ids, positions = reference_ids(OWN[name], REFERENCE[ours], {"prompt": instruction, "text": text}, 10_000)
        if limit == 6:
            ids, positions = _cut_like_the_reference(name, REFERENCE[ours], {"prompt": instruction, "text": text})
        assert row.ids.tolist() == ids
        assert list(range(row.spans[0].start, row.spans[0].end)) == positions


def _cut_like_the_reference(name: str, template: str, values: dict[str, str]) -> tuple[list[int], list[int]]:
    """Each value's piece is cut to 6 ids.

    The literals stay whole, which the reference would cut as well (a fault that is not reproduced).
    """
    ids, positions = [], []
    for i, string in enumerate(re.split(r"\{([^{}]+)\}", template)):
        new, new_positions = reference_ids(
            OWN[name], "{" + string + "}" if i % 2 else string, values, 6 if i % 2 else 1000
        )
        positions += [len(ids) + p for p in new_positions]
        ids += new
    return ids, positions


def test_the_released_checkpoints_presets_are_the_reference_templates():
    config = EchoConfig("jspringer/echo-mistral-7b-instruct-lasttoken")
    assert (config.query_template, config.document_template) == tuple(REFERENCE)[:2]
    assert (config.pooling, config.seam, config.max_tokens, config.overflow) == ("last", "reference", 300, "truncate")
    assert EchoConfig("jspringer/echo-mistral-7b-instruct-meantoken").pooling == "mean"


def test_the_reference_seam_never_reads_a_users_text_as_its_end_token():
    """Where the reference code pools the ``</s>`` of a user's text, we do not."""
    tokenizer = prompts("legacy", "{bos}Document:{text}\nDocument again:[[{text}{eos}]]")
    (row,) = tokenizer.tokenise(["end </s> of"], {}).rows
    assert row.ids.tolist().count(OWN["legacy"].eos_token_id) == 1
