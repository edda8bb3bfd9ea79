"""What all systems of a run share, and our encoder on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from echo_core import EchoConfig, EchoEncoder, Runtime

MAX_TOKENS = (
    512  # a saying: no text of the tables but the long documents is cut, so that all systems see the same tokens
)


@dataclass(frozen=True)
class Setting:
    """A model and how it is run."""

    shape: str
    folder: Path
    device: str
    dtype: str
    compile: bool
    repeats: int
    peak: float  # FLOP/s of matrix products


def echo_encoder(
    setting: Setting,
    template: str = "echo",
    compiled: bool = False,
    max_tokens: int = MAX_TOKENS,
    instruction: str | None = None,
) -> EchoEncoder:
    """Our encoder on a setting's model."""
    config = EchoConfig(
        str(setting.folder),
        query_template=template,
        document_template=template,
        max_tokens=max_tokens,
        instruction=instruction,
    )
    return EchoEncoder(config, Runtime(device=setting.device, dtype=setting.dtype, compile=compiled))
