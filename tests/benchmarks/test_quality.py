import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.quality import __main__ as quality
from benchmarks.quality import report as quality_report
from benchmarks.quality import scores, variants
from benchmarks.quality.configurations import CONFIGURATIONS, LATE
from benchmarks.quality.data import LabelledSet, PairSet, RetrievalSet, TripletSet, find_sets, limited, long_pieces
from benchmarks.quality.mteb import read_task
from benchmarks.quality.scores import (
    score_classifier,
    score_gain,
    score_pairs,
    score_pairs_gain,
    score_rankings,
    score_triplets,
)
from benchmarks.quality.systems import Laboratory, Words, chunk_ranges, random_model
from echo_core import EchoConfig, EchoEncoder, Runtime

ROOT = Path(__file__).parents[2]
SLOW = Runtime(device="cpu", dtype="float32")
DOCUMENTS = ["The owl hunts at night.", "Bread needs flour and water.", "Seven ships left the harbour."]


@pytest.fixture
def data_folder(tmp_path):
    """One tiny set of every layout."""
    sts, beir, labelled, long = (tmp_path / name for name in ("sts", "beir", "labelled", "long"))
    for folder in (sts, beir, labelled, long):
        folder.mkdir()
    rows = [
        f"g\tf\ty\t{i}\t{i % 5}.0\tA {word} sleeps.\tA {word} is asleep."
        for i, word in enumerate(["cat", "dog", "owl", "fox", "hen", "cow"])
    ]
    (sts / "sts-test.csv").write_text("\n".join(rows) + "\n")
    write_lines(beir / "corpus.jsonl", [{"_id": str(i), "text": text} for i, text in enumerate(DOCUMENTS)])
    write_lines(beir / "queries.jsonl", [{"_id": "a", "text": "owl at night"}, {"_id": "b", "text": "no answer"}])
    write_lines(
        beir / "qrels.jsonl",
        [{"query-id": "a", "corpus-id": "0", "score": 1}, {"query-id": "b", "corpus-id": "1", "score": 0}],
    )
    for name in ("train.csv", "test.csv"):
        (labelled / name).write_text(
            "text,category\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(DOCUMENTS * 4))
        )
    text = "\n".join(f"Line {i} speaks of nothing." for i in range(450)) + "\n"
    (long / "book.md").write_text(text)
    at = text.index("Line 300 ")
    reference = json.dumps([{"content": "x", "start_index": at, "end_index": at + 8}])
    (long / "questions_df.csv").write_text(
        'question,references,corpus_id\nWhat is 300?,"' + reference.replace('"', '""') + '",book\n'
    )
    write_lines(
        tmp_path / "triplets.jsonl",
        [{"structure": s, "query": "q w", "positive": "q w", "negative": "q x"} for s in ("S1", "S2")],
    )
    return tmp_path


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_layout_is_found_and_read(data_folder):
    sets = {one.name: one for one in find_sets(data_folder)}
    assert sets["sts"].gold == [0, 1, 2, 3, 4, 0]
    assert sets["beir"].relevant == [{0}]  # a judgement of 0 is no answer, and a query without one is left out
    assert sets["labelled"].test_labels[:3] == ["0", "1", "0"]
    assert sets["early half decides"].positives == ["q w"]
    assert isinstance(sets["late half decides"], TripletSet)


def test_a_long_document_is_cut_into_texts_and_the_one_with_the_answer_is_relevant(data_folder):
    long = next(one for one in find_sets(data_folder) if one.name == "long documents")
    assert "Line 300 " in long.documents[next(iter(long.relevant[0]))]
    assert "".join(long.documents) == (data_folder / "long" / "book.md").read_text()
    assert min(len(document.split()) for document in long.documents) >= 1000


def test_a_rest_too_short_for_a_text_of_its_own_joins_the_last():
    assert long_pieces("a b\nc d\ne\n", words=2) == [(0, 4), (4, 10)]
    assert long_pieces("a\n", words=5) == [(0, 2)]


def test_a_folder_without_any_set_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data must hold one of"):
        find_sets(tmp_path)


