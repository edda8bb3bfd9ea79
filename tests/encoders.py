"""What several test files of the core share."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from nasty_texts import NASTY, PLAIN
from oracle import PIECES, open_oracle

from echo_core import EchoConfig, EchoEncoder, Runtime

FP32 = Runtime(device="cpu", dtype="float32")
SAMPLE = (*PLAIN, NASTY[0], NASTY[1], NASTY[12], NASTY[16])
INSTRUCTION = "Find what {answers} it"
LONG = " ".join(PLAIN) * 4
LAYERS = (1, 2, 3, -1, -2, -3)


def encoder_of(folder: Path, runtime: Runtime = FP32, **options: Any) -> EchoEncoder:
    return EchoEncoder(EchoConfig(str(folder), **options), runtime)


def oracle_vectors(folder: Path, template: str, texts: Any, **options: Any) -> np.ndarray:
    oracle = open_oracle(folder)
    return np.stack(
        [oracle.vector(PIECES[template], {"text": text, "instruction": INSTRUCTION}, **options) for text in texts]
    )


WAYS = ("encode_documents", "encode_queries", "iter_documents", "aencode_documents", "aencode_queries")


def call(encoder: EchoEncoder, way: str, texts: Any, **options: Any) -> Any:
    if way.startswith("a"):
        return asyncio.run(_awaited(encoder, way, texts, options))
    result = getattr(encoder, way)(texts, **options)
    return np.array(list(result)) if way.startswith("iter") else result


async def _awaited(encoder: EchoEncoder, way: str, texts: Any, options: dict[str, Any]) -> Any:
    return await getattr(encoder, way)(texts, **options)
