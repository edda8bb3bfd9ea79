from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, LlamaConfig

from benchmarks.speed import __main__ as speed
from benchmarks.speed.costs import forward_flops, padding_in_order, padding_sorted, tokens_laid_out
from benchmarks.speed.growth import corpus_growth, length_growth
from benchmarks.speed.instructions import instruction_cost, print_instructions
from benchmarks.speed.peers import reference_recipe, sentence_transformers
from benchmarks.speed.plots import plot_growth, plot_length, plot_throughput
from benchmarks.speed.setting import Setting, echo_encoder
from benchmarks.speed.shapes import SHAPES, Shape, make_checkpoint
from benchmarks.speed.systems import Worker, build_echo, running_systems
from benchmarks.speed.throughput import Case, measure_case, ratios_of
from benchmarks.speed.timing import Timing, in_turns, percentile
from benchmarks.speed.workloads import WORKLOADS, chunks, queries
from echo_core.engine.batches import round_up

TINY = Shape(LlamaConfig, 16, 2, 2, 1, 32, 5000)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "tiny", TINY)
        yield Setting("tiny", make_checkpoint("tiny", folder), "cpu", "float32", False, 1, 1e11)


def test_a_shape_counts_the_weights_of_its_layers(setting):
    model = AutoModel.from_pretrained(setting.folder)
    matrices = sum(p.numel() for name, p in model.layers.named_parameters() if p.ndim == 2)
    assert TINY.parameters() == matrices


def test_flops_are_two_a_weight_and_token_and_the_causal_half_of_attention():
    assert forward_flops(TINY, [3, 4]) == 2 * TINY.parameters() * 7 + 2 * 2 * 16 * (9 + 16)


def test_padding_is_counted_for_each_way_of_making_batches():
    lengths = [1, 4, 1, 4]
    assert padding_in_order(lengths, 2) == pytest.approx(0.6)
    assert padding_sorted(lengths, 2) == 0


def test_tokens_that_rows_share_are_counted_once(setting):
    encoder = echo_encoder(setting)
    rows = encoder._pipelines["document"].prompts.tokenise(queries(6), {}).rows
    begin = next(i for i, ids in enumerate(zip(*(row.ids for row in rows), strict=False)) if len(set(ids)) > 1)
    assert begin > 2
    assert tokens_laid_out(encoder._engine.runner, rows) == round_up(sum(len(row.ids) for row in rows) - 5 * begin)


def test_chunks_have_the_lengths_of_a_rag_index(setting):
    tokeniser = echo_encoder(setting)._engine.tokenizer
    lengths = [len(ids) for ids in tokeniser.encode(chunks(400), continuing=False)]
    assert 105 < np.mean(lengths) < 135
    assert min(lengths) >= 8
    assert max(lengths) <= 450


def test_workloads_are_the_same_in_every_run():
    assert all(make(20) == make(20) and len(make(20)) == 20 for make in WORKLOADS.values())


def test_the_reference_recipe_gives_our_vectors(setting):
    """The peer that is exactly echo: what is compared is speed, not meaning."""
    texts = [text.lower() for text in queries(40)]
    encode = reference_recipe(setting.folder, torch.float32, "cpu")
    np.testing.assert_allclose(encode(texts), echo_encoder(setting).encode_documents(texts), atol=2e-3)


def test_sentence_transformers_sees_both_sayings(setting):
    encode = sentence_transformers(setting.folder, torch.float32, "cpu")
    assert encode(["a", "b", "a"], batch_size=2).shape == (3, 16)


@pytest.mark.slow
def test_a_case_is_measured_for_every_system_and_its_ratios_name_the_best_batch_size(setting, tmp_path):
    with running_systems(setting, (2, 4)) as systems:
        case = measure_case(setting, Case("queries", 6), systems, echo_encoder(setting))
    assert set(case["systems"]) == set(systems)
    tried = [case["ratios"][f"sentence-transformers, {rows} rows"]["wall"] for rows in (2, 4)]
    assert case["ratios"]["sentence-transformers, best"]["wall"] == min(tried)
    machine = {"processor": "x", "threads": 1, "packages": {"torch": "2"}, "date": "2026-01-01"}
    points = [{"tokens": n, "flops": 1.0 * n, "echo": 0.1 * n, "classical": 0.05 * n} for n in (16, 32)]
    growth = [{"texts": n, "seconds_per_text": 0.1, "peak_mib": 100.0} for n in (1000, 2000)]
    report = json.loads(
        json.dumps({"machine": machine, "throughput": [case], "length": {"k": points}, "growth": {"k": growth}})
    )
    plot_throughput(report, tmp_path / "a.png")
    plot_length(report, "k", tmp_path / "b.png")
    plot_growth(report, "k", tmp_path / "c.png")
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "b.png", "c.png"]