def test_a_limited_retrieval_set_keeps_every_answer_of_its_queries():
    whole = RetrievalSet(
        "x", [f"q{i}" for i in range(50)], [f"d{i}" for i in range(400)], [frozenset([i, 399 - i]) for i in range(50)]
    )
    part = limited(whole, 10)
    assert (len(part.queries), len(part.documents)) == (10, 50)
    for query, right in zip(part.queries, part.relevant, strict=True):
        number = int(query[1:])
        assert {part.documents[i] for i in right} == {f"d{number}", f"d{399 - number}"}


def test_limits_keep_texts_with_their_scores_and_labels():
    pairs = limited(PairSet("x", list("abcdef"), list("ABCDEF"), [float(i) for i in range(6)]), 3)
    assert [(one.upper(), "abcdef"[int(gold)]) for one, gold in zip(pairs.left, pairs.gold, strict=True)] == list(
        zip(pairs.right, pairs.left, strict=True)
    )
    labelled = limited(LabelledSet("x", list("abcd"), list("abcd"), list("efgh"), list("efgh")), 2)
    assert (labelled.train, labelled.test) == (labelled.train_labels, labelled.test_labels)


def test_spearman_is_that_of_scipy_within_its_interval():
    chance = np.random.default_rng(0)
    gold = chance.integers(0, 6, 80).astype(float)
    ours = gold + chance.normal(size=80)
    (found,) = score_pairs(ours, gold)
    assert found.value == pytest.approx(100 * spearmanr(ours, gold).statistic, abs=0.01)
    assert found.low < found.value < found.high


def test_ndcg_by_hand():
    ranks = np.array([1, 3, 11])  # of the relevant documents, counted from 0: the third is beyond the ten that count
    scores = np.arange(12.0)[::-1][None]
    expected = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / np.log2(4))
    assert score_rankings(scores, [frozenset(ranks.tolist())])[0].value == pytest.approx(100 * expected, abs=0.01)


def test_rankings_are_scored_by_their_first_ten():
    scores = np.arange(24.0).reshape(2, 12)  # the last document is best
    gain, recall, first = score_rankings(scores, [frozenset([11]), frozenset([0, 10])])
    assert gain.value == pytest.approx(100 * (1 + (1 / np.log2(3)) / (1 + 1 / np.log2(3))) / 2, abs=0.01)
    assert (recall.value, first.value) == (75, 50)


def test_a_gain_is_each_querys_own_over_the_better_side():
    right = [frozenset([0]), frozenset([1])]
    one, other, both = np.array([[1.0, 0], [1, 0]]), np.array([[0.0, 1], [1, 0]]), np.array([[1.0, 0], [0, 1]])
    gain = score_gain(both, [one, other], right)
    assert gain.value == pytest.approx(100 * (1 - 1 / np.log2(3)) / 2, abs=0.01)
    assert gain.low == 0
    assert score_gain(one, [one, other], right).high == 0


def test_a_gain_of_pairs_is_over_the_same_pairs():
    gold = np.arange(20.0)
    found = score_pairs_gain(gold, -gold, gold)
    assert (found.value, found.low, found.high) == (200, 200, 200)


def test_a_classifier_learns_what_vectors_tell_apart():
    vectors = np.repeat(np.eye(3), 10, axis=0)
    labels = [str(i) for i in vectors.argmax(axis=1)]
    assert score_classifier(vectors, labels, vectors, labels)[0].value == 100
    assert score_classifier(np.ones_like(vectors), labels, np.ones_like(vectors), labels)[0].value < 40


def test_triplets_count_the_nearer_positive_and_half_of_a_tie():
    assert score_triplets(np.array([0.9, 0.1, 0.5, 0.8, 0.2, 0.5]))[0].value == 50


def test_bm25_equals_its_formula():
    scores = Words().rank(["owl night owl"], DOCUMENTS)
    average = (3 + 4 + 4) / 3  # words of the documents without "the", "at" and "and"
    one = np.log(1 + (3 - 1 + 0.5) / 1.5) / (1 + 1.2 * (0.25 + 0.75 * 3 / average))
    np.testing.assert_allclose(scores, [[3 * one, 0, 0]], rtol=1e-5)  # "owl" counts twice in the query


