"""Calls to a Chroma store: how much one may hold, what a failed one raises, and two processes that make one at once.

LangChain's and LlamaIndex's stores use this too.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import chromadb
import httpx
from chromadb.api import BaseAPI, ClientAPI
from chromadb.api.models.Collection import Collection
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.errors import ChromaError, InternalError, RateLimitError

import echo_chroma.inherited  # noqa: F401  parts the clients of a forked child from its parent's
from echo_core.errors import StoreError
from echo_core.process.forks import process_lock

IDS = 10_000  # asked for in one call; SQLite, below a local Chroma, takes some 32,700
CALL_BYTES = 32 << 20  # a server takes 40 MiB in one call (chromadb 1.5.9, measured), and does not tell
_TOO_LARGE = re.compile(r"(?i)too large|length limit|\b413\b")  # Chroma's words, and those of proxies
_WAITS = (0.1, 0.4, 1.6)  # seconds; migrations of a new store take about 0.1
_IN_THE_MAKING = re.compile("already exists|database is locked")  # by another process: Chroma's words, and SQLite's
_FAILURES = (httpx.HTTPError, InternalError, RateLimitError)

T = TypeVar("T")
_found: dict[tuple[str, str], Path] = {}  # by the name that a client has for its folder, and by a collection in it


def record_bytes(id: str, text: str | None, metadata: Mapping[str, Any] | None, dimension: int) -> int:
    """How many bytes a record with a vector of ``dimension`` numbers takes in a call, as JSON, the vector in base64."""
    columns = json.dumps([id, text, metadata], ensure_ascii=False, default=vars)
    return len(columns.encode("utf-8", "surrogatepass")) + 16 * dimension // 3


def store_in_parts(
    client: BaseAPI,
    sizes: Sequence[int],
    store: Callable[[slice], object],
    name: Callable[[int], str] = "text {}".format,
) -> None:
    """Call ``store`` with consecutive slices of records, each of which the store takes in one call.

    Args:
        client: any client of Chroma, which knows how many records a call may hold.
        sizes: bytes of each record, from ``record_bytes``.
        store: stores the records of a slice. A slice that is refused as too large is halved.
        name: the place of a record among ``sizes`` in the caller's words, for a message.

    Raises:
        StoreError: one record alone is too large.
    """
    waiting = [*_parts(client.get_max_batch_size(), sizes)][::-1]
    while waiting:
        part = waiting.pop()
        try:
            store(part)
        except Exception as error:
            if not _is_too_large(error):
                raise
            middle = (part.start + part.stop) // 2
            if middle == part.start:
                size = f"{name(part.start)} takes {sizes[part.start] / 2**20:.1f} MiB with its metadata and vector"
                raise StoreError(f"{size}, more than the store takes at once ({error}); split it") from error
            waiting += [slice(middle, part.stop), slice(part.start, middle)]


def _is_too_large(error: Exception) -> bool:
    answered = type(error) is Exception or isinstance(error, ChromaError)  # no error of ours, or of an argument
    return answered and _TOO_LARGE.search(str(error)) is not None


def _parts(count: int, sizes: Sequence[int]) -> Iterator[slice]:
    start = held = 0
    for number, size in enumerate(sizes):
        if number > start and (number - start == count or held + size > CALL_BYTES):
            yield slice(start, number)
            start, held = number, 0
        held += size
    if sizes:
        yield slice(start, len(sizes))


def stored_under(collection: Collection, ids: Iterable[str], include: Sequence[str] = ()) -> dict[str, list[Any]]:
    """What a collection holds under ids, each given once, by as many calls as it takes.

    Args:
        collection: any.
        ids: any number.
        include: as of ``collection.get``.

    Returns:
        A list under "ids" and under each of ``include``, all in the same order.
    """
    asked = list(ids)
    found: dict[str, list[Any]] = {key: [] for key in ("ids", *include)}
    for start in range(0, len(asked), IDS):
        page = collection.get(ids=asked[start : start + IDS], include=[*include])
        for key, column in found.items():
            column.extend(page[key])
    return found


@contextmanager
def reaching(collection: str, stored: str) -> Iterator[None]:
    """A context in which a store that is gone, or fails, raises StoreError.

    Args:
        collection: its name.
        stored: what is stored by now, for the message.

    Raises:
        StoreError: in place of the transport's or the store's own error, which it is raised from.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_the_store(error):
            raise
        cause = f"{type(error).__name__}: {error}"
        way_out = f"{stored}; run the same again when the store answers: it goes on from there"
        raise StoreError(f"the store of Chroma collection {collection!r} failed ({cause}); {way_out}") from error


def _is_of_the_store(error: Exception) -> bool:
    if type(error) is ValueError:  # of a client that is made while no server answers
        return isinstance(error.__context__, httpx.HTTPError)
    return isinstance(error, _FAILURES) or type(error) is Exception  # a plain one: an answer not of Chroma's


def open_client(folder: str | os.PathLike[str]) -> ClientAPI:
    """A client of the store in a folder, which is made if there is none, by several processes at once if need be."""
    path = os.path.abspath(os.path.expanduser(folder))
    return open_store(path, lambda: chromadb.PersistentClient(path))


def open_store(folder: str, make: Callable[[], T], waits: Sequence[float] = _WAITS) -> T:
    """What ``make`` gives, which opens a store in a folder; called again while another process makes the same one.

    Args:
        folder: as ``make`` names it to Chroma.
        make: makes the client, or what holds one.
        waits: seconds before each further try.

    Raises:
        StoreError: the process that forked this one has opened the store.
        InternalError: from Chroma, if that takes longer, or if it is about something else.
    """
    with process_lock("chroma stores"):  # Chroma hands one thread the client that another is still making
        try:
            return make()
        except ValueError as error:
            if isinstance(error.__context__, StoreError):  # in a forked child; Chroma says that a tenant is missing
                raise error.__context__ from None
            raise
        except InternalError as error:
            SharedSystemClient._identifier_to_system.pop(folder, None)  # half made, and given out again otherwise
            if not waits or not _IN_THE_MAKING.search(str(error)):
                raise
        time.sleep(waits[0])
        return open_store(folder, make, waits[1:])


def store_folder(collection: Collection) -> Path | None:
    """The folder that holds the store of a collection, absolute; None: there is none here, or it cannot be told.

    Chroma keeps a relative name as it was given, which means another folder once the process has changed its own. So a
    folder is taken only if it holds the collection, and remembered.
    """
    settings = collection._client.get_settings()
    if not settings.is_persistent or "fastapi" in settings.chroma_api_impl.lower():
        return None
    folder = Path(settings.persist_directory)
    key = str(folder), str(collection.id)
    if key not in _found and (folder.is_absolute() or _holds(folder, key[1])):
        _found[key] = folder.absolute()
    return _found.get(key)


def _holds(folder: Path, id: str) -> bool:
    file = (folder / "chroma.sqlite3").absolute()
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as store:
            return store.execute("SELECT 1 FROM collections WHERE id = ?", [id]).fetchone() is not None
    except sqlite3.Error:
        return False
