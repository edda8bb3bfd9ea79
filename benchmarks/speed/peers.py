"""The same weights and the same echo prompt, run in the ways that a user would pick instead.

They are what our encoder is measured against.

All get the same dtype, device and threads, and texts no longer than ``MAX_TOKENS`` a saying where they know no windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

HEAD, MIDDLE = "Rewrite the following paragraph: ", ". The rewritten paragraph: "
Encode = Callable[..., np.ndarray]


def say_twice(text: str) -> str:
    """The echo prompt of the paper, filled in."""
    return f"{HEAD}{text}{MIDDLE}{text}"


def reference_recipe(folder: Path, dtype: torch.dtype, device: str) -> Encode:
    """The plain recipe of the paper's code: 32 rows in the given order, padded, with a mask.

    It takes the masked mean over the second saying.
    """
    model = AutoModel.from_pretrained(folder, dtype=dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors = []
        for start in range(0, len(texts), 32):
            part = texts[start : start + 32]
            batch = tokenizer(
                [say_twice(text) for text in part], padding=True, return_tensors="pt", return_offsets_mapping=True
            )
            begins = torch.tensor([len(HEAD) + len(text) + len(MIDDLE) for text in part])
            mask = (batch.pop("offset_mapping")[:, :, 1] > begins[:, None]) & batch["attention_mask"].bool()
            states = model(**batch.to(device)).last_hidden_state
            weights = mask.to(device, states.dtype)[:, :, None]
            pooled = (states * weights).sum(1) / weights.sum(1)
            vectors.append(torch.nn.functional.normalize(pooled.float(), dim=1).cpu())
        return torch.cat(vectors).numpy()

    return encode


def sentence_transformers(folder: Path, dtype: torch.dtype, device: str) -> Encode:
    """sentence-transformers' own encode with mean pooling, sorted as it does, in batches of ``batch_size`` rows.

    It cannot pool the second saying alone: it leaves out the prompt's head and pools the rest. Its work is that of
    echo, its vectors are not.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(folder), model_kwargs={"dtype": dtype})
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean", include_prompt=False)
    model = SentenceTransformer(modules=[body, pooling], device=device)

    def encode(texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        said = [say_twice(text)[len(HEAD) :] for text in texts]
        return model.encode(
            said, prompt=HEAD, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    return encode