@pytest.mark.parametrize(
    "name", [n for n, fields in CONFIGURATIONS.items() if "random" not in n and "chunks" not in fields]
)
def test_a_configuration_has_the_vectors_of_its_own_encoder(tiny_llama, tmp_path, monkeypatch, name):
    """Passes are shared between configurations; encoding with the config, the plain way, must give the same."""
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    laboratory, base = Laboratory(SLOW), EchoConfig(str(tiny_llama))
    laboratory.open("echo mean", base, DOCUMENTS).documents(DOCUMENTS)
    system = laboratory.open(name, base, DOCUMENTS)
    plain = EchoEncoder(system._config, SLOW)
    np.testing.assert_allclose(system.documents(DOCUMENTS), plain.encode_documents(DOCUMENTS), atol=1e-5)
    np.testing.assert_allclose(system.queries(DOCUMENTS), plain.encode_queries(DOCUMENTS), atol=1e-5)


def test_a_document_scores_as_its_best_late_chunk(tiny_llama, monkeypatch):
    monkeypatch.setattr("benchmarks.quality.systems.CHUNK_WORDS", 3)
    base = EchoConfig(str(tiny_llama))
    name = next(name for name, fields in CONFIGURATIONS.items() if fields.get("chunks") == LATE)
    scores = Laboratory(SLOW).open(name, base, []).rank(["owl"], DOCUMENTS)
    encoder = EchoEncoder(base, SLOW)
    query = encoder.encode_queries(["owl"])[0]
    wanted = [(encoder.encode_chunks(text, chunk_ranges(text)) @ query).max() for text in DOCUMENTS]
    np.testing.assert_allclose(scores, [wanted], atol=1e-5)


def test_echo_tells_apart_texts_that_differ_in_either_half():
    """The structure experiment of arXiv 2402.15449, Sec. 3, on the embedded model.

    Words alone find the early half's change in 4 of 10.
    """
    sets = {one.name: one for one in find_sets(ROOT / "examples" / "data")}
    system = Laboratory(SLOW).open("echo mean", EchoConfig(), [])
    early, late = (quality.score(system, sets[name])[0].value for name in ("early half decides", "late half decides"))
    words = quality.score(Words(), sets["early half decides"])[0].value
    assert early >= words + 15
    assert late >= 90


def test_the_random_control_has_the_same_shape_and_other_weights(tiny_llama):
    with random_model(EchoConfig(str(tiny_llama))) as config:
        random, own = EchoEncoder(config, SLOW), EchoEncoder(EchoConfig(str(tiny_llama)), SLOW)
        assert random.dimension == own.dimension
        assert np.abs(random.encode_documents(DOCUMENTS) - own.encode_documents(DOCUMENTS)).max() > 0.05


def test_the_command_writes_json_a_plot_and_a_table_of_the_json_alone(tiny_llama, data_folder, tmp_path, capsys):
    out = tmp_path / "results" / "quality.json"
    names = ["echo mean", "control: first saying"]
    quality.main(
        [
            "--data",
            str(data_folder),
            "--model",
            str(tiny_llama),
            "--configurations",
            *names,
            "--out",
            str(out),
            "--limit",
            "5",
            "--trained",
            "",
        ]
    )
    run = json.loads(out.read_text())
    assert {record["system"] for record in run["results"]} == {"words (BM25, TF-IDF)", *names}
    assert str(tmp_path) not in out.read_text()
    assert out.with_suffix(".png").stat().st_size > 1000
    printed = capsys.readouterr().out
    quality.main(["--table", str(out)])
    assert quality_report.table(run) in printed
    assert quality_report.table(run) in capsys.readouterr().out


def test_an_empty_document_in_a_corpus_is_never_found_and_stops_nothing(tiny_llama, data_folder, tmp_path):
    """Cranfield has one; the run ended there with an EmptyTextError."""
    write_lines(
        data_folder / "beir" / "corpus.jsonl",
        [{"_id": str(i), "text": text} for i, text in enumerate([*DOCUMENTS, ""])],
    )
    out = tmp_path / "q.json"
    given = [
        "--data",
        str(data_folder / "beir"),
        "--model",
        str(tiny_llama),
        "--configurations",
        "echo mean",
        "--trained",
        "",
        "--out",
        str(out),
    ]
    quality.main(given)
    assert {record["documents"] for record in json.loads(out.read_text())["results"]} == {4}


