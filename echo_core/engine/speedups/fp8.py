"""Linear layers in 8 bits on a GPU, by torchao: each weight row and each token its own scale. Opt-in, as it changes vectors a little.

Half the memory of bfloat16, and tensor cores that multiply twice as fast from compute capability 8.9 on (Ada, Hopper). Layers whose sizes are no
multiples of 16 stay as they are, and so do embeddings, norms and attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echo_core.errors import ConfigError

CAPABILITY = (8, 9)
COSINE = 0.995  # least, of probe rows' mean states before and after
_LEAST = 1e-12  # taken as a token's largest number, so that one of zeros only (a padding token's embedding, say) is not divided by 0


def check_fp8(device: torch.device) -> None:
    """Raise ConfigError where 8 bits cannot be multiplied: another device, an older GPU, no torchao."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        capability = ".".join(map(str, CAPABILITY))
        raise ConfigError(
            f"dtype 'fp8' needs a CUDA GPU of compute capability {capability} or more, got {_describe(device)}; use bfloat16"
        )
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise ConfigError("dtype 'fp8' needs torchao; pip install 'echo-embed[fp8]'") from error


def quantize_linear(model: nn.Module) -> None:
    """Replace the weights of the model's linear layers, in place; their inputs are scaled as they come."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), activation_value_lb=_LEAST, set_inductor_config=False
    )
    quantize_(model, config)


def check_exact_enough(states: Tensor, expected: Tensor) -> None:
    """Raise ConfigError if the rows' mean states (B, T, D) point elsewhere than in bfloat16."""
    cosine = float(torch.cosine_similarity(states.float().mean(1), expected.float().mean(1)).min())
    if not cosine >= COSINE:  # not a number is refused too
        raise ConfigError(
            f"dtype 'fp8' must keep a cosine of {COSINE} to bfloat16 on this model, got {cosine:.4f}; use bfloat16"
        )


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return f"device {str(device)!r}"
    return f"{torch.cuda.get_device_name(device)} with {'.'.join(map(str, torch.cuda.get_device_capability(device)))}"
