"""Checkpoints that were trained to be said twice, and the options that they were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODELS = Path(__file__).parents[1] / "models"

# The two checkpoints released with arXiv 2402.15449, with the templates of its reference code: 300 tokens a saying,
# the end token pooled.
_OF_THE_PAPER: dict[str, Any] = {
    "query_template": "{bos}Instruct:{instruction},\nQuery:{text}\nQuery again:[[{text}{eos}]]",
    "document_template": "{bos}Document:{text}\nDocument again:[[{text}{eos}]]",
    "seam": "reference",
    "max_tokens": 300,
    "overflow": "truncate",
    "instruction": "Retrieve passages that answer the question",
}

PRESETS: dict[str, dict[str, Any]] = {
    "jspringer/echo-mistral-7b-instruct-lasttoken": {**_OF_THE_PAPER, "pooling": "last"},
    "jspringer/echo-mistral-7b-instruct-meantoken": {**_OF_THE_PAPER, "pooling": "mean"},
    "echo-smollm2": {"query_template": "Rewrite the following question: {text}. The rewritten question: [[{text}]]"},
}

SHIPPED = {"echo-smollm2": MODELS / "echo_smollm2"}  # adapters that come with the package; their bases do not
