"""Index a folder of documents into Chroma through echo embeddings, and ask it questions.

    python examples/chroma_quickstart.py                                   # 72 sample documents, sample questions
    python examples/chroma_quickstart.py --ask "Why is my dough so flat?"  # a question of yours
    python examples/chroma_quickstart.py ~/notes --ask "…" --ask "…"       # a folder of yours (.md and .txt, with its subfolders)

Runs offline with the embedded default model; --model takes any causal model, by name or folder. The index is kept: the second run embeds only
what is new, and a run that was stopped goes on where it was.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import chromadb
from chromadb.config import Settings

from echo_chroma import add_documents, document_id, open_collection
from echo_core import EchoConfig, EchoError, EmbeddingSpaceMismatch
from echo_core.identity.checkpoint import CONFIG_FILE, DEFAULT_MODEL, load_config

DATA = Path(__file__).resolve().parent / "data"
SHOWN = (0, 4, 12, 20, 28, 36)  # of the sample questions
PASSAGE = 1000  # characters: a passage is whole paragraphs up to so many
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def main() -> None:
    """Read, index, ask, print."""
    options = parse_options()
    config = choose_model(options.model)
    passages = list(read_passages(options.folder))
    if not passages:
        raise EchoError(f"{options.folder} holds no .md or .txt file with text in it")

    options.index.mkdir(parents=True, exist_ok=True)
    client = chromadb.PersistentClient(options.index, Settings(anonymized_telemetry=False))
    collection = open_collection(client, collection_name(options.folder), config)
    print_index(options, index(collection, passages))

    if options.ask:
        ask(collection, options.ask, options.top)
    elif options.folder == DATA / "documents":
        ask_samples(collection, options.top)
    else:
        print('\nAsk it something: --ask "your question"')


# ---- the three steps: read, index, ask -------------------------------------------------------------------------------------------------


def read_passages(folder: Path) -> Iterator[dict]:
    """The passages of every .md and .txt file below the folder, with title, file and place; unreadable files are named and left out."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".md", ".txt")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (UnicodeDecodeError, OSError) as error:
            reason = "it is not UTF-8 text; convert it" if isinstance(error, UnicodeDecodeError) else error.strerror
            print(f"Left out {name}: {reason}", file=sys.stderr)
            continue
        heading = re.search(r"^#+ +(.+)", text, re.MULTILINE)
        for position, passage in enumerate(split_passages(text)):
            yield {
                "text": passage,
                "source": name.as_posix(),
                "title": heading[1].strip() if heading else path.stem,
                "position": position,
            }


def index(collection: chromadb.Collection, passages: list[dict]) -> tuple[int, int, int, float]:
    """Passages that were new, there already, and no longer in the folder, and the seconds it took; the collection then mirrors the folder."""
    start = time.perf_counter()
    keep = {document_id(passage["text"], passage["source"]) for passage in passages}
    stale = [id for id in collection.get(include=[])["ids"] if id not in keep]
    for first in range(0, len(stale), 1000):
        collection.delete(stale[first : first + 1000])
    metadatas = [{key: passage[key] for key in ("source", "title", "position")} for passage in passages]
    done = add_documents(collection, [passage["text"] for passage in passages], metadatas)
    return done.added, done.skipped, len(stale), time.perf_counter() - start


def ask(collection: chromadb.Collection, questions: list[str], top: int, answers: list[str] | None = None) -> None:
    """Print the best passages for each question, the first with its text; ``answers`` are the files known to be right."""
    found = collection.query(query_texts=questions, n_results=top)
    for row, question in enumerate(questions):
        print("\n" + paint(question, "1"))
        for rank, (metadata, distance) in enumerate(zip(found["metadatas"][row], found["distances"][row], strict=True)):
            print_hit(metadata, 1 - distance, bool(answers) and metadata["source"] == answers[row])
            if rank == 0:
                print_text(found["documents"][row][rank])


