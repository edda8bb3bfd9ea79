"""A new encoder searches an old index: its vectors mapped into the space of those that are stored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from echo_core.config import ROLES
from echo_core.errors import ConfigError, EmbeddingSpaceMismatch, ModelError, check_choice
from echo_core.identity.files import write_whole
from echo_core.identity.space import check_space, fingerprint, space_metadata
from echo_core.search.alignment import Array, choose
from echo_core.text.inputs import check_texts

Vectors = NDArray[np.float32]
_FORMAT = "echo-drift-map"


class Encoder(Protocol):
    """What a map is fitted with: ``EchoEncoder`` is one."""

    @property
    def space(self) -> dict[str, Any]:
        """What must be equal for two vectors to be compared."""

    def encode_queries(self, texts: Iterable[str]) -> Vectors:
        """(N, D) vectors of texts said as queries."""

    def encode_documents(self, texts: Iterable[str]) -> Vectors:
        """(N, D) vectors of texts said as documents."""


@dataclass(frozen=True, eq=False)
class DriftMap:
    """A function from the vectors of a new encoder to the space of an old index (arXiv 2506.00037, 2509.23471).

        drift = DriftMap.fit(new, old, texts)
        old_vectors = drift(new.encode_queries(["How do bees keep warm?"]))

    It is fitted once on some hundred texts, and spares embedding the index again, until there is time for that. A
    mapped vector is meant to be searched with: it finds what the new encoder would find. How well differs from change
    to change: ``held_out`` tells, and the figures of real models are in the documentation.
    """

    kind: str  # "none", "shift", "procrustes", "ridge", "transposed" or "both": what served held-out texts best
    source: Vectors = field(repr=False)  # (D new,) mean that is taken away
    matrix: Vectors = field(repr=False)  # (D new, D old)
    target: Vectors = field(repr=False)  # (D old,) mean that is given
    new_space: Mapping[str, Any] | None = field(repr=False)  # None: fitted on arrays whose maker was not named
    old_space: Mapping[str, Any] | None = field(repr=False)
    held_out: Mapping[str, float]  # for each kind: share that it finds of the 10 texts that embedding all anew finds
    texts: int  # that it was fitted on

    @classmethod
    def fit(
        cls,
        new: Encoder | ArrayLike,
        old: Encoder | ArrayLike,
        texts: Iterable[str] | None = None,
        *,
        role: str = "query",
        new_space: Mapping[str, Any] | None = None,
        old_space: Mapping[str, Any] | None = None,
    ) -> DriftMap:
        """The map that serves best, chosen on a third of the texts that it is not fitted on.

        Args:
            new: the encoder that shall search, or its vectors (N, D) of the texts.
            old: the encoder that made the index, or its vectors (N, D'). Stored vectors do: then ``role`` is
                "document", as they were said.
            texts: some hundred of the texts that are searched, 500 serve well; only left out with two arrays.
            role: how encoders say the texts. A map is for queries, so they are said as such.
            new_space: of an array, the space of the encoder that made it; a store refuses a map without it.
            old_space: likewise.

        Raises:
            TypeError: the texts are no list of strings.
            ConfigError: fewer than 20 texts, arrays of another shape, numbers that are not finite, or zeros alone.
        """
        check_choice("role", role, ROLES)
        listed = None if texts is None else check_texts(texts)
        ours, theirs = (_vectors(name, side, listed, role) for name, side in (("new", new), ("old", old)))
        if len(ours) != len(theirs):
            raise ConfigError(f"new and old must be vectors of the same texts, got {len(ours)} and {len(theirs)}")
        chosen, reached = choose(ours, theirs)
        parts = (chosen.source, chosen.matrix, chosen.target)
        source, matrix, target = (np.asarray(part, dtype=np.float32) for part in parts)
        spaces = (_space(new, new_space), _space(old, old_space))
        return cls(chosen.kind, source, matrix, target, *spaces, reached, len(ours))

    def __call__(self, vectors: ArrayLike) -> Vectors:
        """Vectors (D,) or (N, D) of the new encoder in the old space: (D',) or (N, D') float32 of unit length.

        A zero vector, which stands for an empty text, stays one.

        Raises:
            ConfigError: vectors of another width, or numbers that are not finite.
        """
        given = as_numbers("vectors", vectors)
        if given.ndim not in (1, 2) or given.shape[-1] != len(self.source):
            rule = f"must have {len(self.source)} numbers each, as those of the encoder that the map was fitted with"
            raise ConfigError(f"vectors {rule}, got the shape {given.shape}")
        if not np.isfinite(given).all():
            raise ConfigError("vectors must be finite, got NaN or infinity")
        mapped = (given - self.source) @ self.matrix + self.target
        lengths = np.linalg.norm(mapped, axis=-1, keepdims=True)
        empty = ~given.any(axis=-1, keepdims=True)
        return np.asarray(np.where(empty, 0, mapped / np.maximum(lengths, 1e-12)), dtype=np.float32)

    @property
    def new_fingerprint(self) -> str | None:
        """The fingerprint of the encoder whose vectors are mapped; None: it was not named."""
        return None if self.new_space is None else fingerprint(self.new_space)

    @property
    def old_fingerprint(self) -> str | None:
        """The fingerprint of the space that vectors are mapped to; None: it was not named."""
        return None if self.old_space is None else fingerprint(self.old_space)

    def check(self, space: Mapping[str, Any], stored: Mapping[str, Any] | None, where: str) -> None:
        """Return if the map leads from ``space`` to the vectors that a store holds.

        Args:
            space: of the encoder that shall search.
            stored: the store's metadata, as ``space_metadata`` makes it.
            where: the store's name, for messages.

        Raises:
            EmbeddingSpaceMismatch: it begins or ends elsewhere, or does not say where.
        """
        if self.new_space is None or self.old_space is None:
            rule = "must say from which space it leads to which, got one that was fitted on arrays alone"
            raise EmbeddingSpaceMismatch(f"drift {rule}; give DriftMap.fit encoders, or new_space= and old_space=")
        check_space(space_metadata(self.new_space), space, "the drift map, on the side of the new encoder,")
        check_space(stored, self.old_space, f"{where}, to which the drift map shall lead,")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map into one safetensors file, whole or not at all."""
        from safetensors.numpy import save

        tensors = {"source": self.source, "matrix": np.ascontiguousarray(self.matrix), "target": self.target}
        told = {name: getattr(self, name) for name in ("kind", "new_space", "old_space", "held_out", "texts")}
        write_whole(Path(path), save(tensors, metadata={_FORMAT: json.dumps(told)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DriftMap:
        """The map that ``save`` wrote.

        Raises:
            ModelError: the file is none, or a foreign one.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                told = json.loads((file.metadata() or {})[_FORMAT])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return cls(**tensors, **told)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{path} must be a file that DriftMap.save wrote ({error}); fit the map again") from error


def _vectors(name: str, side: Encoder | ArrayLike, texts: list[str] | None, role: str) -> Array:
    """(N, D) float64 of one side: embedded, or as given."""
    if hasattr(side, "encode_queries"):
        if texts is None:
            raise ConfigError(f"texts must be given where {name} is an encoder, got None")
        side = side.encode_queries(texts) if role == "query" else side.encode_documents(texts)  # type: ignore[union-attr]
    rule = "an encoder or finite vectors (N, D)"
    vectors: Array = as_numbers(name, side, rule, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ConfigError(f"{name} must be {rule}, got the shape {vectors.shape}")
    if len(vectors) and not vectors.any():
        raise ConfigError(
            f"{name} must be vectors of texts, got {len(vectors)} of zeros alone, which stand for empty ones"
        )
    return vectors


def as_numbers(name: str, value: Any, rule: str = "vectors", dtype: Any = np.float32) -> NDArray[Any]:
    """The value as an array of ``dtype``; ``rule`` says what it must be.

    Raises:
        ConfigError: it is no array of real numbers, a text in place of its vector say.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "USMmc":  # strings, times and complex numbers, which NumPy would cast
            return given.astype(dtype, copy=False)
    except (TypeError, ValueError):
        pass
    kind = type(value).__name__
    raise ConfigError(f"{name} must be {rule}, numbers as an encoder gives them, got {kind}")


def check_arguments(space: object, drift: object) -> None:
    """Raise ConfigError unless they are an encoder's space and a map, or None: what a store takes as such."""
    if space is not None and not isinstance(space, Mapping):
        raise ConfigError(f"space must be that of an encoder, encoder.space, got {type(space).__name__}")
    if drift is not None and not isinstance(drift, DriftMap):
        way_out = "make one by DriftMap.fit, or read it by DriftMap.load(path)"
        raise ConfigError(f"drift must be a DriftMap, got {type(drift).__name__}; {way_out}")


def _space(side: Encoder | ArrayLike, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    space = getattr(side, "space", None) if given is None else given
    return None if space is None else dict(space)
