"""The files of a ``CodeIndex``: codes and ids, written whole at a save, and full vectors, which grow row by row."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from echo_core.errors import ModelError, StoreError
from echo_core.identity.files import read_json, write_whole

INDEX = "index.json"
Vectors = NDArray[np.float32]


@dataclass
class Stored:
    """What a save keeps; ``stored`` rows of the file of vectors count, and what stands after them does not."""

    dimension: int | None = None
    space: dict[str, Any] | None = None
    ids: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of the full vectors, in the order of the codes
    stored: int = 0
    vectors: str | None = None  # names of files
    codes: str | None = None


def read_stored(folder: Path) -> tuple[Stored, Any]:
    """What was saved last, and its codes.

    Raises:
        ModelError: a file is missing, cut off or another one.
    """
    try:
        found = Stored(**read_json(folder / INDEX))
        if found.codes is None or found.vectors is None:
            return found, None
        codes = faiss.deserialize_index(np.fromfile(folder / found.codes, dtype=np.uint8))
        whole = (folder / found.vectors).stat().st_size >= 4 * found.stored * (found.dimension or 0)
        if not whole or codes.ntotal != len(found.ids) or len(found.rows) != len(found.ids):
            raise ValueError("its files do not belong together")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"{folder} must hold an index as CodeIndex.save writes it ({error}); make it again") from error
    return found, codes


def check_latest(folder: Path, told: Stored) -> None:
    """Return if nobody has saved since ``told`` was read or written: each save replaces the file of codes.

    Raises:
        StoreError: somebody has, and would lose what was saved.
    """
    if told.codes is not None:
        latest = (folder / told.codes).is_file()
    else:
        latest = not (folder / INDEX).is_file() or read_json(folder / INDEX).get("codes") is None
    if not latest:
        rule = "must be written to by one process at a time, but was saved by another since it was opened here"
        raise StoreError(f"{folder} {rule}; nothing of this is saved: load it again and repeat what is missing")


def write_stored(folder: Path, told: Stored, codes: Any) -> None:
    """Save: the list of files is renamed into place last, then files that it does not name are deleted."""
    if codes is not None:
        name = f"codes-{os.urandom(4).hex()}.faiss"
        write_whole(folder / name, faiss.serialize_index(codes).tobytes())
        told.codes = name
    if told.vectors is not None:
        with (folder / told.vectors).open("rb") as file:
            os.fsync(file.fileno())
    write_whole(folder / INDEX, json.dumps(vars(told)).encode())
    for path in [*folder.glob("codes-*.faiss"), *folder.glob("vectors-*.f32")]:
        if path.name not in (told.codes, told.vectors):
            path.unlink()


def append_rows(folder: Path, told: Stored, vectors: Vectors) -> int:
    """Write vectors (N, D) at the end of the file; the number of the first one's row.

    What stands there and does not count is left: another process may be about to save it.
    """
    if told.vectors is None:
        told.vectors = f"vectors-{os.urandom(4).hex()}.f32"
        (folder / told.vectors).touch()
    width = 4 * vectors.shape[1]
    with (folder / told.vectors).open("r+b") as file:
        start: int = max(told.stored, -(-file.seek(0, os.SEEK_END) // width))
        file.seek(start * width)
        file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
    told.stored = start + len(vectors)
    return start


def rows_of(folder: Path, told: Stored) -> Vectors:
    """The full vectors (rows, D), read from the disk as they are asked for.

    Raises:
        StoreError: their file is gone.
    """
    if told.vectors is None or not told.stored:
        return np.zeros((0, told.dimension or 0), dtype=np.float32)
    try:
        return np.memmap(folder / told.vectors, dtype="<f4", mode="r", shape=(told.stored, told.dimension or 0))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} was compacted by another process since it was opened; load it again") from error
