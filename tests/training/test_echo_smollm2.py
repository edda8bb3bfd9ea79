"""The recipe of echo-smollm2 on a tiny model: its texts, its losses, and a run from them to an encoder."""

from __future__ import annotations

import gzip
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from echo_core import EchoConfig, EchoEncoder, Runtime

pytest.importorskip("peft")
WORDS = [
    "tide",
    "moon",
    "sea",
    "bee",
    "hive",
    "winter",
    "cold",
    "honey",
    "fog",
    "cloud",
    "ground",
    "salt",
    "pan",
    "sun",
]


@pytest.fixture(scope="module")
def scripts():
    """The recipe's modules."""
    pytest.importorskip("matplotlib")
    import corpus
    import losses
    import model
    import recipe
    import texts
    import train

    return SimpleNamespace(corpus=corpus, losses=losses, model=model, recipe=recipe, texts=texts, train=train)


def small(scripts, **changes):
    sizes = {"pairs_a_step": 3, "sentences_a_step": 2, "neighbours": 1, "near": 3, "captions_a_step": 1}
    few = {
        "negatives_a_step": 2,
        "mined": 4,
        "steps": 6,
        "warmup": 2,
        "language_tokens": 16,
        "bank": 8,
        "max_tokens": 24,
    }
    return replace(scripts.recipe.RECIPE, guide_pair=-1.0, **{**sizes, **few, "max_tokens": 24, **changes})


def corpus_of(scripts, recipe):
    pick = random.Random(0)
    texts = [" ".join(pick.choices(WORDS, k=pick.randint(3, 9))) for _ in range(40)]
    guide = normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1).half().numpy()
    pairs = np.arange(24).reshape(12, 2)
    sentences = np.arange(24, 34)
    near = np.array([[i for i in sentences if i != own][:3] for own in sentences])
    return scripts.corpus.Corpus(texts, guide, pairs, [[34, 35, 36], [37, 38, 39]], sentences, near)