def ask_samples(collection: chromadb.Collection, top: int) -> None:
    """Some sample questions with their answers, and how often the right document came first over all of them."""
    samples = [json.loads(line) for line in (DATA / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = [samples[i] for i in SHOWN]
    print(f"\n{len(SHOWN)} sample questions; {paint('✓', '32')} marks the document that is known to answer.")
    ask(collection, [sample["question"] for sample in shown], top, [sample["document"] for sample in shown])

    found = collection.query(query_texts=[sample["question"] for sample in samples], n_results=3, include=["metadatas"])
    ranks = [[metadata["source"] for metadata in row] for row in found["metadatas"]]
    first = sum(row[0] == sample["document"] for row, sample in zip(ranks, samples, strict=True))
    among = sum(sample["document"] in row for row, sample in zip(ranks, samples, strict=True))
    print(
        f"\nOf all {len(samples)} sample questions, the right document (of {collection.count()}) came first for {first}, among three for {among}."
    )


# ---- reading -----------------------------------------------------------------------------------------------------------------------------


def split_passages(text: str) -> Iterator[str]:
    """Whole paragraphs, as many as fit into PASSAGE characters; a longer paragraph is cut between words."""
    passage = ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        for piece in re.findall(rf"(?s).{{1,{PASSAGE}}}(?!\S)|.{{{PASSAGE}}}", paragraph):
            if passage and len(passage) + len(piece) + 2 > PASSAGE:
                yield passage
                passage = ""
            passage = f"{passage}\n\n{piece.strip()}".strip()
    if passage:
        yield passage


def choose_model(model: str | None) -> EchoConfig:
    """The options of the model: those it was saved with, if EchoEncoder.save wrote it, else the defaults."""
    if model is None and not (DEFAULT_MODEL / "config.json").is_file():
        raise EchoError(
            "this copy of the package has no embedded default model; name one: --model FOLDER_OR_NAME, any causal language model"
        )
    saved = model is not None and (Path(model) / CONFIG_FILE).is_file()
    return load_config(Path(model)) if saved else EchoConfig(model)


def collection_name(folder: Path) -> str:
    """A name of its own for each folder, so that several can share an index."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", folder.name).strip("-")[:40] or "folder"
    return f"{readable}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


# ---- printing ----------------------------------------------------------------------------------------------------------------------------


def paint(text: str, code: str) -> str:
    """The text in a colour, in a terminal."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def print_index(options: argparse.Namespace, done: tuple[int, int, int, float]) -> None:
    """What was indexed, by which model, and where."""
    added, skipped, removed, seconds = done
    parts = [f"{added} embedded in {seconds:.1f} s (loading the model included)" if added else "none new"]
    parts += [f"{skipped} there already"] if skipped else []
    parts += [f"{removed} outdated removed"] if removed else []
    folder = min(os.path.relpath(options.folder), str(options.folder), key=len)
    print(f"{paint(folder, '1')} → {options.index}, by {options.model or 'the embedded default model'}")
    print(f"Passages: {', '.join(parts)}.")


def print_hit(metadata: dict, score: float, right: bool) -> None:
    """Score, title and file on one line; a check mark if it is known to be right."""
    title = textwrap.shorten(metadata["title"], 46, placeholder=" …")
    print(
        f" {paint('✓', '32') if right else ' '} {score:.3f}  {paint(f'{title:<46}', '36')}  {paint(metadata['source'], '2')}"
    )


def print_text(text: str) -> None:
    """The beginning of a passage, its heading left out, on at most two lines."""
    body = " ".join(re.sub(r"^#+ .*", "", text, count=1).split())
    width = min(shutil.get_terminal_size((100, 20)).columns, 110)
    print(textwrap.indent(textwrap.fill(body, width - 10, max_lines=2, placeholder=" …"), " " * 10))


def parse_options() -> argparse.Namespace:
    """The command line, with the folder checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=DATA / "documents",
        metavar="PATH",
        help="folder with .md and .txt files",
    )
    parser.add_argument("--ask", action="append", metavar="QUESTION", help="can be given several times")
    parser.add_argument(
        "--model", metavar="NAME_OR_FOLDER", help="any causal language model; default: the embedded one"
    )
    parser.add_argument(
        "--index",
        type=Path,
        default=Path(".demo"),
        metavar="FOLDER",
        help="where the vectors are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--top", type=int, default=3, metavar="K", help="passages shown for a question (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.top < 1:
        parser.error(f"--top must be at least 1, got {options.top}")
    options.folder = options.folder.expanduser().resolve()
    if not options.folder.is_dir():
        parser.error(
            f"PATH must be a folder, got {options.folder}, which is {'a file' if options.folder.exists() else 'not there'}"
        )
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
