"""The words of a collection's documents, kept equal to it: BM25 in memory, key tokens on the disk beside the store.

An entry of the key tokens is named by what its text hashes to and by its record's id: what differs from the collection
is what has to be done, after a kill as after an update.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chromadb.api.models.Collection import Collection

from echo_chroma.function import EchoEmbeddingFunction
from echo_chroma.run import PAGE
from echo_chroma.store import reaching, store_folder
from echo_core.config import EchoConfig
from echo_core.errors import EmbeddingSpaceMismatch, StoreError
from echo_core.identity.files import cache_folder
from echo_core.methods.sparse_options import SparseOptions
from echo_core.process.forks import ForkSafe, process_lock
from echo_core.search.bm25 import BM25Index
from echo_core.search.hybrid import Scores, best
from echo_core.search.key_token_index import KeyTokenIndex

SAVED_EVERY = 4096  # texts whose key tokens a kill can cost
SETTLED = 2.0  # seconds; a file system's clock may give one time to two writes that are nearer than this

Strings = Mapping[str, str]
log = logging.getLogger("echo_chroma")

_known: dict[tuple[str, str, EchoConfig, bool, SparseOptions | None], CollectionWords] = {}


@dataclass(frozen=True)
class Worded:
    """One ranking's scores (Q, N) of N documents, whose ids stand at these places."""

    ids: tuple[str, ...]
    places: Mapping[str, int]
    scores: Scores

    def best(self, query: int, count: int, allowed: Container[str] | None) -> list[str]:
        """The ids of the best documents for a query, those that share a word with it, of all or of the allowed ones."""
        line = self.scores[query]
        if allowed is None:
            return [self.ids[place] for place in best(line, count)]
        mask = np.fromiter((id in allowed for id in self.ids), dtype=bool, count=len(self.ids))
        return [self.ids[place] for place in best(line, count, mask)]

    def of(self, query: int, ids: Sequence[str]) -> list[float]:
        """The scores of documents; 0 for one that says nothing."""
        return [float(self.scores[query, self.places[id]]) if id in self.places else 0.0 for id in ids]


class CollectionWords(ForkSafe):
    """BM25 and key tokens of a collection's documents. Threads share it; one brings it up to date, the others wait."""

    def __init__(self, bm25: bool, options: SparseOptions | None) -> None:
        """Nothing is read yet.

        Args:
            bm25: whether words as they are written are wanted.
            options: of the key tokens; None: none are wanted.
        """
        self._wants_bm25, self._options = bm25, options
        self._lock = threading.RLock()
        self._forget()
        super().__init__()

    def renew(self) -> None:
        """Start anew in a forked child if another thread was changing the words; else they serve there as they are."""
        unchanging = self._lock.acquire(blocking=False)
        self._lock = threading.RLock()
        if not unchanging:
            self._forget()

    def _forget(self) -> None:
        self._stamp: object = None
        self._names: set[str] | None = None
        self._bm25: BM25Index | None = None
        self._tokens: KeyTokenIndex | None = None
        self._ids: dict[str, tuple[str, ...]] = {}
        self._places: dict[str, dict[str, int]] = {}

    def refresh(self, collection: Collection, function: EchoEmbeddingFunction) -> None:
        """Return when the words are those of the collection.

        A store in a folder tells by its files that nothing was written since the last look; any other is read whole.

        Args:
            collection: the caller's, always the same one in the store.
            function: makes the key tokens of new texts.

        Raises:
            StoreError: the store does not answer.
        """
        with self._lock:
            stamp = store_stamp(collection)
            if stamp is not None and stamp == self._stamp:
                return
            texts = read_texts(collection)
            names = {_name(id, text): id for id, text in texts.items()}
            if names.keys() != self._names:
                self._names = None  # if the update fails half-way, the next look makes it whole
                try:
                    self._update(collection, function, names, texts)
                finally:
                    self._number()
                self._names = {*names}
            self._stamp = stamp

    def _update(self, collection: Collection, function: EchoEmbeddingFunction, names: Strings, texts: Strings) -> None:
        if self._options is not None:
            if self._tokens is None:
                self._tokens = _opened(collection, function, self._options)
            _update_tokens(self._tokens, names, texts, index_path(collection), function, self._options)
        if self._wants_bm25:
            self._bm25 = BM25Index([*texts], [*texts.values()])

    @property
    def is_ready(self) -> bool:
        """True once they have been read."""
        return self._names is not None

    def scores(self, queries: list[str], rows: Any) -> dict[str, Worded]:
        """The wanted rankings' scores of Q queries.

        Args:
            queries: for BM25.
            rows: their sparse vectors (Q, V), for the key tokens; else None.
        """
        with self._lock:
            found: dict[str, Scores] = {} if self._bm25 is None else {"bm25": self._bm25.scores(queries)}
            if self._tokens is not None:
                found["key_tokens"] = self._tokens.scores(rows)
            return {part: Worded(self._ids[part], self._places[part], scores) for part, scores in found.items()}

    def _number(self) -> None:
        """Note which document is where in each ranking's scores."""
        tokens = () if self._tokens is None else tuple(name.partition(" ")[2] for name in self._tokens.ids)
        self._ids = {"bm25": () if self._bm25 is None else self._bm25.ids, "key_tokens": tokens}
        self._places = {part: {id: place for place, id in enumerate(ids)} for part, ids in self._ids.items()}


