"""The configurations that quality.py compares, by name, as data."""

from __future__ import annotations

from typing import Any

FIRST_SAYING = "Rewrite the following paragraph: [[{text}]]. The rewritten paragraph: {text}"
LATE, ALONE = "late", "alone"  # as values of "chunks", see Chunked
RANDOM = "random weights"  # this name's configuration runs on the same architecture, untrained

FIT = "fit"  # as a value of "centre" or "query_centre": fitted on the set's documents, or its queries
FIRST = "first sentences"  # as a value of "query_centre": fitted on the documents' first sentences, said as queries

_CLASSICAL = {"query_template": "classical", "document_template": "classical"}
_PROMPTEOL = {"query_template": "prompteol", "document_template": "prompteol", "pooling": "last"}
# Two prompts put before PromptEOL's, from arXiv 2404.03921: pretended chain of thought, and knowledge.
_THOUGHT = 'After thinking step by step , this sentence : "{text}" means in one word:[["]]'
_KNOWLEDGE = (
    "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms provide "
    'additional but less central details. With this in mind , this sentence : "{text}" means in one word:[["]]'
)
_FIRST = {"query_template": FIRST_SAYING, "document_template": FIRST_SAYING}
_PREPENDING = {
    "query_template": "prepending",
    "document_template": "prepending",
    "pooling": "last",
    "prepend_layers": 2,
}
_ECHO_PREPENDING = {"query_template": "echo-prepending", "document_template": "echo-prepending", "prepend_layers": 2}

# Name → fields of EchoConfig that say what is said and pooled; every layer of each is measured by layers.py.
FORMS: dict[str, dict[str, Any]] = {
    "echo": {},
    "classical": _CLASSICAL,
    "first saying": _FIRST,
    "echo, last token": {"pooling": "last"},
    "classical, last token": {**_CLASSICAL, "pooling": "last"},
    "three sayings": {"query_template": "echo-thrice", "document_template": "echo-thrice"},
    "PromptEOL": _PROMPTEOL,
    "PromptEOL, example": {
        **_PROMPTEOL,
        "query_template": "prompteol-example",
        "document_template": "prompteol-example",
    },
}

# Name → fields of EchoConfig that differ from the model's own. Neighbours that differ in filter and centre alone share
# a pass of the model.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "echo mean": {},
    "echo, filter 2": {"filter": 2},
    "echo, filter 4": {"filter": 4},
    "echo, mean direction out": {"centre": FIT},
    "echo, mean direction out, filter 2": {"centre": FIT, "filter": 2},
    "classical mean": _CLASSICAL,
    "classical, mean direction out": {**_CLASSICAL, "centre": FIT},
    "classical, filter 2": {**_CLASSICAL, "filter": 2},
    "echo last": {"pooling": "last"},
    "classical last": {**_CLASSICAL, "pooling": "last"},
    "PromptEOL": _PROMPTEOL,
    "PromptEOL, filter 2": {**_PROMPTEOL, "filter": 2},
    "PromptEOL, example": FORMS["PromptEOL, example"],
    "PromptEOL, chain of thought": {**_PROMPTEOL, "query_template": _THOUGHT, "document_template": _THOUGHT},
    "PromptEOL, knowledge": {**_PROMPTEOL, "query_template": _KNOWLEDGE, "document_template": _KNOWLEDGE},
    "PromptEOL, Token Prepending": _PREPENDING,
    "echo, Token Prepending": _ECHO_PREPENDING,
    "echo, layer -2": {"layer": -2},
    "echo, layer -2, mean direction out": {"layer": -2, "centre": FIT},
    "echo, layers -2 and -1": {"layer": (-2, -1)},
    "echo, own mean directions out": {"centre": FIT, "query_centre": FIT},
    "echo, own mean directions out, filter 2": {"centre": FIT, "query_centre": FIT, "filter": 2},
    "echo, mean directions out, queries' by first sentences": {"centre": FIT, "query_centre": FIRST},
    "echo, layer -3": {"layer": -3},
    "echo, layer -3, mean direction out": {"layer": -3, "centre": FIT},
    "echo, layer -3, own mean directions out": {"layer": -3, "centre": FIT, "query_centre": FIT},
    "echo, layer -3, mean directions out, queries' by first sentences": {
        "layer": -3,
        "centre": FIT,
        "query_centre": FIRST,
    },
    "echo, capitals in sentence case": {"caps": "sentence"},
    "echo, three sayings": {"query_template": "echo-thrice", "document_template": "echo-thrice"},
    "echo, truncated at 256": {"overflow": "truncate"},
    "echo, windows of 128": {"max_tokens": 128},
    "echo, one window of 450": {"max_tokens": 450},
    "echo, chunks said alone": {"chunks": ALONE},
    "echo, late chunks": {"chunks": LATE},
    "control: first saying": _FIRST,
    f"control: first saying, {RANDOM}": _FIRST,
    f"control: echo mean, {RANDOM}": {},
}

LONG = (
    "echo mean",
    "echo, truncated at 256",
    "echo, windows of 128",
    "echo, one window of 450",
    "echo, chunks said alone",
    "echo, late chunks",
)
BASELINES = (
    "echo mean",
    "classical mean",
    "echo last",
    "classical last",
    "PromptEOL",
    *(n for n in CONFIGURATIONS if n.startswith("control")),
)
