"""Linear layers in 8 bits on a GPU, by torchao: each weight row and each token its own scale.

Half the memory of bfloat16, and tensor cores that multiply twice as fast from compute capability 8.9 on (Ada, Hopper).
Layers whose sizes are no multiples of 16 stay as they are, and so do embeddings, norms and attention.
"""

from __future__ import annotations

import torch
from torch import nn

from echo_core.config import Runtime
from echo_core.engine.decoder import Decoder
from echo_core.engine.probes import FP8_COSINE, fp8_cosine
from echo_core.errors import ConfigError

CAPABILITY = (8, 9)
_LEAST = 1e-12  # a token's largest number, at least: one of zeros only is not divided by 0


def check_fp8(runtime: Runtime, device: torch.device) -> None:
    """Raise ConfigError where 8 bits are asked for and cannot be had: another device, an older GPU, no torchao."""
    if runtime.dtype != "fp8":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        capability = ".".join(map(str, CAPABILITY))
        needed = f"a CUDA GPU of compute capability {capability} or more"
        raise ConfigError(f"dtype 'fp8' needs {needed}, got {_describe(device)}; use bfloat16")
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise ConfigError("dtype 'fp8' needs torchao; pip install 'echo-embed[fp8]'") from error


@torch.inference_mode()
def quantize(decoder: Decoder, runtime: Runtime) -> None:
    """Quantise the decoder's linear layers, where that is asked for.

    Raises:
        ConfigError: the states of probe rows point elsewhere than in bfloat16.
    """
    if runtime.dtype != "fp8":
        return
    rows = decoder.probe_rows()
    expected = decoder.forward(rows.ids)
    quantize_linear(decoder.model)
    cosine = fp8_cosine(decoder.forward(rows.ids), expected)
    if not cosine >= FP8_COSINE:  # not a number is refused too
        kept = f"keep a cosine of {FP8_COSINE} to bfloat16 on this model"
        raise ConfigError(f"dtype 'fp8' must {kept}, got {cosine:.4f}; use bfloat16")


def quantize_linear(model: nn.Module) -> None:
    """Replace the weights of the model's linear layers, in place; their inputs are scaled as they come."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), activation_value_lb=_LEAST, set_inductor_config=False
    )
    quantize_(model, config)


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return f"device {str(device)!r}"
    return f"{torch.cuda.get_device_name(device)} with {'.'.join(map(str, torch.cuda.get_device_capability(device)))}"
