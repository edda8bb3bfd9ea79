"""Two versions of the code side by side, a process each by turns, on the sample texts.

    git worktree add ../before 2e3c237
    python -m benchmarks.speed.versions ../before --dtype bfloat16 float32

What is printed is how many times as fast as the other version this checkout is. The other one must have
``EchoEncoder(EchoConfig(model), Runtime(…))``, which every version has; name a model as it can read it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Medians, in seconds, of calls that a process repeats; no code of the benchmarks, which the other version may lack.
TIMED = """
import json, logging, statistics, sys, time
from pathlib import Path
logging.disable(logging.WARNING)
from echo_core import EchoConfig, EchoEncoder, Runtime
model, dtype, data = json.loads(sys.argv[1])
documents = [path.read_text(encoding="utf-8") for path in sorted(Path(data, "documents").iterdir())]
questions = [json.loads(line)["question"] for line in Path(data, "questions.jsonl").open(encoding="utf-8")]
encoder = EchoEncoder(EchoConfig(model), Runtime(device="cpu", dtype=dtype, progress=False))
documented, asked = encoder.encode_documents, encoder.encode_queries
calls = {"10 chunks": (documented, documents[:10], 3), "40 queries": (asked, questions, 5),
         "1 query": (asked, questions[:1], 30), "1 long text": (documented, [" ".join(documents[:12])], 3)}
found = {}
for name, (encode, texts, repeats) in calls.items():
    encode(texts), encode(texts)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        encode(texts)
        times.append(time.perf_counter() - start)
    found[name] = statistics.median(times)
print(json.dumps(found))
"""


def timed(checkout: Path, model: str | None, dtype: str) -> dict[str, float]:
    """Seconds of each call by the code of a checkout, in a process of its own."""
    paths = os.pathsep.join(str(checkout.resolve() / part) for part in (".", "integrations"))
    given = json.dumps([model, dtype, str(ROOT / "examples/data")])
    command, variables = [sys.executable, "-c", TIMED, given], {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(command, env=variables, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def compare(other: Path, model: str | None, dtype: str, turns: int) -> dict[str, float]:
    """For each call how many times as fast this checkout is, by the medians over the turns."""
    runs: dict[Path, list[dict[str, float]]] = {other: [], ROOT: []}
    for turn in range(turns):
        for checkout in sorted(runs, reverse=bool(turn % 2)):
            runs[checkout].append(timed(checkout, model, dtype))
    medians = {
        checkout: {call: statistics.median(run[call] for run in done) for call in done[0]}
        for checkout, done in runs.items()
    }
    return {call: round(seconds / medians[ROOT][call], 3) for call, seconds in medians[other].items()}


def main() -> None:
    """Compare, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout of the other version")
    parser.add_argument("--model", help="a name on the Hub, or a folder; default: the embedded model")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], choices=["bfloat16", "float32"])
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    for dtype in options.dtype:
        ratios = compare(options.other, options.model, dtype, options.turns)
        print(json.dumps({"dtype": dtype, "times as fast": ratios}))


if __name__ == "__main__":
    main()