def _update_tokens(
    index: KeyTokenIndex,
    names: Strings,
    texts: Strings,
    path: Path | None,
    function: EchoEmbeddingFunction,
    options: SparseOptions,
) -> None:
    index.remove([name for name in index.ids if name not in names])
    new = [name for name in names if name not in index]
    log.info("key tokens of %d documents are to be made", len(new))
    for start in range(0, len(new), SAVED_EVERY):
        part = new[start : start + SAVED_EVERY]
        index.add(part, function.encoder.encode_sparse_documents([texts[names[n]] for n in part], options))
        _save(index, path)
    if not new:
        _save(index, path)


def _opened(collection: Collection, function: EchoEmbeddingFunction, options: SparseOptions) -> KeyTokenIndex:
    """The index that was kept, or a new one where there is none, or in doubt."""
    path, space = index_path(collection), function.encoder.sparse_space(options)
    try:
        return KeyTokenIndex(space) if path is None else KeyTokenIndex.load(path, space)
    except (EmbeddingSpaceMismatch, StoreError) as error:
        if path is not None and path.exists():
            log.info("key tokens are made anew: %s", error)
        return KeyTokenIndex(space)


def words_of(
    collection: Collection, function: EchoEmbeddingFunction, bm25: bool, options: SparseOptions | None
) -> CollectionWords:
    """The process-wide words of a collection, as a function's model reads them."""
    key = (str(collection.id), str(index_path(collection)), function.config, bm25, options)
    with process_lock("collection words"):
        if key not in _known:
            _known[key] = CollectionWords(bm25, options)
        return _known[key]


def read_texts(collection: Collection) -> dict[str, str]:
    """Every document that says something, by its id."""
    texts: dict[str, str] = {}
    read = 0
    with reaching(collection.name, "nothing was changed"):
        while ids := (page := collection.get(limit=PAGE, offset=read, include=["documents"]))["ids"]:
            texts.update((id, text) for id, text in zip(ids, page["documents"] or [], strict=True) if _says(text))
            read += len(ids)
    return texts


def store_stamp(collection: Collection) -> object:
    """What changes with every write to a store in a folder of this machine; None: it cannot be told, or not yet."""
    folder = store_folder(collection)
    if folder is None:
        return None
    states = [(path.name, path.stat()) for path in sorted(folder.glob("chroma.sqlite3*"))]
    newest = max((state.st_mtime for _, state in states), default=time.time())
    if time.time() - newest < SETTLED:
        return None
    return tuple((name, state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states)


def index_path(collection: Collection) -> Path | None:
    """The file of key tokens: in the store's folder, or for a server in the user's cache; None: they stay in memory."""
    settings, name = collection._client.get_settings(), f"{collection.id}.safetensors"
    folder = store_folder(collection)
    if folder is not None:
        return folder / "echo_words" / name
    if "fastapi" not in settings.chroma_api_impl.lower():
        return None
    try:
        return cache_folder("words") / name
    except OSError as error:
        log.info("key tokens stay in memory, as the cache cannot be written: %s", error)
        return None


def _save(index: KeyTokenIndex, path: Path | None) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        index.save(path)
    except OSError as error:
        log.warning("key tokens stay in memory, as they cannot be written: %s", error)


def _name(id: str, text: str) -> str:
    return f"{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()} {id}"


def _says(text: str | None) -> bool:
    return bool(text and text.strip())
