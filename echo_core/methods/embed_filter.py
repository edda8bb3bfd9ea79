"""The LM head of a checkpoint, read from its safetensors, and EmbedFilter's basis of it (arXiv 2606.07502).

The head W (V, D) = U Σ Vᵀ. Directions at both ends of its spectrum write frequent tokens, whatever the text; the middle
ones tell texts apart. The columns here are ordered from the middle outwards, so that the first k of them are always the
k middle ones: cutting a vector in this basis is the same as filtering harder. The model is never loaded; the basis is
computed once for the weights and kept in the user's cache folder.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from echo_core.errors import ModelError
from echo_core.identity.files import cache_folder, write_whole
from echo_core.identity.weights import weight_files, weights_identity
from echo_core.process.forks import load_lock

log = logging.getLogger("echo_core")

# Names that families give the head, and the input embeddings that a tied model uses in its place.
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_layer)\.weight$|^output\.weight$")
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$")
_WEIGHTS = "weights"  # of a cached basis: whose head it is of
_ROWS = 16384  # of the head, widened to float64 at one time


def read_head(folder: Path, trust_remote_code: bool = False) -> Tensor:
    """The LM head (V, D) in the checkpoint's dtype; of a tied model the input embeddings.

    Raises:
        ModelError: the checkpoint has none, as one that was saved without its head.
    """
    head = _find_tensor(folder, HEAD)
    if head is None and _is_tied(folder, trust_remote_code):
        head = _find_tensor(folder, EMBEDDINGS)
    if head is None:
        problem = (
            f"model must have its LM head, such as lm_head.weight, for what reads it (filter), got {folder} without one"
        )
        raise ModelError(f"{problem}; save the whole causal model, or leave filter out")
    return head


def _find_tensor(folder: Path, name: re.Pattern[str]) -> Tensor | None:
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - it is no mapping
                if name.search(key):
                    return tensors.get_tensor(key)  # type: ignore[no-any-return]
    return None


def _is_tied(folder: Path, trust_remote_code: bool) -> bool:
    with load_lock():
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    return bool(getattr(config.get_text_config(decoder=True), "tie_word_embeddings", False))


def filter_basis(folder: Path, trust_remote_code: bool = False, weights: str | None = None) -> NDArray[np.float32]:
    """Right singular vectors of the LM head as columns, the middle of the spectrum first: (D, D) orthonormal.

    Args:
        folder: of the checkpoint.
        trust_remote_code: as in ``Runtime``; only the checkpoint's config is read.
        weights: their identity where it is known, for it takes reading them all.

    Raises:
        ModelError: see ``read_head``.
    """
    weights = weights or weights_identity(folder)
    kept = _read_cached(weights)
    if kept is None:
        log.info("computing the filter's basis from the LM head in %s, once", folder)
        kept = middle_out(right_singular_vectors(read_head(folder, trust_remote_code)))
        with suppress(OSError):  # a cache that cannot be written, or is full, costs only the time
            content = save({"basis": kept}, metadata={_WEIGHTS: weights})
            write_whole(cache_folder("filter") / f"{weights}.safetensors", content)
    return kept


def _read_cached(weights: str) -> NDArray[np.float32] | None:
    """The basis that was kept for these weights; None: there is none, or the file is cut off or a foreign one."""
    try:
        with safe_open(cache_folder("filter") / f"{weights}.safetensors", framework="np") as file:
            basis: NDArray[np.float32] = file.get_tensor("basis")
            ours = (file.metadata() or {}).get(_WEIGHTS) == weights
    except (OSError, SafetensorError):
        return None
    square = basis.dtype == np.float32 and basis.ndim == 2 and basis.shape[0] == basis.shape[1]
    return basis if ours and square and np.allclose(np.linalg.norm(basis, axis=0), 1, atol=1e-4) else None


def right_singular_vectors(head: Tensor) -> NDArray[np.float64]:
    """V of head (V, D) = U Σ Vᵀ: (D, D), columns by falling singular value, the largest component of each positive.

    As the eigenvectors of WᵀW in float64: an SVD of 150,000 rows would need their U too.
    """
    gram = torch.zeros(head.shape[1], head.shape[1], dtype=torch.float64)
    for start in range(0, len(head), _ROWS):
        wide = head[start : start + _ROWS].double()
        gram += wide.T @ wide
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1).numpy()
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[largest, np.arange(len(vectors))])  # type: ignore[no-any-return]


def middle_out(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """The columns reordered so that for every k the first k are the k middle ones, those from (D-k)//2 on: (D, D)."""
    return np.ascontiguousarray(vectors[:, list(_middle_order(vectors.shape[1]))], dtype=np.float32)


def _middle_order(width: int) -> Iterator[int]:
    before = range(0)
    for kept in range(1, width + 1):
        start = (width - kept) // 2
        window = range(start, start + kept)
        yield window[0] if window[0] not in before else window[-1]
        before = window