def test_the_table_has_a_line_a_system_and_the_best_configuration_in_bold():
    def record(system, value):
        return {
            "set": "s",
            "kind": "PairSet",
            "system": system,
            "metric": "Spearman",
            "value": value,
            "low": value - 1,
            "high": value + 1,
        }

    results = [record("words", 90.0), record("echo", 70.0), record("classical", 60.0), record("control: x", 80.0)]
    run = {"model": "m", "made": "2026-01-01", "machine": "a", "limit": None, "results": results}
    table = quality_report.table({**run, "configurations": {"echo": {}, "classical": {}, "control: x": {}}})
    assert "| echo | **70.0 ± 1.0** |" in table
    assert table.count("**") == 2


def test_a_trained_encoder_that_cannot_be_had_is_left_out_and_said_so(tiny_llama, capsys):
    records = list(quality.measure([], EchoConfig(str(tiny_llama)), [], "no/such-encoder", SLOW))
    assert records == []
    assert "without the trained encoder no/such-encoder" in capsys.readouterr().out


def test_tuning_writes_every_trial_and_a_table_of_the_chosen(tiny_llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    folder = tmp_path / "data" / "sts"
    folder.mkdir(parents=True)
    rows = [f"g\tf\ty\t{i}\t{i % 5}.0\tThe {i} cats.\tThe {i % 7} dogs." for i in range(20)]
    (folder / "sts-test.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "tuned.json"
    quality.main(["--data", str(tmp_path / "data"), "--model", str(tiny_llama), "--tune", "0", "--out", str(out)])
    (record,) = json.loads(out.read_text())["tuning"]
    assert record["trials"][0]["changes"] == {}
    assert sum(trial["chosen"] for trial in record["trials"]) == 1
    assert f"| {record['trials'][0]['held_out']:.1f} |" in capsys.readouterr().out


def test_tasks_of_mteb_become_the_same_sets():
    from datasets import Dataset, DatasetDict
    from mteb import get_task

    sts = get_task("STSBenchmark")
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1.0, 2.0]}
    sts.load_data = lambda: setattr(sts, "dataset", DatasetDict({sts.eval_splits[0]: Dataset.from_dict(rows)}))
    assert read_task(sts) == PairSet("STSBenchmark", ["a", "b"], ["c", "d"], [1.0, 2.0])

    found = get_task("SciFact")
    corpus = Dataset.from_dict({"id": ["x", "y"], "title": ["T", ""], "text": ["one", "two"]})
    queries = Dataset.from_dict({"id": ["q", "r"], "text": ["ask", "nothing"]})
    split = {"corpus": corpus, "queries": queries, "relevant_docs": {"q": {"y": 1, "x": 0}}, "top_ranked": None}
    found.load_data = lambda: None
    found.dataset = {"default": {found.eval_splits[0]: split}}
    assert read_task(found) == RetrievalSet("SciFact", ["ask"], ["T one", "two"], [frozenset([1])])

    labelled = get_task("Banking77Classification")
    part = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    labelled.load_data = lambda: setattr(
        labelled, "dataset", DatasetDict({"train": part, labelled.eval_splits[0]: part})
    )
    assert read_task(labelled) == LabelledSet("Banking77Classification", ["a", "b"], ["0", "1"], ["a", "b"], ["0", "1"])


def test_a_task_of_another_kind_is_refused():
    from mteb import get_task

    with pytest.raises(ValueError, match="--mteb must name tasks of STS, retrieval or classification"):
        read_task(get_task("SprintDuplicateQuestions"))


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_variant_changes_a_text_and_keeps_its_words(name: str):
    text = "Why do Bees shiver in Winter, for how many weeks, and what else keeps them warm?"
    changed = variants.VARIANTS[name](text)
    assert (changed == text) == (name == "as written")
    if name != "typos":
        kept = re.sub(r"<[^>]*>|&nbsp;|[\W_]", " ", changed.casefold()).split()
        assert [word for word in kept if word != "q"] == re.sub(r"\W", " ", text.casefold()).split()


def test_every_variant_is_scored_on_pairs_and_on_rankings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scores, "SAMPLES", 5)
    variants.main(["--data", str(ROOT / "examples/data"), "--limit", "3", "--out", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())["variants"]
    assert {(one["set"], one["variant"]) for one in found} == {("demo questions", name) for name in variants.VARIANTS}
    assert capsys.readouterr().out.count("\n") == 2 + len(variants.VARIANTS)
