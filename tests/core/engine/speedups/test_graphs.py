"""Graphs over a CPU stand-in that replays torch's operators without any Python, and on a GPU."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import threading
import weakref
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import PIECES, open_oracle
from tiny_models import FAMILIES, WINDOW

from echo_core import ConfigError, EchoConfig, EchoEncoder, Runtime
from echo_core.engine.batches import pack_rows
from echo_core.engine.decoder import Decoder
from echo_core.engine.layers import pooled_layers
from echo_core.engine.loading import load_decoder, load_model
from echo_core.engine.prefix_cache import Prefix
from echo_core.engine.speedups.graphs import ROWS, SIZES, Graphs, check_graphs, use_graphs
from echo_core.text.rows import Row, Span

FP32 = Runtime(device="cpu", dtype="float32", attention="packed")
PACKS = sorted(set(FAMILIES) - {"gemma2"})  # caps its scores softly, which the kernel does not
BATCHES = [(WINDOW + 2,), (20,), (5, 1, 17), (2 * WINDOW, 9), (32,), (3,), (7,) * 4]


def rows_of(lengths, first=40):
    rows = [(first + 7 * i + np.arange(length)) % 190 + 5 for i, length in enumerate(lengths)]
    return [Row(ids, (Span(i, len(ids) // 2, len(ids)),)) for i, ids in enumerate(rows)]


@pytest.fixture
def on_a_gpu(on_cuda):
    """CUDA's path for the rest of the test."""
    with ExitStack() as stack:
        stack.enter_context(on_cuda())
        yield


def decoder_of(folder, **options) -> Decoder:
    """With graphs, which ``load_decoder`` gives to a GPU only, and the weights as they lie there."""
    decoder = Decoder(load_model(folder, torch.float32, False), EchoConfig(str(folder), **options).layers)
    decoder.prepare()
    use_graphs(decoder, Runtime(cuda_graphs=True))
    return decoder


def graphs_of(decoder: Decoder) -> Graphs:
    return decoder.states.__self__


def replays(decoder: Decoder) -> int:
    return sum(captured.graph.replays for captured in graphs_of(decoder)._captured.values())


@pytest.mark.parametrize(
    ("options", "device", "problem"),
    [
        ({}, "cpu", "cuda_graphs must be False on device 'cpu', which has none, got True"),
        ({"compile": True}, "cuda:0", "cuda_graphs must be False with compile=True"),
        ({"attention": "padded"}, "cuda:0", "cuda_graphs must be False with attention='padded'"),
    ],
)
def test_what_cannot_be_had_together_is_refused(options, device, problem):
    with pytest.raises(ConfigError, match=problem):
        check_graphs(Runtime(cuda_graphs=True, **options), torch.device(device))


def test_a_gpu_may_have_them_and_nobody_gets_them_unasked(tiny_llama):
    check_graphs(Runtime(cuda_graphs=True), torch.device("cuda", 0))
    decoder = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    assert decoder.states.__func__ is Decoder.states
    assert not decoder.takes_whole([5])


def test_the_encoder_refuses_them_on_a_cpu(tiny_llama):
    with pytest.raises(ConfigError, match="cuda_graphs must be False on device 'cpu'"):
        EchoEncoder(EchoConfig(str(tiny_llama)), Runtime(device="cpu", cuda_graphs=True))


@pytest.mark.parametrize("family", PACKS)
def test_every_family_s_replays_give_the_states_of_the_oracle(family, model_folder, on_a_gpu):
    """Rows of other lengths than those that a graph was captured with, in other numbers, beside a sliding window."""
    decoder, oracle = decoder_of(model_folder(family)), open_oracle(model_folder(family))
    for lengths in BATCHES:
        rows = rows_of(lengths, first=sum(lengths))
        states = decoder.states(pack_rows(rows))
        expected = torch.cat([oracle.states(row.ids.tolist()) for row in rows])
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)
    assert sorted(graphs_of(decoder)._captured) == [32, 64]
    assert replays(decoder) == len(BATCHES) + 2, "each graph was tried out once"


@pytest.mark.parametrize("layer", [2, (1, 3), (1, -1)])
def test_other_layers_are_read_from_a_replay_too(layer, tiny_llama, on_a_gpu):
    decoder = decoder_of(tiny_llama, layer=layer)
    for lengths in BATCHES[:3]:
        batch = pack_rows(rows_of(lengths))
        torch.testing.assert_close(decoder.states(batch), Decoder.states(decoder, batch), atol=1e-5, rtol=1e-4)
    assert replays(decoder) == 4


