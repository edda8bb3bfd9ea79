"""A document's id, made from its content: a repeated run finds what it has stored, and stores nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def document_id(text: str, source: str | None = None, variables: Mapping[str, str] | None = None) -> str:
    """A record's id (32 hex digits): a hash of its text, of where it comes from, and of the template's other values."""
    parts = [text] if source is None else [text, source]
    for item in sorted((variables or {}).items()):
        parts += item  # in pairs: an even number of parts means a source
    content = "\0".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
