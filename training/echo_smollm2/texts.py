"""Stage 1: texts chosen from a corpus, none of them twice or nearly so, and none of the evaluation sets.

    python texts.py path/to/data texts.jsonl.gz --exclude evaluation/*.csv

A line of the result is a pair ({"query", "passage"}), a group of texts that mean the same ({"same"}), or a sentence.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from recipe import RECIPE, Recipe

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")


def data_folder(name: str) -> Path:
    """The folder itself, or a Hub dataset's files brought into the local cache."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, repo_type="dataset"))


def records(folder: Path, kind: str, pick: random.Random) -> list[dict[str, Any]]:
    """The JSON objects of a kind's files (`kind-000.jsonl.gz` and so on) in random order."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"{kind}[-.]*jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found.extend(map(json.loads, lines))
    pick.shuffle(found)
    return found


def sentences(text: str) -> list[str]:
    """A plain split at sentence ends."""
    return [part.strip() for part in _SENTENCE_END.split(" ".join(text.split())) if part.strip()]


def words(text: str) -> list[str]:
    """A text's words in lower case."""
    return re.findall(r"[a-z0-9]+", text.lower())


@dataclass
class Seen:
    """Runs of words that were seen: what makes a text a near duplicate."""

    recipe: Recipe
    runs: set[int] = field(default_factory=set)

    def add(self, text: str) -> None:
        """Remember a text's runs of words; of a short text the whole."""
        self.runs.update(self._runs(text))

    def has(self, text: str) -> bool:
        """True if too large a share of a text's runs of words was seen."""
        runs = self._runs(text)
        return sum(run in self.runs for run in runs) >= self.recipe.duplicate_share * len(runs)

    def takes(self, text: str) -> bool:
        """True if the text is new; it is remembered then."""
        if self.has(text):
            return False
        self.add(text)
        return True

    def _runs(self, text: str) -> list[int]:
        said, length = words(text), self.recipe.duplicate_words
        return [hash(tuple(said[i : i + length])) for i in range(max(1, len(said) - length + 1))]


def fields_of(path: Path) -> Iterator[str]:
    """Every text of an evaluation file: JSON lines' strings, else what tabs, or lines and quotes, part."""
    for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
        if path.suffix == ".jsonl":
            yield from (str(value) for value in json.loads(line).values())
        else:
            yield from (line.split("\t") if "\t" in line else [line, *re.split(r'",|,"', line)])


def excluded(paths: Iterable[Path], recipe: Recipe) -> Seen:
    """What stands in evaluation files, whole fields and their sentences."""
    seen = Seen(recipe)
    for path in paths:
        for text in fields_of(path):
            if len(words(text)) > 3:
                for part in {text, *sentences(text)}:
                    seen.add(part)
    return seen


def cut(text: str, pick: random.Random, recipe: Recipe) -> str:
    """The first sentences of a passage, up to a length that is drawn for it."""
    limit, kept = pick.randint(*recipe.passage_characters), ""
    for sentence in sentences(text):
        if kept and len(kept) + len(sentence) > limit:
            break
        kept = f"{kept} {sentence}".strip()
    return kept[: recipe.passage_characters[1]]


def pairs(folder: Path, pick: random.Random, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Questions, and so many headings of each source, with the passage that answers."""
    headings: Counter[str] = Counter()
    for record in records(folder, "pairs", pick):
        query, source = " ".join(record["query"].split()), record.get("source", "").split(":")[0]
        if not query.endswith("?"):
            headings[source] += 1
            most = next(most for start, most in recipe.headings_per_source if source.startswith(start))
            if headings[source] > most or len(words(query)) < 2:
                continue
        yield {"query": query, "passage": cut(record["passage"], pick, recipe)}


def clozes(folder: Path, pick: random.Random, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """A sentence taken out of a passage, and the rest."""
    for record in records(folder, "openstax", pick) + records(folder, "general", pick):
        parts = sentences(cut(record["text"], pick, recipe))
        if len(parts) >= 4:
            query = parts.pop(pick.randrange(len(parts)))
            if 5 <= len(words(query)) <= 30:
                yield {"query": query, "passage": " ".join(parts)}


def captions(folder: Path, pick: random.Random) -> Iterator[dict[str, Any]]:
    """What several people wrote of one picture."""
    for record in records(folder, "captions", pick):
        yield {"same": [" ".join(caption.split()) for caption in record["captions"]]}


def running_sentences(folder: Path, kind: str, pick: random.Random, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Some sentences of each section of running text."""
    shortest, longest = recipe.sentence_characters
    for record in records(folder, kind, pick):
        fitting = [text for text in sentences(record["text"]) if shortest <= len(text) <= longest]
        yield from ({"sentence": text} for text in pick.sample(fitting, min(3, len(fitting))))


def texts_of(unit: dict[str, Any]) -> list[str]:
    """All texts of a line of the result."""
    return [text for value in unit.values() for text in (value if isinstance(value, list) else [value])]


def choose(folder: Path, exclude: Iterable[Path], recipe: Recipe) -> Iterator[dict[str, Any]]:
    """The lines of the result: texts of the evaluation files are left out, and the second of two near duplicates."""
    pick, banned, seen = random.Random(recipe.seed), excluded(exclude, recipe), Seen(recipe)

    def new(units: Iterable[dict[str, Any]], key: str) -> Iterator[dict[str, Any]]:
        for unit in units:
            said = texts_of(unit)
            whole = unit[key] if isinstance(unit[key], str) else " ".join(unit[key])
            if all(text.strip() for text in said) and not any(map(banned.has, said)) and seen.takes(whole):
                yield unit

    yield from islice(new(pairs(folder, pick, recipe), "passage"), recipe.pairs)
    yield from islice(new(clozes(folder, pick, recipe), "passage"), recipe.clozes)
    yield from new(captions(folder, pick), "same")
    for kind, share in recipe.sentence_shares:
        found = new(running_sentences(folder, kind, pick, recipe), "sentence")
        yield from islice(found, int(recipe.sentences * share))


def main() -> None:
    """Choose the texts, write them, and say how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of *.jsonl.gz files, or the name of a Hub dataset that holds them")
    parser.add_argument("texts", type=Path, help="where to: a .jsonl.gz file")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="files whose texts are never trained on")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with gzip.open(options.texts, "wt", encoding="utf-8") as out:
        for unit in choose(data_folder(options.data), options.exclude, RECIPE):
            counts[next(iter(unit))] += 1
            out.write(json.dumps(unit, ensure_ascii=False) + "\n")
    print({"pairs": counts["query"], "groups": counts["same"], "sentences": counts["sentence"]})


if __name__ == "__main__":
    main()
