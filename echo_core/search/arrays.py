"""Arrays in one safetensors file: written whole or not at all, opened by memory map, and never by pickle."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from echo_core.errors import StoreError
from echo_core.identity.files import write_whole

_KINDS = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "|u1"}


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> None:
    """Write arrays and what is noted of them; who reads ``path`` finds the old file or the new one."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_whole(path, save(whole, metadata=dict(notes)))


def map_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a file, which stay on the disk until they are used, and what was noted of them.

    Raises:
        StoreError: there is no such file, or it is not one of ``write_arrays``, or cut off.
    """
    try:
        with safe_open(path, framework="np") as file:  # checks that header and length are right
            notes = dict(file.metadata() or {})
        with path.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(size))
        places = {name: place for name, place in header.items() if name != "__metadata__"}
        return {name: _mapped(path, 8 + size, place) for name, place in places.items()}, notes
    except (OSError, SafetensorError, ValueError, KeyError, struct.error) as error:
        raise StoreError(f"{path} must be an index that was saved here, got none ({error}); build it again") from error


def _mapped(path: Path, start: int, place: Mapping[str, Any]) -> NDArray[Any]:
    kind, shape, (first, after) = _KINDS[place["dtype"]], tuple(place["shape"]), place["data_offsets"]
    if first == after:  # nothing cannot be mapped
        return np.zeros(shape, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", offset=start + first, shape=shape)
