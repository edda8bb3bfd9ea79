"""Pass keys in long texts: windows against one long echo, beyond the length that the model was trained on.

    python -m benchmarks.quality.passkey
    python -m benchmarks.quality.passkey --model PATH/model.gguf --lengths 1000 --texts 10

Texts of about so many tokens, of one filler, which differ only in one sentence somewhere, "The pass key of NAME is
NUMBER."; the queries ask for the pass key of a name. Figure: how often the right text comes first. Where two sayings
of the whole text do not fit into the model, its positions are scaled by the smallest whole factor that makes them fit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.identity.checkpoint import find_checkpoint

RESULTS = Path(__file__).parents[1] / "results"
FIRST = ("Ada", "Boris", "Chloe", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas")
LAST = ("Abbott", "Bauer", "Castillo", "Dubois", "Eriksen", "Fischer", "Gallo", "Hansen", "Ivanov", "Jansen")
FILLER = (
    "The road goes on between the fields.",
    "A light wind moves the leaves.",
    "Nobody comes this way in the morning.",
    "The river is wide and slow here.",
    "Clouds stand over the hills.",
)
KINDS: dict[str, dict[str, Any]] = {
    "linear": {},
    "dynamic": {},
    "yarn": {},
    "llama3": {"low_freq_factor": 1, "high_freq_factor": 4},
}
PROMPT = 40  # tokens at most that are said besides the text


def positions_of(model: str | None) -> int:
    """Tokens of the longest row that a model was trained for, as its config says."""
    config = AutoConfig.from_pretrained(find_checkpoint(EchoConfig(model)))
    return int(config.get_text_config(decoder=True).max_position_embeddings)


def texts_of(names: Sequence[str], sentences: int) -> list[str]:
    """A text for each name: filler of so many sentences, and the pass key at a random place in it."""
    draw = random.Random(0)
    texts = []
    for name in names:
        parts = list(itertools.islice(itertools.cycle(FILLER), sentences))
        parts.insert(draw.randint(0, sentences), f"The pass key of {name} is {draw.randint(10000, 99999)}.")
        texts.append(" ".join(parts))
    return texts


def ways(length: int, positions: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and options of the encoders that are compared at a length."""
    yield "windows of 256", {}
    yield "cut at 256", {"overflow": "truncate"}
    factor = math.ceil((2 * length + PROMPT) / positions)
    whole = {"max_tokens": length}
    if factor == 1:
        yield "one echo", whole
        return
    for kind, further in KINDS.items():
        yield f"one echo, {kind}", {**whole, "rope_scaling": {"rope_type": kind, "factor": factor, **further}}


def measure(model: str | None, length: int, names: Sequence[str], positions: int) -> Iterator[dict[str, Any]]:
    """A record for each way: how often, in percent, the right text comes first."""
    runtime = Runtime(dtype="float32")
    plain = EchoEncoder(EchoConfig(model), runtime)
    few, more = plain.count_tokens([" ".join(FILLER), " ".join(FILLER * 2)])
    each = (more - few) / 2 / len(FILLER)  # tokens of a sentence; said twice
    texts = texts_of(names, int((length - 40) / each))
    queries = [f"What is the pass key of {name}?" for name in names]
    for name, options in ways(length, positions):
        encoder = EchoEncoder(EchoConfig(model, **options), runtime) if options else plain
        scores = encoder.encode_queries(queries) @ encoder.encode_documents(texts).T
        first = float((scores.argmax(axis=1) == range(len(names))).mean())
        scaling = options.get("rope_scaling")
        factor = None if scaling is None else scaling["factor"]
        yield {"tokens": length, "way": name, "factor": factor, "texts": len(names), "first": round(100 * first, 1)}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a way, a column a length."""
    lengths = list(dict.fromkeys(record["tokens"] for record in records))
    lines = [f"| tokens of a text | {' | '.join(map(str, lengths))} |", "| --- " * (len(lengths) + 1) + "|"]
    for way in dict.fromkeys(record["way"] for record in records):
        found = {record["tokens"]: f"{record['first']:.0f}" for record in records if record["way"] == way}
        lines.append(f"| {way} | {' | '.join(found.get(length, '') for length in lengths)} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, write the JSON after each record, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a name on the Hub, a folder or a GGUF file; default: the embedded model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 480, 960, 1900], help="tokens of a text")
    parser.add_argument("--texts", type=int, default=50, help="at most 100")
    parser.add_argument("--out", type=Path, default=RESULTS / "passkey.json")
    options = parser.parse_args(given)
    names = random.Random(1).sample([" ".join(pair) for pair in itertools.product(FIRST, LAST)], options.texts)
    positions = positions_of(options.model)
    run: dict[str, Any] = {"model": Path(options.model or "embedded default model").name, "passkey": []}
    for length in options.lengths:
        for record in measure(options.model, length, names, positions):
            run["passkey"].append(record)
            print(record, flush=True)
            options.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(table(run["passkey"]))


if __name__ == "__main__":
    main()
