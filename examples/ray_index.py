"""Index a folder, or parquet files, into a Chroma server with Ray Data, and ask it questions.

    python examples/ray_index.py                                  # 72 sample documents, on this machine
    python examples/ray_index.py ~/notes --ask "Where is …?"      # .md and .txt files of yours
    python examples/ray_index.py "s3://bucket/texts/" --text body --server HOST:PORT   # on a cluster

It starts Ray, and a Chroma server for the length of the example, where it is not told of one; `ray start` (or
RAY_ADDRESS) and --server lead to those that run. A second run embeds nothing that is stored already.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import ray
from chroma_quickstart import SHOWN as QUESTIONS
from chroma_server import connect, running_server

from echo_chroma import open_collection
from echo_chroma.folder import read_folder
from echo_core import EchoConfig
from echo_core.identity.presets import preset_for
from echo_ray import embed_dataset, without_stored, write_chroma

HERE = Path(__file__).resolve().parent
DOCUMENTS = HERE / "data" / "documents"
SHOWN = 3  # passages for each question


def main() -> None:
    """Read, embed, write, ask."""
    options = parse_options()
    config = EchoConfig(options.model, base=options.base) if options.base else preset_for(options.model)
    with contextlib.nullcontext(options.server) if options.server else running_server() as server:
        host, port = server.rsplit(":", 1)
        settings = {"host": host, "port": int(port)}
        dataset = without_stored(read(options.source, options.text), settings, options.collection)
        embedded = embed_dataset(dataset, config, actors=options.actors, on_error="column")
        done = write_chroma(embedded, settings, options.collection, config)
        print(f"{done.written} passages written, {done.failed} could not be embedded.")
        ask(settings, options.collection, config, options.ask or sample_questions())


def read(source: str, text: str) -> ray.data.Dataset:
    """A dataset with a column "text": the passages of a folder of texts, or the rows of parquet files."""
    folder = Path(source).expanduser()
    if folder.is_dir() and not any(folder.rglob("*.parquet")):
        texts, sources = read_folder(folder)
        if not texts:
            sys.exit(f"error: {source} holds neither .parquet files nor .md or .txt files with text in them")
        return ray.data.from_arrow(pa.table({"text": texts, **columns_of(sources)}))
    dataset = ray.data.read_parquet(str(folder) if folder.exists() else source)
    return dataset if text == "text" else dataset.rename_columns({text: "text"})


def columns_of(rows: list[dict]) -> dict[str, list]:
    """Rows as columns."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


def ask(settings: dict, name: str, config: EchoConfig, questions: list[str]) -> None:
    """Print the best passages for each question."""
    collection = open_collection(connect(f"{settings['host']}:{settings['port']}"), name, config)
    found = collection.query(query_texts=questions, n_results=SHOWN)
    for question, metadatas, distances in zip(questions, found["metadatas"], found["distances"], strict=True):
        print(f"\n{question}")
        for metadata, distance in zip(metadatas, distances, strict=True):
            print(f"   {1 - distance:.3f}  {(metadata or {}).get('source', '')}")


def sample_questions() -> list[str]:
    """The questions that the demo shows."""
    lines = (HERE / "data" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(lines[i])["question"] for i in QUESTIONS]


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "source",
        nargs="?",
        default=str(DOCUMENTS),
        help="a folder of texts, or parquet files or a folder of them, as Ray reads them",
    )
    add("--text", default="text", metavar="COLUMN", help="of parquet files (default: %(default)s)")
    add("--server", metavar="HOST:PORT", help="a Chroma server that every node reaches; default: one is started")
    add("--collection", default="echo-ray-example", metavar="NAME", help="(default: %(default)s)")
    add("--model", help="a causal model that every node can reach; default: the embedded one")
    add("--base", help="of an adapter, echo-smollm2 say: its base model, where it lies elsewhere")
    add("--actors", type=int, help="default: by the cluster's GPUs or CPUs")
    add("--ask", action="append", metavar="QUESTION", help="can be given several times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
