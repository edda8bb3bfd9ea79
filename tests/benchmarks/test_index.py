"""The benchmarks of maps between encoders and of codes, on a tiny model and few vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.quality import drift
from benchmarks.quality.rounding import ROUNDINGS, rounded_copy
from echo_core import EchoConfig, EchoEncoder


@pytest.fixture
def data_folder(tmp_path):
    folder = tmp_path / "data" / "things"
    folder.mkdir(parents=True)
    things = ("bees", "fog", "bread", "tides", "roads", "soap")
    texts = [
        f"All about {thing} {n}. They are {n} in number and well known. Nobody counts {thing}."
        for n in range(6)
        for thing in things
    ]
    rows = {
        "corpus": [{"_id": str(n), "text": text} for n, text in enumerate(texts)],
        "queries": [{"_id": f"q{n}", "text": f"What of {thing}"} for n, thing in enumerate(things)],
        "qrels": [{"query-id": f"q{n}", "corpus-id": str(n), "score": 1} for n in range(6)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "data"


def test_drift_is_measured_for_a_change_and_kept_states_are_used_again(data_folder, tiny_llama, tmp_path, monkeypatch):
    keep = tmp_path / "states"
    keep.mkdir()
    given = ["--data", str(data_folder), "--model", str(tiny_llama), "--texts", "30", "--keep", str(keep)]
    given += [
        "--changes",
        "layer: last to middle",
        "template: classical to echo",
        "--out",
        str(tmp_path / "drift.json"),
    ]
    drift.main(given)
    run = json.loads((tmp_path / "drift.json").read_text())
    assert [record["change"] for record in run["drift"]] == ["layer: last to middle", "template: classical to echo"]
    assert all(0 <= record["mapped"] <= 100 and record["texts"] == 30 for record in run["drift"])
    assert len(list(keep.iterdir())) == 2
    monkeypatch.setattr(EchoEncoder, "encode_layers", lambda *_: pytest.fail("run again"))
    drift.main(given)
    assert json.loads((tmp_path / "drift.json").read_text()) == run


def test_one_model_is_compared_with_another(data_folder, tiny_llama, model_folder, tmp_path):
    wide = model_folder("llama", hidden_size=64)
    given = ["--data", str(data_folder), "--model", str(tiny_llama), "--to", str(wide), "--texts", "30"]
    drift.main([*given, "--out", str(tmp_path / "drift.json")])
    (record,) = json.loads((tmp_path / "drift.json").read_text())["drift"]
    assert record["change"] == f"{tiny_llama.name} to {wide.name}"
    assert record["as they are"] is None


def test_pieces_are_of_the_documents_and_none_stands_there_twice():
    pieces = drift.pieces_of(["One is here now. Two is there then. Three.", "One is here now. Two is there then."], 10)
    assert pieces == ["One is here now. Two is there then."]


@pytest.mark.parametrize(("rounding", "levels"), [("fp8", 256), ("int4", 15)])
def test_rounded_weights_have_the_levels_of_their_format(rounding, levels):
    weights = torch.randn(4, 64)
    rounded = ROUNDINGS[rounding](weights)
    assert 0 < (rounded - weights).abs().max() < 0.5
    assert all(len(set(row.tolist())) <= levels * (1 if rounding == "fp8" else 2) for row in rounded)


def test_a_rounded_copy_is_another_model_while_the_context_lasts(tiny_llama):
    config = EchoConfig(str(tiny_llama))
    with rounded_copy(config, "int4") as rounded:
        vectors = [EchoEncoder(one).encode_documents(["fog"])[0] for one in (config, rounded)]
        assert 0.5 < vectors[0] @ vectors[1] < 0.9999
    with rounded_copy(config, "") as same:
        assert same is config


def test_codes_are_measured_beside_other_ways(tmp_path):
    pytest.importorskip("faiss")
    from benchmarks.speed import codes

    np.save(tmp_path / "real.npy", np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32))
    codes.main(
        [
            "--count",
            "3000",
            "--queries",
            "20",
            "--states",
            str(tmp_path / "real.npy"),
            "--out",
            str(tmp_path / "out.json"),
        ]
    )
    run = json.loads((tmp_path / "out.json").read_text())
    assert (run["vectors"], run["dimension"], run["real"]) == (3000, 64, 280)
    assert len({line["way"] for line in run["codes"]}) == 3
    best = {line["candidates a result"]: line["recall@10"] for line in run["codes"] if "CodeIndex" in line["way"]}
    assert best[40] >= best[10] > 0.5


def test_the_cost_of_filters_is_measured(tmp_path):
    pytest.importorskip("chromadb")
    from benchmarks.speed import filters

    filters.main(["--count", "300", "--dimension", "8", "--out", str(tmp_path / "out.json")])
    run = json.loads((tmp_path / "out.json").read_text())
    assert [line["filter"] for line in run["filters"]][:2] == ["none", "leaves 100.0%"]
    assert all(0 < line["ms least"] <= line["ms median"] for line in run["filters"])
