from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from echo_core import EchoConfig, Runtime
from echo_core.engine import device
from echo_core.engine.device import choose_device, choose_dtype
from echo_core.errors import ConfigError
from echo_core.pipeline import assembly


@pytest.mark.parametrize("wanted", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(wanted: str, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device '{wanted}' is not available here; available: cpu"):
        choose_device(wanted)
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize("wanted", ["cpu:x", "auto:1"])
def test_a_device_that_torch_does_not_know_is_refused(wanted: str):
    with pytest.raises(ConfigError, match="must be a device of torch"):
        choose_device(wanted)


@pytest.mark.parametrize(
    ("amx", "avx512", "vendor", "expected"),
    [
        (True, True, "GenuineIntel", torch.bfloat16),
        (False, True, "AuthenticAMD", torch.bfloat16),
        (False, True, "GenuineIntel", torch.float32),  # half the rate of float32, measured
        (False, False, "AuthenticAMD", torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_multiplies_it_faster(amx, avx512, vendor, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(device, "_cpu_vendor", lambda: f"vendor_id\t: {vendor}")
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) is expected
    assert choose_dtype("float16", cpu) is torch.float16
    assert choose_dtype("auto", torch.device("mps")) is torch.float32


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs as torch tells of them: the current one is the thread's own, 0 until it sets another."""
    current = threading.local()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: setattr(current, "index", index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(current, "index", 0))


def test_a_gpu_is_named_with_its_index(two_gpus):
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    torch.cuda.set_device(1)
    assert choose_device("cuda") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("wanted", "there"), [("cuda:9", "2 of this kind here (cuda:0, cuda:1)"), ("cpu:1", "cpu:0")])
def test_an_index_beyond_the_last_device_is_refused_with_those_that_are(wanted: str, there: str, two_gpus):
    """``cuda:9`` reached torch, whose error came from the middle of loading and was no ConfigError."""
    with pytest.raises(ConfigError) as refused:
        choose_device(wanted)
    assert there in str(refused.value)
    assert wanted in str(refused.value)


def test_a_model_is_loaded_on_the_current_gpu_of_the_calling_thread(tiny_llama: Path, two_gpus, monkeypatch):
    """After ``torch.cuda.set_device(1)`` a model went to GPU 0: the thread that loads has a current GPU of its own."""

    class Asked(Exception):
        pass

    def load(folder, config, runtime, *others):
        raise Asked(str(choose_device(runtime.device)))

    monkeypatch.setattr(assembly, "load_runner", load)
    torch.cuda.set_device(1)
    for wanted in ("cuda", "auto"):
        with pytest.raises(Asked, match=r"^cuda:1$"):
            assembly.load_engine(EchoConfig(str(tiny_llama)), Runtime(device=wanted))


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_auto_takes_bfloat16_where_the_chosen_gpu_has_tensor_cores_for_it(capability, expected, monkeypatch):
    """``is_bf16_supported`` is true of emulated bfloat16 too (capability 7.5), and tells of the current GPU only."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    of = {0: (8, 6) if expected is torch.float32 else (7, 5), 1: capability}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: of[device.index if device else 0])
    assert choose_dtype("auto", torch.device("cuda:1")) is expected
    assert choose_dtype("bfloat16", torch.device("cuda:1")) is torch.bfloat16
