"""Instructions by task, a pair for queries and documents: the idea is LLM-Embedder's (arXiv 2310.07554).

They are worded for echo, which says a text twice: what the text is wanted for is said before both sayings, and is not
pooled. A name stands in the config for its pair until the templates are known; then they hold the words themselves, and
so does the fingerprint. What each gains or loses was measured: docs/instructions.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """What is said before a query and before a document, as the values of their templates' ``{instruction}``."""

    query: str
    document: str

    def of(self, role: str) -> str:
        """The words of a role, "query" or "document"."""
        return self.query if role == "query" else self.document


INSTRUCTIONS: dict[str, Instruction] = {
    "retrieval": Instruction("Find passages about this.", "Read this passage, which a search shall find."),
    "qa": Instruction(
        "Find the passage that answers this question.", "Read this passage to answer questions about it."
    ),
    "conversation": Instruction(
        "Find what was said before on the subject of this message.", "Remember this message for the conversation."
    ),
    "similarity": Instruction("Find a sentence with the same meaning.", "Find a sentence with the same meaning."),
    "classification": Instruction("Find out what the writer wants.", "Find out what the writer wants."),
}

_PLACE = re.compile(r"\{\{|\{instruction\}")  # doubled braces are literal ones
INSTRUCTED = {"query_template": "instructed", "document_template": "instructed"}  # where a named one is said


def named_instruction(name: object) -> Instruction | None:
    """The pair of a task's name; None: another value, which is said as it is."""
    return INSTRUCTIONS.get(name) if isinstance(name, str) else None


def with_instruction(source: str, words: str) -> str:
    """A template that says ``words``, which hold no construct, in place of ``{instruction}``."""
    return _PLACE.sub(lambda found: found.group() if found.group() == "{{" else words, source)
