"""A folder of texts → passages with the metadata that says where each of them stands."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PASSAGE = 1000  # characters: a passage is whole paragraphs up to this length
SUFFIXES = (".md", ".txt")

log = logging.getLogger("echo_chroma")


def _log_left_out(name: Path, reason: str) -> None:
    log.warning("left out %s: %s", name, reason)


def read_folder(
    folder: Path, left_out: Callable[[Path, str], None] = _log_left_out
) -> tuple[list[str], list[dict[str, Any]]]:
    """The N passages of every .md and .txt file below a folder, and the metadata of each: source, title and position.

    Files and folders whose name begins with a dot are not read.

    Args:
        folder: where to look.
        left_out: hears of each file that cannot be read, and why.
    """
    texts: list[str] = []
    sources: list[dict[str, Any]] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        try:
            str(name).encode()  # a name of other bytes is a string that no store takes
            text = path.read_text(encoding="utf-8-sig")
        except (UnicodeError, OSError) as error:
            left_out(name, _reason(error))
            continue
        for position, passage in enumerate(split_passages(text)):
            texts.append(passage)
            sources.append({"source": name.as_posix(), "title": title_of(text) or path.stem, "position": position})
    return texts, sources


def _reason(error: UnicodeError | OSError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return (
        "it is not UTF-8 text; convert it"
        if isinstance(error, UnicodeDecodeError)
        else "its name is not UTF-8; rename it"
    )


def title_of(text: str) -> str | None:
    """The first heading of a Markdown text."""
    heading = re.search(r"^#+ +(.+)", text, re.MULTILINE)
    return heading[1].strip() if heading else None


def split_passages(text: str, length: int = PASSAGE) -> Iterator[str]:
    """Whole paragraphs, as many as fit into ``length`` characters; a longer paragraph is cut between words."""
    passage = ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        for piece in re.findall(rf"(?s).{{1,{length}}}(?!\S)|.{{{length}}}", paragraph):
            if passage and len(passage) + len(piece) + 2 > length:
                yield passage
                passage = ""
            passage = f"{passage}\n\n{piece.strip()}".strip()
    if passage:
        yield passage