def test_texts_of_evaluation_files_and_near_duplicates_are_left_out(scripts, tmp_path: Path):
    said = [f"The {a} and the {b} are what the old town on the coast lives from" for a in WORDS for b in WORDS[:4]]
    folder = tmp_path / "data"
    folder.mkdir()
    records = [{"query": f"What about {text}?", "passage": text, "source": "openstax:x"} for text in said]
    records += [{"query": "Again?", "passage": said[5] + " indeed", "source": "openstax:x"}]
    with gzip.open(folder / "pairs-000.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, records)))
    banned = tmp_path / "test.tsv"
    banned.write_text(f"1\t{said[0]}\t{said[1]}\n")
    found = [unit["passage"] for unit in scripts.texts.choose(folder, [banned], scripts.recipe.RECIPE)]
    assert found
    assert not {said[0], said[1]} & set(found)
    seen = scripts.texts.Seen(scripts.recipe.RECIPE)
    assert seen.takes(said[5])
    assert not seen.takes(said[5] + " indeed")
    assert seen.takes("something else altogether, in other words than those before it")


def test_the_guide_s_vectors_are_kept_for_its_own_texts_and_made_anew_where_the_file_is_cut_off(
    scripts, tmp_path: Path, monkeypatch
):
    """A kill while they were written ended every later run, and other texts got the vectors of the first ones."""
    made = []

    def embedded(texts: list[str], guide: str, device: str):
        made.append((texts, guide))
        return np.full((len(texts), 2), len(made), dtype=np.float16)

    monkeypatch.setattr(scripts.corpus, "_embedded", embedded)
    kept = tmp_path / "texts.guide.npz"

    def first(*texts: str, guide: str = "guide") -> float:
        return scripts.corpus.guide_vectors([*texts], guide, kept, "cpu")[0, 0]

    assert [first("a", "b"), first("a", "b")] == [1, 1]
    assert [first("a", "c"), first("a", "c", guide="other")] == [2, 3]
    for content in (kept.read_bytes()[:-30], b"", b"something else"):
        kept.write_bytes(content)
        assert first("a", "c", guide="other") == len(made)
        assert first("a", "c", guide="other") == len(made)
    assert len(made) == 6


def test_a_passage_that_the_guide_finds_as_near_as_the_own_one_costs_nothing(scripts):
    eye = torch.eye(4)
    queries, passages = eye[:2], torch.stack([eye[0], eye[1], eye[0]])  # the third passage is the first once more
    recipe = scripts.recipe.RECIPE
    doubtful = scripts.losses.contrast(queries, passages, queries, passages, recipe)
    assert doubtful < 1e-6
    known = torch.stack([eye[0], eye[1], eye[3]])  # and here the guide tells it from the first
    assert scripts.losses.contrast(queries, passages, queries, known, recipe) > 0.1


def test_ranking_and_similarity_are_zero_at_the_guide_s_own_vectors(scripts):
    guide = normalize(torch.randn(9, 5), dim=1)
    assert scripts.losses.ranking(guide, guide, scripts.recipe.RECIPE).abs() < 1e-6
    assert scripts.losses.similarity(guide, guide) == 0
    assert scripts.losses.ranking(guide.flip(0), guide, scripts.recipe.RECIPE) > 0.1


def test_a_step_s_texts_are_the_same_whenever_they_are_asked_for_and_an_epoch_holds_each_pair_once(scripts):
    recipe = small(scripts)
    corpus = corpus_of(scripts, recipe)
    once, again = (scripts.corpus.Sampler(corpus, recipe) for _ in range(2))
    assert once.step(3) == again.step(3)
    assert sorted(i for step in range(4) for i in once.pairs(step)) == list(range(12))
    step = once.step(1)
    assert step.roles[: 2 * step.pairs] == ["query"] * step.pairs + ["document"] * step.pairs
    assert len(step.indices) == len(step.roles) == len(step.written)


def test_mined_negatives_are_never_the_own_passage_nor_one_that_the_guide_prefers(scripts):
    recipe = small(scripts)
    corpus = corpus_of(scripts, recipe)
    chosen = np.array([1, 4, 7, 9])
    vectors = normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    negatives = scripts.corpus.mine(chosen, vectors[:4], vectors[4:], corpus, recipe)
    guide = corpus.guide.astype(np.float32)
    assert (negatives[[0, 2, 3, 5, 6, 8, 10, 11]] == -1).all()
    for pair in chosen:
        query, own = corpus.pairs[pair]
        for passage in negatives[pair][negatives[pair] >= 0]:
            assert passage != own
            assert guide[query] @ guide[passage] < guide[query] @ guide[own]


def test_a_run_is_stopped_resumed_and_gives_an_adapter_that_every_encoder_loads(scripts, model_folder, tmp_path: Path):
    base, recipe = model_folder("llama"), small(scripts)
    corpus = corpus_of(scripts, recipe)

    def run_of(steps: int):
        student = scripts.model.Student(str(base), replace(recipe, steps=steps), "cpu", torch.float32)
        return scripts.train.Run(student, corpus, replace(recipe, steps=steps), tmp_path)

    first = run_of(2)
    first.train()
    second = run_of(6)
    second.resume()
    assert second.number == 2
    for own, saved in zip(second.student.masters, first.student.masters, strict=True):
        torch.testing.assert_close(own, saved)
    second.train()
    assert second.number == 6
    assert second.negatives is not None
    second.student.save(tmp_path / "adapter", "org/of-the-hub")
    config = EchoConfig(
        str(tmp_path / "adapter"),
        base=str(base),
        query_template=recipe.query_template,
        document_template=recipe.document_template,
    )
    fp32 = Runtime(device="cpu", dtype="float32")
    vectors = EchoEncoder(config, fp32).encode_queries(["a tide", "bees in winter"])
    expected = second.student.encode(["a tide", "bees in winter"], "query").numpy()
    assert (vectors * expected).sum(axis=1).min() > 0.9999
    assert (tmp_path / "curves.png").stat().st_size > 0

    second.student.save(tmp_path / "own", scripts.train.lasting_name(os.path.relpath(base)))
    own = EchoEncoder.load(tmp_path / "own", fp32).encode_queries(["a tide", "bees in winter"])
    np.testing.assert_allclose(own, vectors, atol=1e-5)
