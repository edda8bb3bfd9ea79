"""The head of a GGUF file: architecture, quantisation, and where its tensors lie.

GGUF holds no code; the vocabulary is skipped. The package gguf reads the same into Python objects, some for each token
of the vocabulary: 13 s for Gemma's 262,144, against 0.3 s here.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_core.errors import ModelError

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}  # types of values
_STRING, _ARRAY = 8, 9
_FLOAT32 = 0


@dataclass(frozen=True)
class Place:
    """Where one tensor lies in the file, and how it is stored."""

    shape: tuple[int, ...]
    kind: int  # of gguf.GGMLQuantizationType
    start: int  # byte in the file

    @property
    def numbers(self) -> int:
        """The numbers in the tensor."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What the head of a GGUF file says; of an array (the vocabulary) its length stands in ``values``."""

    values: dict[str, Any]
    tensors: dict[str, Place]

    @property
    def architecture(self) -> str:
        """The architecture's name in llama.cpp, such as "llama"."""
        return str(self.values.get("general.architecture"))

    def get(self, key: str) -> Any:
        """A value that is kept under the architecture's name; None: it is not there."""
        return self.values.get(f"{self.architecture}.{key}")


def read_header(file: Path) -> Header:
    """The header of a GGUF file.

    Raises:
        ModelError: the file is none, or cut off within its header.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Cursor(content).header()
    except (struct.error, ValueError, IndexError, KeyError, OverflowError) as error:
        raise ModelError(f"model must be a whole GGUF file, got {file} ({error}); copy or download it again") from error


def quantization_of(header: Header) -> str:
    """The quantisation's name, as in the file's own name: Q4_K_M, Q8_0, F16."""
    from gguf import GGMLQuantizationType, LlamaFileType

    try:
        name = LlamaFileType(header.values["general.file_type"]).name
        return str(name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except (KeyError, ValueError):  # older files do not say: what most of their numbers are kept in
        kinds: dict[int, int] = {}
        for place in header.tensors.values():
            kinds[place.kind] = kinds.get(place.kind, 0) + place.numbers
        return str(GGMLQuantizationType(max(kinds, key=lambda kind: kinds[kind])).name)


def check_whole(file: Path, header: Header) -> None:
    """Return if a file holds all the bytes that its header promises.

    Raises:
        ModelError: it is cut off, or one of several parts.
    """
    from gguf import GGML_QUANT_SIZES

    if header.values.get("split.count", 1) > 1:
        parts = header.values["split.count"]
        raise ModelError(f"model must be one GGUF file, got {file}, one of {parts} parts; join them: llama-gguf-split")
    sizes = dict.fromkeys(range(256), (1, 0)) | {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    places = header.tensors.values()
    ends = [place.start + place.numbers // sizes[place.kind][0] * sizes[place.kind][1] for place in places]
    if not ends or max(ends) > file.stat().st_size:
        raise ModelError(f"model must be a whole GGUF file, got {file}, which is cut off; copy or download it again")


def read_floats(file: Path, place: Place) -> NDArray[np.float32]:
    """The numbers of a tensor that is stored as float32; of any other: none."""
    if place.kind != _FLOAT32:
        return np.empty(0, dtype=np.float32)
    return np.fromfile(file, dtype="<f4", count=place.numbers, offset=place.start)


class _Cursor:
    """A cursor over the head of a GGUF file, versions 2 and 3, little-endian."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._place = 0

    def header(self) -> Header:
        magic, version, tensors, values = self._take("4sIQQ")
        if magic != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}, not 2 or 3")
        found = dict(self._value() for _ in range(values))
        table = list(self._tensors(tensors))
        step = found.get("general.alignment", 32)
        start = -(-self._place // step) * step  # tensors begin at the next multiple after the header
        return Header(found, {name: Place(shape, kind, start + offset) for name, shape, kind, offset in table})

    def _take(self, layout: str) -> tuple[Any, ...]:
        taken = struct.unpack_from(f"<{layout}", self._content, self._place)
        self._place += struct.calcsize(f"<{layout}")
        return taken

    def _string(self) -> str:
        (length,) = self._take("Q")
        (content,) = self._take(f"{length}s")
        return str(content, "utf-8", "replace")

    def _value(self) -> tuple[str, Any]:
        name, (kind,) = self._string(), self._take("I")
        if kind == _STRING:
            return name, self._string()
        if kind == _ARRAY:
            return name, self._skip_array()
        return name, self._take(_SCALARS[kind])[0]

    def _skip_array(self) -> int:
        """The number of items of an array, which are passed over."""
        kind, length = self._take("IQ")
        if kind == _STRING:
            for _ in range(length):
                (size,) = self._take("Q")
                self._place += size
        else:
            self._place += length * struct.calcsize(_SCALARS[kind])
        return int(length)

    def _tensors(self, count: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
        for _ in range(count):
            name, (axes,) = self._string(), self._take("I")
            shape = self._take(f"{axes}Q")
            kind, offset = self._take("IQ")
            yield name, shape, kind, offset