def test_a_batch_of_each_size_fills_its_own_graph_and_none_is_larger(tiny_llama, on_a_gpu):
    """One of 256 tokens is pruned where it is not replayed: its other states are not those of a graph."""
    decoder = decoder_of(tiny_llama)
    for tokens in (256, 1, *(size + more for size in SIZES for more in (0, 1))):
        batch = pack_rows(rows_of((tokens,)))
        (start, end), states, expected = batch.spans[0], decoder.states(batch), Decoder.states(decoder, batch)
        torch.testing.assert_close(states[start:end], expected[start:end], atol=1e-5, rtol=1e-4)
    assert tuple(sorted(graphs_of(decoder)._captured)) == SIZES


def test_a_query_s_vectors_are_those_of_the_oracle_after_a_long_instruction_too(tiny_llama, on_a_gpu):
    """What all queries begin with is kept, and a row after it would never have been replayed."""
    said = "Given a question of somebody in a hurry, find what answers it"
    template = "finetuned-query"
    config = EchoConfig(str(tiny_llama), query_template=template, instruction=said)
    encoder = EchoEncoder(config, FP32)
    decoder = encoder._engine.runner.decoder
    use_graphs(decoder, Runtime(cuda_graphs=True))
    texts = ["a cat", "where do eels go", "rain"]
    vectors = np.concatenate([encoder.encode_queries([text]) for text in texts])
    oracle, values = open_oracle(tiny_llama), {"instruction": said}
    expected = [oracle.vector(PIECES["finetuned-query"], {**values, "text": text}) for text in texts]
    np.testing.assert_allclose(vectors, expected, atol=2e-5)
    assert replays(decoder) > len(texts)
    assert encoder.statistics().prefix_hits == 0


def test_what_a_graph_does_not_serve_runs_as_ever(tiny_llama, on_a_gpu):
    decoder = decoder_of(tiny_llama)
    rows = rows_of((20, 9))
    batch = pack_rows(rows)
    for other in (
        replace(batch, slots=((1, 5),)),
        replace(batch, lengths=None),
        pack_rows([Row(np.arange(20), row.spans) for row in rows], shared=4),
        pack_rows(rows, prefix=Prefix(rows[0].ids[:0])),
        pack_rows(rows_of((SIZES[-1] + 1,))),
        pack_rows(rows_of((2,) * (ROWS + 1))),
    ):
        assert graphs_of(decoder).replayed(other) is None
    assert not decoder.takes_whole([200, 57])
    assert not decoder.takes_whole([2] * (ROWS + 1))
    assert decoder.takes_whole([200, 56])
    assert decoder.takes_whole([2] * ROWS)


def test_layers_are_still_heard_one_by_one(tiny_llama, on_a_gpu):
    """A replay calls no hooks."""
    decoder, batch = decoder_of(tiny_llama), pack_rows(rows_of((20, 9)))
    plain = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), FP32)
    expected = pooled_layers(plain, batch, [1, 2, 3], "mean")
    decoder.states(batch)
    torch.testing.assert_close(pooled_layers(decoder, batch, [1, 2, 3], "mean"), expected, atol=1e-5, rtol=1e-4)


WAITS = {
    "a number": lambda output: output.sum().item(),
    "a question": lambda output: 1 if output.sum() > 0 else 2,
    "a mask": lambda output: output[output > 0],
    "a copy": lambda output: output.to("meta"),
}


def hook_of(act):
    def hook(module, args, output):
        act(output)

    return hook


def count_calls(decoder):
    """A hook whose output depends on what a replay does not run."""
    calls = []
    decoder.readout.layers[0].register_forward_pre_hook(lambda module, args: calls.append(1))

    def hook(module, args, output):
        return output + 0.1 * len(calls)

    return hook


@pytest.mark.parametrize("problem", ["states differ", "no memory", *WAITS])
def test_a_pass_that_cannot_be_replayed_runs_as_ever_and_is_not_tried_again(
    problem, tiny_llama, on_a_gpu, caplog, monkeypatch
):
    decoder = decoder_of(tiny_llama)
    if problem == "no memory":

        def fail(*args, **options):
            raise torch.OutOfMemoryError("no memory")

        monkeypatch.setattr(torch.cuda, "CUDAGraph", fail)
    else:
        hook = hook_of(WAITS[problem]) if problem in WAITS else count_calls(decoder)
        decoder.readout.layers[0].mlp.register_forward_hook(hook)
    with caplog.at_level(logging.DEBUG, "echo_core"):
        for lengths in BATCHES[:3]:
            assert len(decoder.states(pack_rows(rows_of(lengths)))) == sum(lengths)
    (told,) = [record for record in caplog.records if "not replayed as graphs" in record.message]
    assert ("its pass waits for the device" if problem in WAITS else problem) in told.message
    assert told.levelno == logging.DEBUG
    assert not graphs_of(decoder)._captured
    assert not decoder.takes_whole([5]), "rows are laid out as ever too"


def test_positions_that_are_rotated_by_the_longest_row_are_not_replayed(model_folder, on_a_gpu):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    decoder = decoder_of(model_folder("llama", rope_parameters=rope, max_position_embeddings=64))
    decoder.states(pack_rows(rows_of((20,))))
    assert not graphs_of(decoder)._captured


