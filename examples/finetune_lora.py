"""Fine-tune a causal model into an embedder on your own questions and answers: LoRA, with figures before and after.

    python examples/finetune_lora.py                                            # a made-up help desk, embedded model
    python examples/finetune_lora.py --csv faq.csv --model echo-smollm2 --output faq-model
    python examples/finetune_lora.py --csv faq.csv --model org/any-causal-model

A CSV is UTF-8 and has a header with "question" and "answer"; a tenth of its questions is held out and measured before
and after. --base says where the base of an adapter such as echo-smollm2 lies, where it is not to come from the Hub.
This is the short form of the recipe in training/echo_smollm2: questions are pulled to their answers and away from the
batch's others, and from one answer each that the model itself takes for a better one (a hard negative). On two CPU
cores the embedded model takes about a minute. The merged result is a whole model: EchoSentenceTransformer loads it,
and so does EchoEncoder.load, and with it every other adapter of this project.

In the sample, new questions about answers that were trained on, a help desk's everyday, find them somewhat better
afterwards. Questions about answers that were never seen fare about as before: so few pairs teach those answers, no
more.
"""

import argparse
import csv
import json
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import mine_hard_negatives

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_sentence_transformers import EchoSentenceTransformer

SAMPLE = Path(__file__).resolve().parent / "data" / "pairs.jsonl"
TESTS = {"test-question": "new questions about known answers", "test-fact": "questions about answers not trained on"}
HELD_OUT = 10  # one question of so many
BEYOND = "beyond the last column"
LEAST = 30  # rows of a CSV: the trainer's batches have 16, each with answers that are wrong for its questions


def main() -> None:
    """Measure, train, measure; save the adapter and load it; merge, save the whole model and load it as an encoder."""
    options = parse_options()
    pairs = read_pairs(options.csv)
    named = EchoConfig(options.model, base=options.base) if options.base else options.model
    model = EchoSentenceTransformer(named, model_kwargs={"dtype": "float32"})
    report("before", model, pairs)

    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", r=16, lora_alpha=32, target_modules="all-linear"))
    started = time.perf_counter()
    train(model, pairs, options.steps)
    print(f"        {options.steps} steps took {time.perf_counter() - started:.0f} s")
    report("after ", model, pairs)

    model.save_pretrained(f"{options.output}-adapter")
    again = EchoSentenceTransformer(f"{options.output}-adapter", model_kwargs={"dtype": "float32"})
    report("adapter, saved and loaded again", again, pairs)

    model.merge_adapters()
    model.save_pretrained(options.output)
    texts = [pair["query"] for pair in pairs[:20]]
    encoder = EchoEncoder.load(options.output, Runtime(dtype="float32"))
    difference = np.abs(encoder.encode_queries(texts) - model.encode_query(texts)).max()
    print(f"merged into {options.output}; EchoEncoder.load gives the same vectors within {difference:.0e}")


def read_pairs(path: Path | None) -> list[dict[str, str]]:
    """Questions with their answers, and which of them are held out; without a file the sample's."""
    if path is None:
        return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    rows = read_rows(path)
    splits = ["test-question" if zlib.crc32(row["question"].encode()) % HELD_OUT == 0 else "train" for row in rows]
    named = zip(rows, splits, strict=True)
    return [{"query": row["question"], "passage": row["answer"], "split": split} for row, split in named]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that are not empty, each with a question and an answer.

    It ends the program with what is wrong: a file that cannot be read, columns or cells that are missing, too few rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey=BEYOND)
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader if any(map(visible, row.values()))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SystemExit(f"error: {path} must be a CSV file in UTF-8, but: {error}") from error
    if missing := sorted({"question", "answer"} - set(columns)):
        found = ", ".join(columns) or "nothing"
        raise SystemExit(f"error: the header of {path} must have question and answer, got {found}; add {missing[0]}")
    for line, row in rows:
        if not visible(row["question"]) or not visible(row["answer"]):
            raise SystemExit(f"error: line {line} of {path} must have a question and an answer; fill it or take it out")
        if visible(row.get(BEYOND)):
            raise SystemExit(f"error: line {line} of {path} has more cells than the header; quote texts with commas")
    if len(rows) < LEAST:
        raise SystemExit(f"error: {path} must have at least {LEAST} questions to learn from, got {len(rows)}")
    return [row for _, row in rows]


def visible(cell: str | list[str] | None) -> bool:
    """Whether a cell, or the cells beyond the last column, have anything to read in them."""
    return any(text.strip() for text in (cell if isinstance(cell, list) else [cell or ""]))


def train(model: EchoSentenceTransformer, pairs: list[dict[str, str]], steps: int) -> None:
    """Pull each question towards its passage, away from a hard negative and the batch's others."""
    rows = [{"query": pair["query"], "passage": pair["passage"]} for pair in pairs if pair["split"] == "train"]
    triplets = mine_hard_negatives(
        Dataset.from_list(rows),
        model,
        relative_margin=0.05,  # a passage that scores nearly as high as the answer may be one too
        range_max=20,
        num_negatives=1,
        verbose=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            learning_rate=5e-4,
            warmup_steps=3,
            # each column is said with its own template
            router_mapping={"query": "query", "passage": "document", "negative": "document"},
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
        )
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=triplets, loss=MultipleNegativesRankingLoss(model)
        ).train()


def report(when: str, model: EchoSentenceTransformer, pairs: list[dict[str, str]]) -> None:
    """Print how well the held-out questions find their passage among all of them."""
    passages = {pair["passage"]: pair["passage"] for pair in pairs}  # each is its own id
    found = []
    for split, asked in TESTS.items():
        answers: dict[str, set[str]] = {}  # a question may stand there several times, each with another answer
        for pair in (pair for pair in pairs if pair["split"] == split):
            answers.setdefault(pair["query"], set()).add(pair["passage"])
        if not answers:
            continue
        queries = {query: query for query in answers}
        figures = model.evaluate(InformationRetrievalEvaluator(queries, passages, answers, write_csv=False))
        ndcg, accuracy = figures["cosine_ndcg@10"], figures["cosine_accuracy@1"]
        found.append(f"{len(queries)} {asked}: nDCG@10 {ndcg:.3f}, accuracy@1 {accuracy:.3f}")
    print(f"{when}: {'; '.join(found) or 'no question was held out of so few'}")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fine-tune a causal model into an embedder with LoRA.")
    parser.add_argument("--csv", type=Path, help="questions and answers; default: the sample's")
    parser.add_argument("--model", help="causal model, by name or folder; default: the embedded one")
    parser.add_argument("--base", help="of an adapter: its base model, where it is not to come from the Hub")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument(
        "--output",
        default=tempfile.gettempdir() + "/echo-helpdesk",
        help="folder for the merged model (default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
