"""The command ``echo-server``: options → what is searched → an app that uvicorn runs until it is told to stop."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import uvicorn
from fastapi import FastAPI

import echo_core
from echo_core import ConfigError, EchoConfig, EchoError, Runtime
from echo_core.identity.checkpoint import CONFIG_FILE, load_config
from echo_core.identity.files import read_json
from echo_server.access import LOCAL, is_loopback
from echo_server.app import create_app, settle
from echo_server.limits import Limits
from echo_server.passages import ChromaPassages

T = TypeVar("T")
KEY = "ECHO_SERVER_API_KEY"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered before the end."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        uvicorn.run(
            _app(given),
            host=given.host,
            port=given.port,
            http="httptools",
            log_level="info",
            access_log=False,  # a path could hold what a client put there
            timeout_graceful_shutdown=given.grace,
        )
    except KeyboardInterrupt:
        sys.exit("\nStopped. What is indexed is kept; the same command goes on from there.")
    except (EchoError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def _app(given: argparse.Namespace) -> FastAPI:
    key = read_key(given.api_key_file)
    config, runtime = settle(_config(given)), Runtime(given.device, given.dtype, given.token_budget)
    hosts = allowed_hosts(given.host, given.allowed_host, key is not None or given.without_key)
    limits = Limits(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Limits)})
    passages = _aside(lambda: _prepare(given, config, runtime))
    return create_app(config, runtime, name=given.name, api_key=key, limits=limits, hosts=hosts, passages=passages)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("echo-server", description=__doc__)
    add = made.add_argument
    add("--model", help="a causal model: name on the Hub, folder, GGUF file, adapter; default: the embedded one")
    add("--base", help="of an adapter: its base model, where it is not to come from the Hub")
    add("--config", type=Path, metavar="FILE", help="JSON fields of an EchoConfig; --model and --base go before them")
    add("--name", help="under which clients know the model; default: the last part of its own name")
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine alone)")
    add("--port", type=_port, default=8080, help="(default: %(default)s)")
    add("--allowed-host", action="append", default=[], metavar="NAME", help="a further name of this server")
    add("--api-key-file", type=Path, metavar="FILE", help=f"holds the key; or set {KEY}")
    add("--without-key", action="store_true", help="serve other machines without a key")
    add("--grace", type=int, default=60, metavar="SECONDS", help="for requests under way at the end (%(default)s)")
    for name in ("device", "dtype"):
        add(f"--{name}", default=getattr(Runtime(), name), help="as in Runtime (default: %(default)s)")
    add("--token-budget", type=int, metavar="TOKENS", help="of a batch, as in Runtime; default: by the device")
    _add_search(made)
    _add_limits(made)
    return made


def _port(given: str) -> int:
    if not given.isdecimal() or int(given) > 65535:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535, got {given!r}")
    return int(given)


def _add_search(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("the search page (extra chroma)")
    what = group.add_mutually_exclusive_group()
    what.add_argument("--folder", type=Path, help="of .md and .txt files, which is indexed first; subfolders too")
    what.add_argument("--collection", metavar="NAME", help="that echo_chroma or an adapter made")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--index", type=Path, default=Path(".echo-index"), help="folder of vectors (%(default)s)")
    where.add_argument("--chroma", metavar="HOST:PORT", help="a Chroma server instead")


def _add_limits(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("limits (413 or 429 beyond)")
    for field in dataclasses.fields(Limits):
        option = f"--max-{field.name.replace('_', '-')}"
        group.add_argument(option, type=int, default=field.default, dest=field.name, metavar="N", help="(%(default)s)")


def read_key(file: Path | None) -> str | None:
    """The key, from a file or from the environment: not from the command line, which every user of a machine sees."""
    try:
        key = os.environ.get(KEY) if file is None else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} must hold a key in UTF-8, got other bytes; write the key alone into it") from error
    except OSError as error:
        raise ConfigError(f"--api-key-file must be a file that can be read, got {file}: {error.strerror}") from error
    if key is not None and not key.strip():
        raise ConfigError(f"{file or KEY} must hold a key, but is blank")
    if key is not None and not key.strip().isprintable():  # which no header can carry
        raise ConfigError(f"{file or KEY} must hold one line, the key, got several or invisible letters; leave one")
    return key and key.strip()


def allowed_hosts(host: str, further: Sequence[str], others_may: bool) -> tuple[str, ...] | None:
    """The names that requests may ask for; None: any, where another machine may ask and no name is given.

    Raises:
        ConfigError: other machines could ask without a key, and nobody said that they may.
    """
    if is_loopback(host):
        return (*LOCAL, host, *further)
    if not others_may:
        rule = f"host must be a loopback address where no key is set, got {host!r}"
        raise ConfigError(f"{rule}; set {KEY}, give --api-key-file, or say --without-key")
    return (*LOCAL, host, *further) if further else None


def _config(given: argparse.Namespace) -> EchoConfig | str | None:
    if given.config is not None:
        fields = read_json(given.config)
        named = {name: getattr(given, name) or fields.get(name) for name in ("model", "base")}
        return EchoConfig.from_dict({**fields, **named})
    model: str | None = given.model
    if given.base is not None:
        return EchoConfig(model, base=given.base)
    return load_config(Path(model)) if model and (Path(model) / CONFIG_FILE).is_file() else model


def _prepare(given: argparse.Namespace, config: EchoConfig, runtime: Runtime) -> ChromaPassages | None:
    passages = _passages(given, config, runtime)
    echo_core.shared_encoder(config, runtime)  # what is wrong with a model is said in one line here, not by uvicorn
    return passages


def _passages(given: argparse.Namespace, config: EchoConfig, runtime: Runtime) -> ChromaPassages | None:
    if given.folder is None and given.collection is None:
        if given.chroma is not None:
            raise ConfigError("--chroma must come with what is searched there; give --collection or --folder too")
        return None
    from echo_server.indexing import index_folder, known_collection, open_store

    client = open_store(given.index, given.chroma)
    if given.folder is not None:
        return index_folder(client, given.folder, config, runtime)
    return known_collection(client, given.collection, config, runtime)


def _aside(work: Callable[[], T]) -> T:
    """What the work gives, done in a thread of its own.

    Ctrl-C ends the wait at once, and the main thread never gets a team of OpenMP threads, which the requests' batches
    would have to share the cores with.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # raised where the result is waited for
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()
