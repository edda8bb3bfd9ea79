"""One encoder of a kind for the whole process, so that its weights are loaded once."""

from __future__ import annotations

from echo_core.config import EchoConfig, Runtime
from echo_core.encoder import EchoEncoder
from echo_core.engine.threads import process_lock

_shared: dict[tuple[EchoConfig, Runtime], EchoEncoder] = {}


def shared_encoder(config: EchoConfig, runtime: Runtime | None = None) -> EchoEncoder:
    """The process-wide encoder of a config and a runtime, loaded at the first call; adapters use it."""
    key = (config, runtime or Runtime())
    with process_lock("shared encoders"):
        if key not in _shared:
            _shared[key] = EchoEncoder(*key)
        return _shared[key]
