from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ModelFolder

import echo_core.engine.decoder
from echo_core import ConfigError, EchoConfig, EchoEncoder, Runtime
from echo_core.engine.batches import pad_rows
from echo_core.engine.decoder import Decoder
from echo_core.engine.loading import load_decoder, load_model
from echo_core.engine.speedups.compile import check_compile, compile_layers
from echo_core.text.rows import Row, Span


def test_it_is_refused_on_a_cpu_before_anything_is_loaded(tmp_path: Path):
    """It was obeyed there, gained nothing and made a query alone slower."""
    with pytest.raises(ConfigError, match=r"compile must be False on device 'cpu', where it gains nothing, got True"):
        load_decoder(tmp_path, EchoConfig(str(tmp_path)), Runtime(device="cpu", compile=True))


def test_the_encoder_refuses_it_too(tiny_llama: Path):
    with pytest.raises(ConfigError, match="compile must be False on device 'cpu'"):
        EchoEncoder(EchoConfig(str(tiny_llama)), Runtime(device="cpu", compile=True))


def test_a_gpu_may_compile():
    check_compile(Runtime(compile=True), torch.device("cuda", 0))


def test_only_layers_without_hooks_inside_are_compiled_and_only_if_asked(tiny_llama: Path, monkeypatch):
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: compiled.append(forward) or forward)
    decoder = Decoder(load_model(tiny_llama, torch.float32, False), [-1])
    compile_layers(decoder, Runtime())
    assert not compiled
    compile_layers(decoder, Runtime(compile=True))
    assert len(compiled) == len(decoder.readout.layers) - 1, "the last one is pruned"


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, 2])
def test_compiled_layers_give_the_same_states(layer: int, model_folder: ModelFolder, monkeypatch):
    monkeypatch.setattr(echo_core.engine.decoder, "WORTH", 0)  # prune the last layer in short batches too
    batch = pad_rows([Row(torch.arange(n).numpy() + 3, (Span(i, n // 2, n - 1),)) for i, n in enumerate((9, 30, 5))])
    plain, compiled = (Decoder(load_model(model_folder(), torch.float32, False), [layer]) for _ in range(2))
    compile_layers(compiled, Runtime(compile=True))
    for start, end in batch.spans:
        torch.testing.assert_close(
            compiled.states(batch)[start:end], plain.states(batch)[start:end], atol=2e-5, rtol=1e-4
        )
