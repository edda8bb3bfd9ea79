"""What is compared: echo configurations, by name, and the yardsticks that always stand beside them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import bm25s
import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.quality.configurations import CONFIGURATIONS, FIRST, FIT, LATE
from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import filter_basis
from echo_core.methods.finish import finish
from echo_core.methods.fitting import mean_direction
from echo_core.text.sentences import first_sentence

CHUNK_WORDS = 80


class System(Protocol):
    """One line of the table."""

    def pair(self, left: Sequence[str], right: Sequence[str]) -> NDArray[np.floating]:
        """(N,) similarities of N pairs."""

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.floating]:
        """(Q, N) scores."""

    def features(self, train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
        """Vectors of training and test texts."""


class Words:
    """Words alone: BM25 (k1 1.2, b 0.75) for rankings, cosine of TF-IDF for pairs, TF-IDF as features."""

    def pair(self, left: Sequence[str], right: Sequence[str]) -> NDArray[np.floating]:
        """Cosines; document frequencies from the pairs themselves."""
        model = TfidfVectorizer(token_pattern=r"\w+").fit([*left, *right])
        return np.asarray(model.transform(left).multiply(model.transform(right)).sum(axis=1)).ravel()

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.floating]:
        """BM25 scores; stop words are left out (measured: nDCG@10 on Cranfield .378 without them, .360 with)."""
        retriever = bm25s.BM25(k1=1.2, b=0.75)
        retriever.index(bm25s.tokenize(list(documents), stopwords="en", show_progress=False), show_progress=False)
        asked = bm25s.tokenize(list(queries), stopwords="en", return_ids=False, show_progress=False)
        return np.stack([retriever.get_scores(words) if words else np.zeros(len(documents)) for words in asked])

    def features(self, train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
        """TF-IDF vectors, sparse."""
        model = TfidfVectorizer(token_pattern=r"\w+").fit(train)
        return model.transform(train), model.transform(test)


class Embedder:
    """Vectors and their cosines; ``queries`` and ``documents`` turn texts into unit vectors."""

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) unit vectors."""
        raise NotImplementedError

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) unit vectors."""
        raise NotImplementedError

    def pair(self, left: Sequence[str], right: Sequence[str]) -> NDArray[np.floating]:
        """Cosines."""
        vectors = self.documents([*left, *right])
        return np.einsum("nd,nd->n", vectors[: len(left)], vectors[len(left) :])

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.floating]:
        """Cosines of all with all."""
        return self.queries(queries) @ self.documents(documents).T

    def features(self, train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
        """The vectors."""
        return self.documents(train), self.documents(test)


class Trained(Embedder):
    """A trained sentence encoder, by name or folder."""

    def __init__(self, name: str) -> None:
        """Load it with sentence-transformers."""
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(name, device="cpu")

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) unit vectors."""
        return np.asarray(self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False))

    queries = documents


class Echo(Embedder):
    """One configuration of a model, finished from the states of a pass that other configurations may share."""

    def __init__(self, states: States, config: EchoConfig) -> None:
        """Take the states as they are pooled and the config that says what is done to them."""
        self._states, self._config = states, config
        self._basis = None if config.filter is None else filter_basis(find_checkpoint(config))

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) unit vectors, said with the query template."""
        return finish(self._states.of(texts, "query"), self._config, self._basis, "query")

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) unit vectors, said with the document template."""
        return finish(self._states.of(texts, "document"), self._config, self._basis)


