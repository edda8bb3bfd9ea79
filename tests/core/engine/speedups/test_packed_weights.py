from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from conftest import ModelFolder
from tiny_models import FAMILIES
from torch import Tensor, nn

from echo_core import EchoConfig, EchoEncoder, Runtime
from echo_core.engine.batches import pack_rows, pad_rows
from echo_core.engine.loading import load_decoder
from echo_core.engine.speedups.packed_weights import PackedLinear, pack_weights, unpack_weights
from echo_core.text.rows import Row, Span

ROWS = [Row(np.arange(n) + 3, (Span(i, n // 2, n - 1),)) for i, n in enumerate((9, 30, 17, 5))]
pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN has nothing to pack with"
)


def runtime(dtype: str = "float32", **knobs: object) -> Runtime:
    return Runtime(device="cpu", dtype=dtype, **knobs)  # type: ignore[arg-type]


def packed_layers(model: nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Sequential(nn.Linear(40, 7, bias=False)))


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24), (0, 24)])
def test_a_packed_layer_is_the_plain_one_for_any_shape(shape: tuple[int, ...]):
    plain = layers()[0]
    with torch.inference_mode():
        states = torch.randn(shape)
        torch.testing.assert_close(PackedLinear(plain)(states), plain(states), atol=1e-6, rtol=1e-5)


def test_packing_leaves_no_plain_weight_and_unpacking_is_exact():
    model = layers()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    pack_weights(model)
    assert packed_layers(model) == 2
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    unpack_weights(model)
    assert packed_layers(model) == 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_subclass_of_a_linear_layer_stays_as_it_may_do_more():
    class Scaled(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            return 2 * super().forward(states)

    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4))
    pack_weights(model)
    assert type(model[0]) is Scaled
    assert isinstance(model[1], PackedLinear)


def test_no_gradient_is_pretended(tiny_llama):
    states = load_decoder(tiny_llama, EchoConfig(str(tiny_llama)), runtime()).forward(torch.arange(6)[None])
    assert not states.requires_grad


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_plain_weights_on_any_family(
    family: str, dtype: str, apart: float, model_folder: ModelFolder
):
    folder = model_folder(family)
    model = load_decoder(folder, EchoConfig(str(folder)), runtime(dtype))
    batch = pad_rows(ROWS) if model.layout == "padded" else pack_rows(ROWS)
    packed = model.states(batch).float()
    linear = packed_layers(model.model)
    unpack_weights(model.model)
    plain = model.states(batch).float()
    assert linear > 0 or family == "gpt2", "whose layers are of a class of transformers"
    for start, end in batch.spans:
        assert float((packed[start:end] - plain[start:end]).norm() / plain[start:end].norm()) <= apart


def absent(self: PackedLinear, linear: nn.Linear) -> None:
    raise RuntimeError("not on this processor")


def wrong(self: PackedLinear, states: Tensor) -> Tensor:
    return 1.01 * torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")


@pytest.mark.parametrize(
    ("method", "fault", "told"), [("__init__", absent, "not on this processor"), ("forward", wrong, "states differ")]
)
def test_where_it_is_absent_or_wrong_the_weights_stay_and_the_log_says_so(
    method: str, fault, told: str, tiny_llama, monkeypatch, caplog
):
    expected = EchoEncoder(EchoConfig(str(tiny_llama)), runtime()).encode_queries(["two words"])
    monkeypatch.setattr(PackedLinear, method, fault)
    with caplog.at_level(logging.DEBUG, "echo_core"):
        encoder = EchoEncoder(EchoConfig(str(tiny_llama)), runtime())
    assert packed_layers(encoder._engine.runner.decoder.model) == 0
    assert [record for record in caplog.records if told in record.message]
    np.testing.assert_allclose(encoder.encode_queries(["two words"]), expected, atol=1e-6)
