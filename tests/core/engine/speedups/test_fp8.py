from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.loading import load_decoder
from echo_core.engine.probes import FP8_COSINE, fp8_cosine
from echo_core.engine.speedups.fp8 import check_fp8, quantize, quantize_linear
from echo_core.engine.speedups.packed_weights import unpack_weights
from echo_core.errors import ConfigError

FP8 = Runtime(dtype="fp8")
CUDA = torch.device("cuda")
TEXTS = ["a cat", "The quick brown fox jumps over the lazy dog, twice.", "rain"]


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))


def test_a_cpu_is_refused_before_anything_is_loaded(tiny_llama):
    with pytest.raises(
        ConfigError,
        match=r"dtype 'fp8' needs a CUDA GPU of compute capability 8\.9 or more, got device 'cpu'; use bfloat16",
    ):
        EchoEncoder(EchoConfig(str(tiny_llama)), Runtime(device="cpu", dtype="fp8"))


@pytest.mark.usefixtures("hopper")
def test_an_older_gpu_is_refused_by_name(monkeypatch):
    check_fp8(FP8, CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    with pytest.raises(ConfigError, match=r"got a GPU with 8\.0; use bfloat16"):
        check_fp8(FP8, CUDA)


@pytest.mark.usefixtures("hopper")
def test_without_torchao_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"pip install 'echo-embed\[fp8\]'"):
        check_fp8(FP8, CUDA)


@pytest.mark.parametrize("fault", [0.3, torch.nan])
def test_a_model_that_does_not_bear_it_is_refused(fault: float, tiny_llama, monkeypatch):
    def spoil(model: nn.Module) -> None:
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(fault * parameter.std() * torch.randn_like(parameter))

    decoder = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), Runtime(device="cpu", dtype="float32"))
    monkeypatch.setattr("echo_core.engine.speedups.fp8.quantize_linear", spoil)
    with pytest.raises(
        ConfigError, match=r"must keep a cosine of 0\.995 to bfloat16 on this model, got (0\.\d{4}|nan)"
    ):
        quantize(decoder, FP8)


def test_the_cosine_of_probe_rows_is_the_least_of_their_mean_states():
    states = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    assert fp8_cosine(states * 1.01, states) > 0.9999
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    assert fp8_cosine(states + torch.tensor([0.0, 1.0])[:, None, None] * noise, states) < FP8_COSINE


@pytest.fixture
def without_hardware_check(monkeypatch):
    """On a CPU torchao multiplies in 8 bits too, slowly, once its check of the hardware is taken out."""
    monkeypatch.setattr("torchao.quantization.quant_api._check_hardware_support", lambda granularity: None)


@pytest.mark.fp8
@pytest.mark.usefixtures("without_hardware_check")
def test_weights_are_8_bits_and_vectors_nearly_the_same():
    encoder = EchoEncoder(EchoConfig(), Runtime(device="cpu", dtype="bfloat16"))
    expected = encoder.encode_documents(TEXTS)
    model = encoder._engine.runner.decoder.model
    unpack_weights(model)
    quantize_linear(model)
    kinds = {module.weight.qdata.dtype for module in model.modules() if isinstance(module, nn.Linear)}
    assert kinds == {torch.float8_e4m3fn}
    vectors = encoder.encode_documents(TEXTS)
    assert not np.array_equal(vectors, expected)
    assert float(np.sum(vectors * expected, axis=1).min()) >= FP8_COSINE


@pytest.mark.fp8
@pytest.mark.usefixtures("without_hardware_check")
def test_a_state_of_zeros_stays_one():
    layer = nn.Sequential(nn.Linear(32, 32, bias=False, dtype=torch.bfloat16))
    quantize_linear(layer)
    with torch.inference_mode():
        assert torch.equal(layer(torch.zeros(2, 32, dtype=torch.bfloat16)), torch.zeros(2, 32, dtype=torch.bfloat16))


@pytest.mark.gpu
def test_vectors_on_a_gpu_are_near_those_of_bfloat16():
    vectors, expected = (
        EchoEncoder(EchoConfig(), Runtime(device="cuda", dtype=dtype)).encode_documents(TEXTS)
        for dtype in ("fp8", "bfloat16")
    )
    assert float(np.sum(vectors * expected, axis=1).min()) >= FP8_COSINE
    assert not np.array_equal(vectors, expected)