class States:
    """Pooled states of one model and template, each list of texts encoded once."""

    def __init__(self, raw: EchoConfig, runtime: Runtime) -> None:
        """Load the model; ``raw`` has no centre, filter, dimension or unit length."""
        self.raw = raw
        self._encoder = EchoEncoder(raw, runtime)
        self._known: dict[tuple[str, tuple[str, ...]], NDArray[np.float32]] = {}

    def chunks(self, document: str, ranges: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """(C, D) states of a document's chunks, late."""
        return self._encoder.encode_chunks(document, ranges)

    def of(self, texts: Sequence[str], role: str) -> NDArray[np.float32]:
        """(N, D) states of texts."""
        key = (self._encoder.config.template(role), tuple(texts))
        if key not in self._known:
            encode = self._encoder.encode_queries if role == "query" else self._encoder.encode_documents
            self._known[key] = encode(list(texts))
        return self._known[key]


class Chunked(Echo):
    """A document scores as its best chunk does.

    ``late``: chunks are pooled out of one pass over the whole document, else said alone.
    """

    def __init__(self, states: States, config: EchoConfig, late: bool) -> None:
        """As ``Echo``."""
        super().__init__(states, config)
        self._late = late

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.floating]:
        """The best cosine with a chunk of each document."""
        ranges = [chunk_ranges(document) for document in documents]
        if self._late:
            pooled = np.concatenate(
                [self._states.chunks(document, parts) for document, parts in zip(documents, ranges, strict=True)]
            )
        else:
            pooled = self._states.of(
                [text[a:b] for text, parts in zip(documents, ranges, strict=True) for a, b in parts], "document"
            )
        scores = self.queries(queries) @ finish(pooled, self._config, self._basis).T
        starts = np.cumsum([0, *(len(parts) for parts in ranges[:-1])])
        return np.asarray(np.maximum.reduceat(scores, starts, axis=1))


def chunk_ranges(document: str) -> list[tuple[int, int]]:
    """Character ranges of chunks of about CHUNK_WORDS words, cut between words."""
    words = list(re.finditer(r"\S+", document))
    parts = [words[i : i + CHUNK_WORDS] for i in range(0, len(words), CHUNK_WORDS)]
    return [(part[0].start(), part[-1].end()) for part in parts]


class Laboratory:
    """Opens configurations by name and keeps the last pass.

    So those which differ in filter or centre only cost no other.
    """

    def __init__(self, runtime: Runtime) -> None:
        """Nothing is loaded yet."""
        self._runtime = runtime
        self._last: States | None = None

    def open(self, name: str, base: EchoConfig, sample: Sequence[str], asked: Sequence[str] | None = None) -> Echo:
        """The system of a named configuration; one with fitted mean directions sees both samples.

        Args:
            name: of CONFIGURATIONS.
            base: the model, and what the configuration leaves open.
            sample: unlabelled documents.
            asked: unlabelled queries; None: the documents.

        Raises:
            KeyError: no configuration has this name.
        """
        fields = dict(CONFIGURATIONS[name])
        chunks = fields.pop("chunks", None)
        fitted = {name: fields.pop(name) for name in ("centre", "query_centre") if fields.get(name) in (FIT, FIRST)}
        config = replace(base, **fields)
        raw = replace(config, centre=None, query_centre=None, filter=None, dimension=None, normalize=False)
        if self._last is None or self._last.raw != raw:
            self._last = States(raw, self._runtime)
        samples = {
            ("centre", FIT): (sample, "document"),
            ("query_centre", FIT): (sample if asked is None else asked, "query"),
            ("query_centre", FIRST): (list(map(first_sentence, sample)), "query"),
        }
        for field, how in fitted.items():
            texts, role = samples[field, how]
            config = replace(config, **{field: mean_direction(self._last.of(texts, role))})
        return Echo(self._last, config) if chunks is None else Chunked(self._last, config, late=chunks == LATE)


@contextmanager
def random_model(base: EchoConfig) -> Iterator[EchoConfig]:
    """The config of the same architecture with random weights, in a folder that is gone afterwards."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = find_checkpoint(base)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, local_files_only=True)).save_pretrained(
            folder
        )
        for path in source.iterdir():
            if re.match(r"tokenizer|vocab|merges|special_tokens", path.name):
                shutil.copyfile(path, Path(folder) / path.name)
        yield replace(base, model=folder, revision=None)