def test_ratios_are_medians_over_the_turns():
    slow, quick = Timing([2.0, 8.0, 3.0], [1.0, 1.0, 1.0]), Timing([1.0, 4.0, 1.0], [1.0, 1.0, 1.0])
    ratios = ratios_of({"sentence-transformers, 4 rows": slow, "echo": quick})
    assert ratios["sentence-transformers, best"] == {"wall": 2.0, "cpu": 1.0}


def test_systems_run_in_turns_and_the_first_run_is_not_counted():
    order: list[str] = []
    timings = in_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert order[:2] == ["a", "b"]
    assert [sorted(order[start : start + 2]) for start in (2, 4)] == [["a", "b"]] * 2
    assert len(timings["a"].wall) == 2


def test_what_goes_wrong_in_a_system_s_process_is_raised_here_and_the_process_lives_on(setting):
    worker = Worker(build_echo, setting, 1)
    with pytest.raises(TypeError, match="text 1 must be a str"):
        worker.run(["a", None])
    wall, cpu = worker.run(["a"])
    assert wall > 0
    assert cpu > 0
    worker.close()


def test_growth_is_measured_for_streams_of_four_times_the_texts_each(setting):
    points = corpus_growth(setting, queries, 4500)
    assert [point["texts"] for point in points] == [1000, 4000, 4500]
    assert all(point["seconds_per_text"] > 0 and point["peak_mib"] > 1 for point in points)


def test_the_cost_of_longer_texts_is_measured_without_windows(setting):
    points = length_growth(setting, 2, 1)
    assert [point["tokens"] for point in points] == [16, 32, 64, 128, 256, 512, 1024, 2048]
    assert points[-1]["flops"] > 128 * points[0]["flops"]  # windows would keep it linear


def test_the_cost_of_an_instruction_is_measured_kept_in_each_batch_and_left_out(setting, capsys):
    found = instruction_cost(setting, counts=(40,), texts=8)
    calls = found["40 words"]
    assert list(calls) == ["chunks, 2 a call", "queries, 8 a call", "8 queries, one a call"]
    for figures in calls.values():
        assert list(figures["seconds"]) == ["kept", "in each batch", "left out"]
        assert figures["times as fast"] > 0
    print_instructions("k", found)
    assert capsys.readouterr().out.count("× as fast") == 3


@pytest.mark.slow
def test_a_run_is_added_to_what_the_report_holds(tmp_path, monkeypatch, setting):
    out, asked = (
        tmp_path / "r.json",
        "speed.py --models smallest --parts throughput --workloads queries --rows 2 --repeats 1 --threads 1",
    )
    monkeypatch.setitem(SHAPES, "smallest", TINY)
    monkeypatch.setattr(speed, "CASES", [Case("queries", 2), Case("queries", 3)])
    threads = torch.get_num_threads()
    for more in (["--largest", "2"], ["--smallest", "3", "--add"], ["--smallest", "3", "--add"]):
        monkeypatch.setattr(sys, "argv", [*asked.split(), "--dtype", "float32", "--out", str(out), *more])
        speed.main()
    torch.set_num_threads(threads)
    report = json.loads(out.read_text())
    assert [case["case"] for case in report["throughput"]] == ["queries, 2 a call", "queries, 3 a call"]
    report["machine"]["processor"] = "another"
    out.write_text(json.dumps(report))
    with pytest.raises(SystemExit, match=r"the same processor: .* is of 'another'"):
        speed.main()
    assert json.loads(out.read_text()) == report


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (99, 4), (25, 1)])
def test_percentiles_are_measured_values(percent, value):
    assert percentile([4, 1, 3, 2], percent) == value
