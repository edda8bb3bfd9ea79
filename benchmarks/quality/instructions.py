"""What an instruction gains or loses: by task, by the place in the prompt where it is said, and by whom.

    python -m benchmarks.quality.instructions --data examples/data
    python -m benchmarks.quality.instructions --data FOLDER --sets xquad_en --model PATH/model.gguf --limit 300

A retrieval set is asked with the pair "qa" of ``INSTRUCTIONS``, said to queries alone or to both sides; sentence pairs
with "similarity", labelled texts with "classification". ``gain`` is that in nDCG@10 or Spearman's correlation over
plain echo, by the same queries or pairs.
Each is finished twice, without a filter and with EmbedFilter τ = 2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.data import EvaluationSet, LabelledSet, PairSet, RetrievalSet, TripletSet, find_sets, limited
from benchmarks.quality.scores import Score, score_classifier, score_gain, score_pairs, score_pairs_gain, score_rankings
from echo_core import INSTRUCTIONS, TEMPLATES, EchoConfig, EchoEncoder, Runtime, space_of
from echo_core.config import ROLES
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.methods.embed_filter import filter_basis
from echo_core.methods.finish import finish
from echo_core.options.instructions import Instruction, with_instruction

RESULTS = Path(__file__).parents[1] / "results"
Vectors = NDArray[np.float32]
Array = NDArray[np.floating]
SIDES = ("queries", "both")  # which of a retrieval set are told
FILTERS = (None, 2)
NAMED = "the kind named"  # the place whose words are of KINDS, as the zero-shot prompt speaks of "the paragraph"
PLACES = {
    "before": TEMPLATES["instructed"],
    "between": "Rewrite the following paragraph: {text}. {instruction} The rewritten paragraph: [[{text}]]",
    "fine-tuned prompt": "Instruct: {instruction}\nQuery: {text}\nQuery again: [[{text}]]",
    NAMED: "Rewrite the following {instruction}: {text}. The rewritten {instruction}: [[{text}]]",
}
TASKS: dict[type, str] = {RetrievalSet: "qa", PairSet: "similarity", LabelledSet: "classification"}
KINDS = {
    "qa": Instruction("question", "passage"),
    "similarity": Instruction("sentence", "sentence"),
    "classification": Instruction("customer's request", "customer's request"),
}


@dataclass(frozen=True)
class States:
    """The pooled states of texts, unfinished, kept in a folder."""

    encoder: EchoEncoder
    folder: Path | None

    def of(self, template: str, texts: Sequence[str]) -> Vectors:
        """(N, D) states of texts said with a template."""
        if self.folder is None:
            return self._encoded(template, texts)
        told = json.dumps([self.encoder.fingerprint, template, list(texts)])
        file = self.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.npy"
        if not file.is_file():
            np.save(file, self._encoded(template, texts))
        return np.asarray(np.load(file))

    def _encoded(self, template: str, texts: Sequence[str]) -> Vectors:
        return self.encoder.with_options(document_template=template).encode_documents(texts)


def prompts(
    data: EvaluationSet, places: Sequence[str], sides: Sequence[str] = SIDES, task: str | None = None
) -> Iterator[tuple[str, Instruction]]:
    """The name of each way to ask, plain echo first, with the templates of queries and documents."""
    task, plain = task or TASKS[type(data)], TEMPLATES["echo"]
    yield "plain echo", Instruction(plain, plain)
    for place in places:
        words = (KINDS if place == NAMED else INSTRUCTIONS)[task]
        query, document = (with_instruction(PLACES[place], words.of(role)) for role in ROLES)
        if "queries" in sides and isinstance(data, RetrievalSet):
            yield f"{place}, queries", Instruction(query, plain)
        if "both" in sides and place != "fine-tuned prompt":  # it is a query's
            yield f"{place}, both", Instruction(query, document)


def measure(states: States, data: EvaluationSet, ways: Iterable[tuple[str, Instruction]]) -> Iterator[dict[str, Any]]:
    """One record for each way to ask (plain echo first), filter and metric."""
    plain: dict[float | None, Array] = {}
    basis = filter_basis(find_checkpoint(states.encoder.config))
    for name, templates in ways:
        left, right = (states.of(templates.of(role), texts) for role, texts in zip(ROLES, _texts(data), strict=True))
        for tau in FILTERS:
            config = replace(states.encoder.config, normalize=True, filter=tau)
            vectors = finish(left, config, basis), finish(right, config, basis)
            for one in _scores(data, *vectors, plain.setdefault(tau, _likeness(data, *vectors))):
                yield {"set": data.name, "prompt": name, "filter": tau, **asdict(one)}


def _texts(data: EvaluationSet) -> tuple[list[str], list[str]]:
    if isinstance(data, RetrievalSet):
        return data.queries, data.documents
    assert not isinstance(data, TripletSet)
    return (data.left, data.right) if isinstance(data, PairSet) else (data.train, data.test)


def _likeness(data: EvaluationSet, left: Vectors, right: Vectors) -> Array:
    """(N,) cosines of pairs, (Q, N) of queries with documents."""
    return np.einsum("nd,nd->n", left, right) if isinstance(data, PairSet) else left @ right.T


def _scores(data: EvaluationSet, left: Vectors, right: Vectors, plain: Array) -> list[Score]:
    likeness = _likeness(data, left, right)
    if isinstance(data, RetrievalSet):
        return [*score_rankings(likeness, data.relevant), score_gain(likeness, [plain], data.relevant)]
    if isinstance(data, PairSet):
        return [
            *score_pairs(likeness.tolist(), data.gold),
            score_pairs_gain(likeness.tolist(), plain.tolist(), data.gold),
        ]
    assert isinstance(data, LabelledSet)
    return score_classifier(left, data.train_labels, right, data.test_labels)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with evaluation sets")
    parser.add_argument("--sets", nargs="*", help="only the sets of these names")
    parser.add_argument("--model", help="as EchoConfig takes it; default: the embedded model")
    parser.add_argument("--layer", type=int, default=-1)
    parser.add_argument("--places", nargs="*", default=list(PLACES), choices=list(PLACES))
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES, help="of a retrieval set")
    parser.add_argument("--task", choices=list(INSTRUCTIONS), help="a pair of INSTRUCTIONS; default: as the set is")
    parser.add_argument("--limit", type=int, help="at most so many pairs, queries or texts of a set")
    parser.add_argument("--states", type=Path, help="a folder that keeps the states of texts for another run")
    parser.add_argument("--out", type=Path, default=RESULTS / "instructions.json")
    arguments = parser.parse_args(given)
    config = EchoConfig(arguments.model, layer=arguments.layer, empty="zero", normalize=False)
    states = States(EchoEncoder(config, Runtime(progress=False)), arguments.states)
    run: dict[str, Any] = {
        "made": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "model": Path(arguments.model).name if arguments.model else "embedded default model",
        "weights": space_of(config)["weights"],
        **{name: getattr(arguments, name) for name in ("layer", "task", "limit")},
        "results": [],
    }
    sets = [limited(one, arguments.limit) for folder in arguments.data for one in find_sets(folder)]
    for data in sets:
        if type(data) in TASKS and (not arguments.sets or data.name in arguments.sets):
            ways = prompts(data, arguments.places, arguments.sides, arguments.task)
            for record in measure(states, data, ways):
                run["results"].append(record)
                arguments.out.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
                print("{set:15} {prompt:26} {filter!s:5} {metric:10} {value:6.2f} [{low}, {high}]".format(**record))


if __name__ == "__main__":
    main()
