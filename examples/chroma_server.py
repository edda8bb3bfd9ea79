"""A Chroma server holds the vectors; one process indexes, another asks by plain text and never names a model.

    python examples/chroma_server.py                   # starts a server on this machine for the length of the example
    python examples/chroma_server.py --server HOST:PORT  # uses one that runs already

Chroma stores the embedding function's config beside the vectors and rebuilds the function from it: a process that has
imported echo_chroma opens the collection and queries it with the right model and the query template.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import chromadb
from chromadb.config import Settings

from echo_chroma import add_documents, open_collection

DOCUMENTS = Path(__file__).resolve().parent / "data" / "documents"
COLLECTION = "echo-server-example"
QUESTION = "Why does the beach disappear under the waves twice every day?"
START_SECONDS = 60  # a server that has not answered by then will not


def main() -> None:
    """Index here, ask in another process, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="HOST:PORT", help="a running Chroma server; default: one is started")
    parser.add_argument("--ask", metavar="QUESTION", help=argparse.SUPPRESS)  # what the second process is called with
    options = parser.parse_args()
    if options.ask:
        return ask(connect(options.server), options.ask)
    with contextlib.nullcontext(options.server) if options.server else running_server() as server:
        client = connect(server)
        try:
            index(client)
            command = [sys.executable, __file__, "--server", server, "--ask", QUESTION]
            subprocess.run(command, check=True, timeout=300)
        finally:
            client.delete_collection(COLLECTION)


def index(client: chromadb.ClientAPI) -> None:
    """Send the documents' vectors to the server."""
    paths = sorted(DOCUMENTS.glob("*.md"))
    collection = open_collection(client, COLLECTION)
    add_documents(
        collection, [path.read_text(encoding="utf-8") for path in paths], [{"source": path.name} for path in paths]
    )
    print(f"Process {os.getpid()} indexed {collection.count()} documents.", flush=True)


def ask(client: chromadb.ClientAPI, question: str) -> None:
    """Query by text, with the function that the server's config describes."""
    collection = client.get_collection(COLLECTION)  # no model, no embedding function: both come from the server
    found = collection.query(query_texts=[question], n_results=3)
    function = collection.configuration["embedding_function"]
    print(f"Process {os.getpid()} rebuilt {type(function).__name__} from the stored config and asks: {question}")
    for metadata, distance in zip(found["metadatas"][0], found["distances"][0], strict=True):
        print(f"  {1 - distance:.3f}  {metadata['source']}")


def connect(server: str) -> chromadb.ClientAPI:
    """A client of HOST:PORT."""
    host, port = server.rsplit(":", 1)
    return chromadb.HttpClient(host, int(port), settings=Settings(anonymized_telemetry=False))


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """HOST:PORT of a Chroma server on a free port of this machine, with a folder that is removed afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")  # comes with the chromadb package
    quiet = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "run", "--path", folder, "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quiet)
        try:
            wait_until_open(port, process)
            print(f"A Chroma server runs on 127.0.0.1:{port}.", flush=True)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def wait_until_open(port: int, process: subprocess.Popen) -> None:
    """Return when the port takes connections.

    Raises:
        SystemExit: the server ended, or START_SECONDS are over.
    """
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    sys.exit(f"error: the Chroma server did not open port {port}; try it by hand: chroma run --port {port}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
