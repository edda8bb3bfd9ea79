"""Known checkpoints and the options they were trained with: model name → fields of EchoConfig. A table."""

from __future__ import annotations

from typing import Any

# The two checkpoints released with arXiv 2402.15449, with the templates of its reference code (300 tokens a saying, end token pooled).
_RELEASED: dict[str, Any] = {
    "query_template": "{bos}Instruct:{instruction},\nQuery:{text}\nQuery again:[[{text}{eos}]]",
    "document_template": "{bos}Document:{text}\nDocument again:[[{text}{eos}]]",
    "seam": "reference",
    "max_tokens": 300,
    "overflow": "truncate",
    "instruction": "Retrieve passages that answer the question",
}

PRESETS: dict[str, dict[str, Any]] = {
    "jspringer/echo-mistral-7b-instruct-lasttoken": {**_RELEASED, "pooling": "last"},
    "jspringer/echo-mistral-7b-instruct-meantoken": {**_RELEASED, "pooling": "mean"},
}
