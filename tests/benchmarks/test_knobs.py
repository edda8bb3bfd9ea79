"""The benchmarks of pass keys in long texts and of layer × dimension, on tiny models."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.quality import grid, passkey
from benchmarks.quality.data import RetrievalSet
from echo_core import EchoConfig, EchoEncoder, Runtime


def test_pass_keys_are_looked_for_in_windows_and_in_one_scaled_echo(model_folder, tmp_path):
    folder, out = model_folder("llama", max_position_embeddings=700), tmp_path / "passkey.json"
    passkey.main(["--model", str(folder), "--lengths", "250", "400", "--texts", "3", "--out", str(out)])
    records = json.loads(out.read_text())["passkey"]
    ways = [(record["tokens"], record["way"], record["factor"]) for record in records]
    scaled = [(400, f"one echo, {kind}", 2) for kind in passkey.KINDS]
    cut = [(length, way, None) for length in (250, 400) for way in ("windows of 256", "cut at 256")]
    assert ways == [*cut[:2], (250, "one echo", None), *cut[2:], *scaled]


def test_a_text_holds_its_pass_key_once_and_nothing_else_differs():
    ada, hugo = passkey.texts_of(["Ada Abbott", "Hugo Gallo"], 20)
    assert ada.count("The pass key of Ada Abbott is ") == 1
    sentences = [set(text.replace(". ", ".|").split("|")) for text in (ada, hugo)]
    assert len(sentences[0] ^ sentences[1]) == 2


def test_every_layer_and_dimension_has_the_figure_of_an_encoder_made_so(model_folder, tmp_path):
    folder, out = model_folder("llama"), tmp_path / "grid.json"
    data = tmp_path / "data" / "things"
    data.mkdir(parents=True)
    rows = {
        "corpus": [{"_id": str(n), "text": f"All about {n} bees, and {n + 7} more of them."} for n in range(12)],
        "queries": [{"_id": f"q{n}", "text": f"What of {n} bees"} for n in range(12)],
        "qrels": [{"query-id": f"q{n}", "corpus-id": str(n), "score": 1} for n in range(12)],
    }
    for name, lines in rows.items():
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = ["--data", str(tmp_path / "data"), "--model", str(folder), "--layers", "1", "3", "--out", str(out)]
    grid.main(given)
    records = {(r["layer"], r["cut"], r["dimension"]): r["figure"] for r in json.loads(out.read_text())["grid"]}
    assert len(records) == 2 * 2 * 6
    for layer, cut, dimension in ((1, "raw", 8), (3, "filter", 4), (3, "filter", 32), (1, "filter", 32)):
        width = None if dimension == 32 else dimension
        config = EchoConfig(str(folder), layer=layer, dimension=width, **grid.CUTS[cut])
        encoder = EchoEncoder(config, Runtime(dtype="float32"))
        ours = encoder.encode_queries([row["text"] for row in rows["queries"]])
        scores = ours @ encoder.encode_documents([row["text"] for row in rows["corpus"]]).T
        ranks = (scores > scores.diagonal()[:, None]).sum(axis=1)
        expected = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()
        assert abs(records[layer, cut, dimension] - 100 * expected) < 0.02


def test_a_part_of_the_documents_keeps_the_queries_that_they_answer():
    data = RetrievalSet("x", ["a", "b", "c"], ["0", "1", "2", "3"], [frozenset({0}), frozenset({1, 2}), frozenset({3})])
    part = grid.with_documents(data, 2)
    for query, relevant in zip(part.queries, part.relevant, strict=True):
        whole = data.relevant[data.queries.index(query)]
        assert {part.documents[i] for i in relevant} == {data.documents[i] for i in whole} & {*part.documents}
        assert relevant
