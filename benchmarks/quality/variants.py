"""What is left of a model when texts are not written as it was trained on: case, punctuation, typos, remains of markup.

    python -m benchmarks.quality.variants --data examples/data STS_FOLDER --model PATH/model.gguf --limit 300

The queries of a set, or the left sides of its pairs, are changed; its documents, or the right sides, stay as written.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.data import PairSet, RetrievalSet, find_sets, limited
from benchmarks.quality.scores import Score, score_pairs, score_rankings
from echo_core import EchoEncoder, Runtime
from echo_core.identity.presets import preset_for
from echo_core.text.casing import in_sentence_case

RESULTS = Path(__file__).parents[1] / "results"
_WORD = re.compile(r"\w{4,}")


def _typos(text: str) -> str:
    """The text with two neighbouring letters swapped within every third longer word."""
    places = random.Random(text)

    def swapped(found: re.Match[str]) -> str:
        word, at = found.group(), places.randrange(1, len(found.group()) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :] if places.random() < 1 / 3 else word

    return _WORD.sub(swapped, text)


VARIANTS: dict[str, Callable[[str], str]] = {
    "as written": str,
    "lower case": str.lower,
    "UPPER CASE": str.upper,
    "upper case put into sentence case": lambda text: in_sentence_case(text.upper()),
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "typos": _typos,
    "doubled spaces": lambda text: text.replace(" ", "  "),
    "Markdown": lambda text: f"**Q:** _{text}_\n\n---",
    "HTML": lambda text: f'<p class="q"><b>{text}</b>&nbsp;</p>',
}


def measure(encoder: EchoEncoder, data: PairSet | RetrievalSet) -> Iterator[dict[str, Any]]:
    """A record for each variant: the first metric of the set's kind, × 100 with its interval."""
    kept = encoder.encode_documents(data.right if isinstance(data, PairSet) else data.documents)
    for name, changed in VARIANTS.items():
        yield {"set": data.name, "variant": name, **asdict(_score(encoder, data, changed, kept))}


def _score(encoder: EchoEncoder, data: PairSet | RetrievalSet, changed: Callable[[str], str], kept: Any) -> Score:
    if isinstance(data, PairSet):
        left = encoder.encode_documents([changed(text) for text in data.left])
        return score_pairs((left * kept).sum(axis=1), data.gold)[0]
    asked = encoder.encode_queries([changed(text) for text in data.queries])
    return next(one for one in score_rankings(asked @ kept.T, data.relevant) if one.metric == "first")


def table(run: dict[str, Any]) -> str:
    """Markdown: a row for each variant, a column for each set."""
    sets = list(dict.fromkeys(record["set"] for record in run["variants"]))
    figures = {
        (r["variant"], r["set"]): f"{r['value']:.1f} ± {(r['high'] - r['low']) / 2:.1f}" for r in run["variants"]
    }
    lines = [f"| {run['model']} | {' | '.join(sets)} |", "| --- |" + " --- |" * len(sets)]
    return "\n".join([*lines, *(f"| {v} | {' | '.join(figures[v, s] for s in sets)} |" for v in VARIANTS)])


def main(given: Sequence[str] | None = None) -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with evaluation sets")
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    parser.add_argument("--base", help="of an adapter: its base model, where it is not to come from the Hub")
    parser.add_argument("--limit", type=int, help="at most so many pairs or queries of a set")
    parser.add_argument("--out", type=Path, default=RESULTS / "variants.json")
    options = parser.parse_args(given)
    config = replace(preset_for(options.model), base=options.base, empty="zero")
    encoder = EchoEncoder(config, Runtime(progress=False))
    sets = [limited(one, options.limit) for folder in options.data for one in find_sets(folder)]
    name = Path(options.model).name if options.model else "embedded default model"
    run: dict[str, Any] = {"model": name, "limit": options.limit, "variants": []}
    for data in sets:
        if isinstance(data, PairSet | RetrievalSet):
            run["variants"] += measure(encoder, data)
            options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(table(run))


if __name__ == "__main__":
    main()