def test_states_outlive_the_next_replay(tiny_llama, on_a_gpu):
    decoder, (one, other) = decoder_of(tiny_llama), (pack_rows(rows_of((20,), first)) for first in (1, 90))
    states = decoder.states(one)
    kept = states.clone()
    decoder.states(other)
    assert torch.equal(states, kept)


def test_weights_that_were_moved_are_captured_anew(tiny_llama, on_a_gpu):
    decoder, batch = decoder_of(tiny_llama), pack_rows(rows_of((20,)))
    decoder.states(batch)
    for parameter in decoder.model.parameters():
        parameter.data = 1.5 * parameter.data
    torch.testing.assert_close(decoder.states(batch), Decoder.states(decoder, batch), atol=1e-5, rtol=1e-4)


def test_threads_share_the_graphs(tiny_llama, on_a_gpu):
    decoder, found = decoder_of(tiny_llama), {}
    batches = [pack_rows(rows_of((9 + 3 * i % 40,), first=i)) for i in range(24)]

    def work(mine):
        found.update({i: decoder.states(batches[i]) for i in mine})

    threads = [threading.Thread(target=work, args=(range(start, 24, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, batch in enumerate(batches):
        torch.testing.assert_close(found[i], Decoder.states(decoder, batch), atol=1e-5, rtol=1e-4)
    assert replays(decoder) == len(batches) + 2


def test_copies_and_pickles_capture_their_own(tiny_llama, on_a_gpu):
    decoder, batch = decoder_of(tiny_llama), pack_rows(rows_of((20,)))
    expected = decoder.states(batch)
    for other in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert graphs_of(other) is not graphs_of(decoder)
        assert not graphs_of(other)._captured
        torch.testing.assert_close(other.states(batch), expected, atol=1e-5, rtol=1e-4)


def test_graphs_are_freed_with_their_decoder(tiny_llama, on_a_gpu):
    decoder = decoder_of(tiny_llama)
    decoder.states(pack_rows(rows_of((20,))))
    graph = weakref.ref(graphs_of(decoder)._captured[32].graph)
    del decoder
    gc.collect()
    assert graph() is None


def encoders(folder, **options):
    """On a GPU, with graphs and without."""
    config = EchoConfig(str(folder), query_template="echo", document_template="echo", **options)
    plain = Runtime(device="cuda", dtype="bfloat16")
    return EchoEncoder(config, replace(plain, cuda_graphs=True)), EchoEncoder(config, plain)


def texts_of(count, words=9):
    return [" ".join(f"w{(7 * i + j) % 50}" for j in range(1 + i % words)) for i in range(count)]


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3", "gpt2", "opt"])
def test_replays_on_a_gpu_give_the_eager_vectors(family, model_folder):
    ours, eager = encoders(model_folder(family))
    texts = texts_of(24)
    vectors, expected = (np.concatenate([each.encode_documents([text]) for text in texts]) for each in (ours, eager))
    assert (vectors * expected).sum(axis=1).min() > 0.99
    assert len(graphs_of(ours._engine.runner.decoder)._captured) > 1


@pytest.mark.gpu
def test_replays_on_a_gpu_go_on_after_a_larger_call_and_after_its_memory_was_freed(tiny_llama):
    ours, _ = encoders(tiny_llama)
    texts = texts_of(6)
    before = np.concatenate([ours.encode_documents([text]) for text in texts])
    together = ours.encode_documents(texts_of(3000, words=60))
    gc.collect()
    torch.cuda.empty_cache()
    after = np.concatenate([ours.encode_documents([text]) for text in texts])
    np.testing.assert_array_equal(after, before)
    assert np.isfinite(together).all()


@pytest.mark.gpu
def test_threads_with_streams_of_their_own_share_the_graphs_on_a_gpu(tiny_llama):
    ours, _ = encoders(tiny_llama)
    decoder = ours._engine.runner.decoder
    batches = [pack_rows(rows_of((9 + i % 40,), first=i)) for i in range(200)]
    expected = [decoder.states(batch) for batch in batches]
    found: dict[int, torch.Tensor] = {}

    def work(start):
        with torch.cuda.stream(torch.cuda.Stream()):
            found.update({i: decoder.states(batches[i]).cpu() for i in range(start, len(batches), 2)})

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, states in enumerate(expected):
        assert torch.equal(found[i], states.cpu())


@pytest.mark.gpu
def test_graphs_on_a_gpu_are_freed_with_their_encoder(tiny_llama):
    ours, _ = encoders(tiny_llama)
    ours.encode_documents(["a cat"])
    (captured,) = graphs_of(ours._engine.runner.decoder)._captured.values()
    graph = weakref.ref(captured.graph)
    del ours, captured
    threading.Event().wait(1)  # the model's own thread ends
    gc.collect()
    assert graph() is None
