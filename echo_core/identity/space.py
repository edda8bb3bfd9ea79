"""The space that vectors live in: what must be equal for two vectors to be compared, its fingerprint, and the check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from echo_core.config import EchoConfig
from echo_core.errors import EmbeddingSpaceMismatch
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.identity.weights import weights_identity

FINGERPRINT_KEY = "echo_fingerprint"
SPACE_KEY = "echo_space"
_NAMES_ONLY = ("model", "revision", "base")  # where the weights came from; what they are is in "weights"


def describe_space(config: EchoConfig, weights: str) -> dict[str, Any]:
    """The fields that define a vector: the config, with the weights' identity in place of the model's name.

    An option that is off (None) is left out, so that an option added later does not change the fingerprint of those who
    do not use it. A mean direction of some thousand numbers stands here as its hash.
    """
    fields = {key: value for key, value in config.to_dict().items() if key not in _NAMES_ONLY and value is not None}
    for name in ("centre", "query_centre"):
        if name in fields:
            fields[name] = hashlib.sha256(json.dumps(fields[name]).encode()).hexdigest()[:16]
    if isinstance(config.layer, tuple):
        fields["layer"] = list(config.layer)  # as JSON gives it back
    return {"weights": weights, **fields}


def fingerprint(space: Mapping[str, Any]) -> str:
    """A short hash (16 hex digits) of a space."""
    return hashlib.sha256(json.dumps(space, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def space_metadata(space: Mapping[str, Any]) -> dict[str, str]:
    """The two strings that a store keeps beside its vectors."""
    return {FINGERPRINT_KEY: fingerprint(space), SPACE_KEY: json.dumps(space, sort_keys=True, ensure_ascii=False)}


def check_space(stored: Mapping[str, Any] | None, space: Mapping[str, Any], where: str) -> None:
    """Return if the vectors stored under the metadata ``stored`` are of ``space``.

    Raises:
        EmbeddingSpaceMismatch: they are not, or the store says nothing about it; names the fields that differ and the
            way out.
    """
    if isinstance(stored, Mapping) and stored.get(FINGERPRINT_KEY) == fingerprint(space):
        return
    old = read_space(stored, where)
    differing = [key for key in sorted({*old, *space}) if old.get(key) != space.get(key)]
    changes = "; ".join(f"{key}: stored {old.get(key)!r}, now {space.get(key)!r}" for key in differing)
    way_out = "open it with the stored options, search it through a DriftMap (drift=), or migrate it to the new ones"
    raise EmbeddingSpaceMismatch(f"{where} holds vectors of another space ({changes}); {way_out}")


def read_space(stored: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The space that a store keeps in its metadata ``stored``; of one that keeps only the fingerprint: {}.

    Raises:
        EmbeddingSpaceMismatch: it says nothing about it, or what is no space.
    """
    if not isinstance(stored, Mapping) or FINGERPRINT_KEY not in stored:
        problem = f"{where} does not say which embeddings it holds (no {FINGERPRINT_KEY})"
        raise EmbeddingSpaceMismatch(f"{problem}; index its texts again into a new one")
    try:
        space = json.loads(stored.get(SPACE_KEY) or "{}")
    except (TypeError, ValueError):
        space = None
    if not isinstance(space, dict):
        problem = f"{where} says in {SPACE_KEY} what is no JSON object: {str(stored.get(SPACE_KEY))[:60]!r}"
        raise EmbeddingSpaceMismatch(f"{problem}; index its texts again into a new one")
    return space


def space_of(config: EchoConfig) -> dict[str, Any]:
    """The space of a config: reads the checkpoint's files (and downloads them, if it must), loads no weights."""
    return describe_space(config, weights_identity(find_checkpoint(config)))
