"""How often a vector reads as its text: words of each text's own among the first ten, of texts that nobody chose.

    python -m benchmarks.quality.words --texts FILE.txt --model PATH/model.gguf

A line is a text. What is counted is a lower bound: a synonym, or a word in another language, counts as none.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from echo_core import EchoConfig, EchoEncoder, Runtime

FIRST, ENOUGH = 10, 3  # words that are looked at, and how many of them must be the text's own
_STEM = 5  # letters


def stem(word: str) -> str:
    """A word's beginning: "regulations" and "regulate" are one, "bee" and "bees" too."""
    return word.strip().casefold().rstrip("s")[:_STEM]


def own_words(text: str, words: Sequence[str]) -> list[str]:
    """Those of some words that the text holds, in whatever form, stop words left out."""
    stems = {stem(word) for word in re.findall(r"[^\W\d_]{3,}", text) if word.casefold() not in ENGLISH_STOP_WORDS}
    return [word for word in words if stem(word) in stems]


def read(encoder: EchoEncoder, texts: Sequence[str]) -> Iterator[tuple[str, list[str], int]]:
    """Each text, its first words, and how many of them are its own."""
    for text, found in zip(texts, encoder.words(texts, k=FIRST), strict=True):
        words = [word.word for word in found]
        yield text, words, len(own_words(text, words))


def main(given: Sequence[str] | None = None) -> None:
    """Print each text's words, and the share of texts that have enough of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="a file, a text a line")
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    options = parser.parse_args(given)
    texts = [line for line in options.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = list(read(EchoEncoder(EchoConfig(options.model), Runtime(progress=False)), texts))
    for text, words, own in rows:
        print(f"{own:2} {text[:80]} | {', '.join(words)}")
    print(f"{sum(own >= ENOUGH for _, _, own in rows)} of {len(rows)} texts: {ENOUGH} of {FIRST} words their own")


if __name__ == "__main__":
    main()
