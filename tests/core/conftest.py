"""What the tests of the public API share."""

from __future__ import annotations

from pathlib import Path

import pytest
from encoders import encoder_of

from echo_core import EchoEncoder


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> EchoEncoder:
    return encoder_of(tiny_llama, query_template="classical", max_tokens=64)
