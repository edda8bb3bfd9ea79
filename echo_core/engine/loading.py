"""A folder to a decoder: a checkpoint's base model, whole, on a device, with the speed-ups that leave its states."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from echo_core.config import EchoConfig, Runtime
from echo_core.engine.architecture import check_sizes
from echo_core.engine.decoder import Decoder
from echo_core.engine.device import choose_device, choose_dtype
from echo_core.engine.rotation import check_scaled, scale_positions
from echo_core.engine.speedups.compile import check_compile, compile_layers
from echo_core.engine.speedups.graphs import check_graphs, use_graphs
from echo_core.engine.speedups.packed_weights import pack
from echo_core.errors import EchoError, ModelError
from echo_core.identity.weights import weight_files
from echo_core.process.forks import load_lock

CHECKS = (check_compile, check_graphs)  # before anything is loaded
SPEEDUPS = (pack, compile_layers, use_graphs)  # in this order: a compiled layer has its weights already


def load_decoder(folder: Path, config: EchoConfig, runtime: Runtime, probe_ids: Sequence[int] = ()) -> Decoder:
    """The decoder of a checkpoint's folder, tried out and ready, for inference only.

    Args:
        folder: local, with config and safetensors weights.
        config: says which layers are read.
        runtime: says where and how it runs.
        probe_ids: see ``Decoder``.

    Raises:
        ModelError: an encoder, an encoder-decoder, an architecture that transformers does not know, or weights that are
            missing.
        ConfigError: ``layer`` beyond the model's, or a device that is not there.
    """
    device = choose_device(runtime.device)
    for check in CHECKS:
        check(runtime, device)
    with load_lock():
        dtype = choose_dtype(runtime.dtype, device)
        scaled = {} if config.rope_scaling is None else {"rope_scaling": config.rope_scaling}
        model = load_model(folder, dtype, runtime.trust_remote_code, **scaled, **_quantized(config, device))
        decoder = Decoder(
            model,
            config.layers,
            config.prepend_layers,
            attention=runtime.attention,
            keeps=not runtime.compile,
            probe_ids=probe_ids,
        )
        decoder.model.requires_grad_(False)
        if config.quantization is None:  # quantized weights are there already
            decoder.model.to(device)  # the layers after the read-out are gone, and never take memory there
        decoder.prepare()
        for speed_up in SPEEDUPS if config.quantization is None else (compile_layers, use_graphs):
            speed_up(decoder, runtime)
    _leave_the_file(decoder.model)
    return decoder


def _leave_the_file(model: nn.Module) -> None:
    """Copy what still lies in the checkpoint's mapped file: written over in place, it would change a loaded model."""
    for tensor in (*model.parameters(), *model.buffers()):
        copied = tensor.is_mkldnn or tensor.is_inference()  # packed, and what was unpacked again
        if tensor.device.type == "cpu" and not copied:
            tensor.data = tensor.data.clone()


def load_model(folder: str | os.PathLike[str], dtype: torch.dtype, trust_remote_code: bool, **quantized: Any) -> Any:
    """A checkpoint's base model in a dtype, on the CPU unless it is ``quantized``; raises like ``load_whole``."""
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code, "local_files_only": True, **quantized}
    return load_whole(folder, **options).eval()


def _quantized(config: EchoConfig, device: torch.device) -> dict[str, Any]:
    """What transformers is told so that it quantizes the weights while it loads them: on the device itself."""
    if config.quantization is None:
        return {}
    return {"quantization_config": deepcopy(dict(config.quantization)), "device_map": {"": device}}


def load_whole(name: str | os.PathLike[str], **options: Any) -> Any:
    """The base model of a causal language model, from safetensors, none missing; without an LM head.

    With ``dtype`` it is loaded in that dtype, not cast: a cast would round the rotary frequencies too. One thread loads
    at a time, as transformers sets torch's default dtype for the whole process meanwhile, and two would mix it up.

    Args:
        name: a folder, or a name on the Hub.
        options: those of ``AutoModel.from_pretrained``, and ``rope_scaling`` as in ``EchoConfig``.

    Raises:
        ModelError: it cannot be loaded, is an encoder-decoder, or has no safetensors weights, or not all of them.
    """
    with load_lock():
        try:
            model, report = _from_pretrained(os.fspath(name), options)
        except EchoError:
            raise
        except Exception as error:  # a foreign folder may fail in any way, in any library that reads it
            raise ModelError(f"model in {name} cannot be loaded: {_reason(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"model in {name} must have all its weights, got none for {missing[:3]}; save it again, whole")
    return model


def _from_pretrained(name: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model, and transformers' report of what was loaded."""
    from transformers import AutoConfig, AutoModel

    of_config = {key: value for key, value in options.items() if key in _FINDING}
    config, scaling = options.pop("config", None), options.pop("rope_scaling", None)
    config = config or AutoConfig.from_pretrained(name, **of_config)
    if config.is_encoder_decoder:
        got = f"got {config.model_type!r}, an encoder-decoder"
        raise ModelError(f"model must be a decoder, {got}; use a causal language model")
    if Path(name).is_dir():
        check_sizes(config.get_text_config(decoder=True), _tensor_shapes(Path(name)))
    with _quiet_transformers():
        if scaling is not None:
            scale_positions(config, scaling)
        model, report = AutoModel.from_pretrained(
            name, config=config, **{**options, "use_safetensors": True, "output_loading_info": True}
        )
    if scaling is not None:
        check_scaled(model, scaling)
    return model, report


def _tensor_shapes(folder: Path) -> list[list[int]]:
    """The shapes of all tensors that the folder's weight files hold, from their headers."""
    files = weight_files(folder)
    if not files:
        raise ModelError(f"model in {folder} must have its weights as model*.safetensors, got none; save it again so")
    shapes: list[list[int]] = []
    for path in files:
        with safe_open(path, "pt") as file:
            names = file.keys()
            shapes += [file.get_slice(name).get_shape() for name in names]
    return shapes


def _reason(error: Exception) -> str:
    if "ignore_mismatched_sizes" in str(error):  # transformers points to a report that it has logged
        return "its config.json and its weights disagree in sizes"
    return str(error) or type(error).__name__


# Options that say where a model's files are found, for its config too.
_FINDING = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without a bar for each load, and without transformers' report of unexpected keys.

    These are the LM head's, which is left out on purpose.
    """
    from transformers.utils import logging as transformers_logging

    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
