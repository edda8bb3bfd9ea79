"""A folder of the user's, indexed into Chroma for the search page; needs the extra chroma."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from pathlib import Path

import chromadb
from chromadb.api import ClientAPI
from chromadb.config import Settings

from echo_chroma import open_client, open_collection, sync_documents
from echo_chroma.folder import read_folder
from echo_core import ConfigError, EchoConfig, Runtime, StoreError
from echo_server.passages import ChromaPassages

log = logging.getLogger("echo_server")


def open_store(index: Path, server: str | None) -> ClientAPI:
    """The store in a folder, or a Chroma server named HOST:PORT.

    Raises:
        ConfigError: ``server`` is of another form.
        StoreError: it does not answer.
    """
    if server is None:
        index.mkdir(parents=True, exist_ok=True)
        return open_client(index)
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--chroma must be HOST:PORT, got {server!r}")
    try:
        return chromadb.HttpClient(host, int(port), settings=Settings(anonymized_telemetry=False))
    except ValueError as error:  # Chroma's word for nobody answers
        raise StoreError(f"--chroma must be a Chroma server that answers, got {server} ({error}); start it") from error


def index_folder(client: ClientAPI, folder: Path, config: EchoConfig, runtime: Runtime) -> ChromaPassages:
    """The passages of a folder's .md and .txt files; what was indexed before is not embedded again.

    Raises:
        ConfigError: there is no such folder, or nothing in it to read.
    """
    path = folder.expanduser().resolve()
    if not path.is_dir():
        raise ConfigError(f"--folder must be a folder, got {folder}, which is none")
    texts, sources = read_folder(path)
    if not texts:
        raise ConfigError(f"--folder must hold .md or .txt files with text in them, got {folder}, which has none")
    started = time.perf_counter()
    collection = open_collection(client, collection_name(path), config, runtime)
    done = sync_documents(collection, texts, sources)
    counts = f"{done.added} embedded, {done.unchanged} there already, {done.deleted} outdated removed"
    log.info("%s: %d passages (%s) in %.1f s", folder, len(texts), counts, time.perf_counter() - started)
    return ChromaPassages(collection, path.name)


def known_collection(client: ClientAPI, name: str, config: EchoConfig, runtime: Runtime) -> ChromaPassages:
    """The records of a collection that is there already.

    Raises:
        ConfigError: there is none of this name.
        EmbeddingSpaceMismatch: it holds vectors of another model or other options.
    """
    names = sorted(each.name for each in client.list_collections())
    if name not in names:
        raise ConfigError(f"--collection must be one of {', '.join(names) or 'none: the store is empty'}, got {name!r}")
    return ChromaPassages(open_collection(client, name, config, runtime), name)


def collection_name(folder: Path) -> str:
    """A name of its own for each folder, so that several can share an index."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", folder.name).strip("-")[:40] or "folder"
    return f"{readable}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
