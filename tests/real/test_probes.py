"""What pretrained models are tried out on at load: no false alarm, and every speed-up stays on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from echo_core import EchoConfig, Runtime
from echo_core.engine.attention.interface import ROWS
from echo_core.engine.loading import load_decoder
from echo_core.engine.speedups.packed_weights import PackedLinear
from echo_core.pipeline.assembly import plain_ids
from echo_core.text.tokenizer import TextTokenizer

pytestmark = pytest.mark.real


@pytest.mark.parametrize("layer", [-1, (-2, -3)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("of_text", [True, False])
def test_a_pretrained_model_keeps_every_speed_up_and_nothing_is_logged(
    folder: Path, dtype: str, layer: int | tuple[int, ...], of_text: bool, caplog: pytest.LogCaptureFixture
):
    """SmolLM2 ran padded in bfloat16, with a warning that its rows see each other."""
    config = EchoConfig(str(folder), layer=layer)
    said = plain_ids(TextTokenizer.from_folder(folder), config) if of_text else []
    with caplog.at_level(logging.INFO, "echo_core"):
        decoder = load_decoder(folder, config, Runtime(device="cpu", dtype=dtype), said)
    fit = decoder.prepare()
    assert (fit.attention.layout, fit.attention.name) == ("packed", ROWS)
    assert fit.pruning is not None
    assert any(isinstance(module, PackedLinear) for module in decoder.model.modules())
    assert not caplog.records
