"""Index a folder of documents into Chroma through echo embeddings, and ask it questions.

    python examples/chroma_quickstart.py                                   # 72 sample documents, sample questions
    python examples/chroma_quickstart.py --ask "Why is my dough so flat?"  # a question of yours
    python examples/chroma_quickstart.py ~/notes --ask "…" --ask "…"       # .md and .txt files of yours, subfolders too

It runs offline with the embedded default model; --model takes any causal model, by name, folder or GGUF file. The
index is kept and follows the folder: a further run embeds what is new or has changed, and removes what is gone. A run
that was stopped goes on where it was.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from chromadb import Collection

from echo_chroma import Synced, open_collection, sync_documents
from echo_chroma.folder import read_folder
from echo_core import EchoConfig, EchoError, EmbeddingSpaceMismatch
from echo_core.identity.checkpoint import CONFIG_FILE, DEFAULT_MODEL, load_config

DATA = Path(__file__).resolve().parent / "data"
SHOWN = (0, 4, 12, 20, 28, 36)  # of the sample questions


def main() -> None:
    """Read, index, ask, print."""
    options = parse_options()
    config = choose_model(options.model, options.base)
    texts, sources = read_folder(options.folder, say_left_out)
    if not texts:
        raise EchoError(f"{options.folder} holds no .md or .txt file with text in it")

    start = time.perf_counter()
    options.index.mkdir(parents=True, exist_ok=True)
    collection = open_collection(options.index, collection_name(options.folder), config)
    done = sync_documents(collection, texts, sources)
    folder = min(os.path.relpath(options.folder), str(options.folder), key=len)
    print(f"{folder} → {options.index}, by {options.model or 'the embedded default model'}")
    print(f"Passages: {describe(done, time.perf_counter() - start)}.")

    if options.ask:
        ask(collection, options.ask, options.top)
    elif options.folder == DATA / "documents":
        ask_samples(collection, options.top)
    else:
        print('\nAsk it something: --ask "your question"')


def say_left_out(name: Path, reason: str) -> None:
    """Name a file that cannot be read."""
    print(f"Left out {name}: {reason}", file=sys.stderr)


def choose_model(model: str | None, base: str | None = None) -> EchoConfig | str | None:
    """The model's name, or with the base of an adapter; the whole options if EchoEncoder.save wrote its folder."""
    if base is not None:
        return EchoConfig(model, base=base)
    if model is None and not (DEFAULT_MODEL / "config.json").is_file():
        what = "any causal language model, by name, folder or GGUF file"
        raise EchoError(f"this copy of the package has no embedded default model; name one: --model MODEL, {what}")
    return load_config(Path(model)) if model and (Path(model) / CONFIG_FILE).is_file() else model


def collection_name(folder: Path) -> str:
    """A name of its own for each folder, so that several can share an index."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", folder.name).strip("-")[:40] or "folder"
    return f"{readable}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def describe(done: Synced, seconds: float) -> str:
    """What a run did, in words; a passage with another title or place is one that moved."""
    counts = {"there already": done.unchanged, "moved": done.updated, "outdated removed": done.deleted}
    first = f"{done.added} embedded in {seconds:.1f} s (loading the model included)" if done.added else "none new"
    return ", ".join([first, *(f"{count} {name}" for name, count in counts.items() if count)])


def ask(collection: Collection, questions: Sequence[str], top: int, answers: Sequence[str] = ()) -> None:
    """Print the best passages for each question, the first with its text; ``answers`` are the files that are right."""
    found = collection.query(query_texts=list(questions), n_results=top)
    for row, question in enumerate(questions):
        print(f"\n{question}")
        for rank, (hit, distance) in enumerate(zip(found["metadatas"][row], found["distances"][row], strict=True)):
            mark = "✓" if answers and hit["source"] == answers[row] else " "
            title = textwrap.shorten(hit["title"], 46, placeholder=" …")
            print(f" {mark} {1 - distance:.3f}  {title:<46}  {hit['source']}")
            if rank == 0:
                text = re.sub(r"^#+ .*", "", found["documents"][row][rank], count=1)  # the title stands there already
                shown = textwrap.fill(" ".join(text.split()), 90, max_lines=2, placeholder=" …")
                print(textwrap.indent(shown, " " * 10))


def ask_samples(collection: Collection, top: int) -> None:
    """Some sample questions with their answers, and how often the right document came first over all of them."""
    samples = [json.loads(line) for line in (DATA / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    questions, answers = ([sample[key] for sample in samples] for key in ("question", "document"))
    print(f"\n{len(SHOWN)} sample questions; ✓ marks the document that is known to answer.")
    ask(collection, [questions[i] for i in SHOWN], top, [answers[i] for i in SHOWN])

    found = collection.query(query_texts=questions, n_results=3, include=["metadatas"])["metadatas"]
    right = [[hit["source"] == answer for hit in row] for row, answer in zip(found, answers, strict=True)]
    first, among = sum(row[0] for row in right), sum(map(any, right))
    print(f"\nOf all {len(samples)} sample questions, the right document (of {collection.count()}) ", end="")
    print(f"came first for {first}, among three for {among}.")


def parse_options() -> argparse.Namespace:
    """The command line, with the folder checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", nargs="?", type=Path, default=DATA / "documents", metavar="PATH", help="folder of .md and .txt files")
    add("--ask", action="append", metavar="QUESTION", help="can be given several times")
    add(
        "--model", help="any causal language model: a name on the Hub, a folder, a GGUF file; default: the embedded one"
    )
    parser.add_argument("--base", help="of an adapter, echo-smollm2 say: its base model, where it lies elsewhere")
    add("--index", type=Path, default=Path(".demo"), metavar="FOLDER", help="of the vectors (default: %(default)s)")
    add("--top", type=int, default=3, metavar="K", help="passages shown for a question (default: %(default)s)")
    options = parser.parse_args()
    options.folder = options.folder.expanduser().resolve()
    if options.top < 1:
        parser.error(f"--top must be at least 1, got {options.top}")
    if not options.folder.is_dir():
        what = "a file" if options.folder.exists() else "not there"
        parser.error(f"PATH must be a folder, got {options.folder}, which is {what}")
    if options.index.exists() and not options.index.is_dir():
        parser.error(f"--index must be a folder, got {options.index}, which is a file")
    return options


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. What is indexed is kept; the same command goes on from there.")
    except EmbeddingSpaceMismatch as error:
        sys.exit(f"error: {error}: another --index FOLDER, or this one removed")
    except (EchoError, OSError) as error:
        sys.exit(f"error: {error}")
