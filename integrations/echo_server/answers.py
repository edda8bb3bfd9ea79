"""Vectors as OpenAI's answer."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import numpy as np
import orjson
from numpy.typing import NDArray

Vector = NDArray[np.float32]


def _as_numbers(vector: Vector) -> bytes:
    """The shortest digits that give each float32 back: half as long as those of the same numbers as doubles."""
    return orjson.dumps(np.ascontiguousarray(vector), option=orjson.OPT_SERIALIZE_NUMPY)


def _as_base64(vector: Vector) -> bytes:
    return b'"' + base64.b64encode(vector.astype("<f4").tobytes()) + b'"'


ENCODINGS: Mapping[str, Callable[[Vector], bytes]] = {"float": _as_numbers, "base64": _as_base64}


def embeddings_body(vectors: NDArray[np.float32], encoding: str, model: str, tokens: int) -> bytes:
    """The body of an answer to ``POST /v1/embeddings``.

    It is put together row by row: one call for all vectors would hold the interpreter, and so the event loop, for its
    whole length.

    Args:
        vectors: (N, D) float32.
        encoding: a key of ENCODINGS.
        model: as the request named it.
        tokens: that the model was given.
    """
    write = ENCODINGS[encoding]
    rows = (b'{"object":"embedding","index":%d,"embedding":%b}' % (i, write(row)) for i, row in enumerate(vectors))
    usage = orjson.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    parts = (b",".join(rows), orjson.dumps(model), usage)
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % parts
