"""Situated chunks: a chunk's vector, and added to it the one that it has after its surroundings (arXiv 2508.01959).

The surroundings, a document or a heading say, are said before the chunk and are not pooled. Chunks that have the same
ones run together, so that these run once: the prefix cache keeps their keys and values (``engine/prefix_cache.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from echo_core.encoder import EchoEncoder
from echo_core.errors import ConfigError, TextError, is_number
from echo_core.methods.finish import Vectors, unit
from echo_core.template import parse_template
from echo_core.text.inputs import check_texts, fill_variables

_BOS = "{bos}"
MOST = 1000  # of alpha: there a chunk's own vector has long no weight


def encode_situated(
    encoder: EchoEncoder, chunks: Sequence[str], contexts: str | Sequence[str], *, alpha: float = 0.5
) -> Vectors:
    """Vectors of N chunks in their surroundings, chunk + alpha · situated chunk: (N, D) float32, in order.

    They are compared with vectors of the encoder's own queries. Both parts are finished as its config says, and so is
    the length of the sum. One index wants one ``alpha`` and one way to choose contexts: its fingerprint tells neither.

    Args:
        encoder: says each chunk with its document template, alone and after its context.
        chunks: N texts.
        contexts: what is said before the chunks, whole: one string for all of them, or N.
        alpha: weight of the situated vectors, from 0 to MOST; 0 gives those of the chunks alone.

    Raises:
        ConfigError: ``alpha`` is no such number.
        VariableError: another number of contexts than of chunks, or a document template with variables of its own.
        TypeError: a config in place of an encoder, chunks or contexts in no list, or one that is no string.
        TextError: a chunk that cannot be said, or that is longer with its context than the model's positions; names
            the index.
    """
    if not isinstance(encoder, EchoEncoder):
        raise TypeError(f"encoder must be an EchoEncoder, got {type(encoder).__name__}; EchoEncoder(config) makes one")
    if not is_number(alpha) or not 0 <= alpha <= MOST:
        raise ConfigError(f"alpha must be a number from 0 to {MOST}, got {alpha!r}; 0.5 is the default")
    texts = check_texts(chunks)
    situated = encoder.with_options(document_template=situated_template(encoder.config.document_template))
    template, instruction = parse_template(situated.config.document_template), situated.config.instruction
    around = fill_variables(template, len(texts), instruction, None, {"context": contexts})["context"]
    vectors = encoder.encode_documents(texts)
    if alpha:
        vectors = vectors + np.float32(alpha) * encode_after(situated, texts, around)
    return unit(vectors) if encoder.config.normalize else vectors


def situated_template(source: str) -> str:
    """A template that says ``{context}`` before all else, but for the token that a text begins with."""
    begin = _BOS if source.startswith(_BOS) else ""
    return f"{begin}Context: {{context}}\n{source.removeprefix(begin)}"


def encode_after(situated: EchoEncoder, texts: Sequence[str], contexts: Sequence[str]) -> Vectors:
    """Vectors (N, D) of texts after their contexts, those with the same context in one call."""
    places: dict[str, list[int]] = {}
    for place, context in enumerate(contexts):
        places.setdefault(context, []).append(place)
    vectors = np.empty((len(texts), situated.dimension), dtype=np.float32)
    for context, those in places.items():
        try:
            vectors[those] = situated.encode_documents([texts[i] for i in those], variables={"context": context})
        except TextError as error:
            raise error.at(those[error.index]) from error.__cause__
    return vectors
