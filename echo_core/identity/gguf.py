"""A GGUF file (llama.cpp, Ollama, LM Studio) to a folder of bf16 safetensors, once for each content.

transformers does the unpacking. What it leaves out silently is put back (scaled positions) or refused (numbers that no
weight of the model takes).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from echo_core.errors import ModelError
from echo_core.identity.contents import content_hash, file_stamp
from echo_core.identity.files import built_once, check_room, read_json, save_model, write_json
from echo_core.identity.gguf_header import Header, check_whole, quantization_of, read_floats, read_header
from echo_core.identity.weights import SOURCE_KEY, is_whole
from echo_core.process.forks import load_lock

log = logging.getLogger("echo_core")

_VERSION = 2  # of this converter: raised when it writes something else for the same file
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_ORIGINAL = 8192  # positions that Llama 3 was trained on before its positions were scaled
_PROBES = ("Hello, world", "  two  spaces\n\nnew line\t5 cats", "Ünïcode 漢字 🎉", "<s> </s> <|im_end|> <eos>")


def unpack_gguf(file: Path) -> Path:
    """The folder of bf16 safetensors, config and tokenizer that a GGUF file says; made at the first use and cached.

    The cached folder's name is the hash of the file's content and this converter's version.

    Raises:
        ModelError: no GGUF file, cut off, split, of an architecture that transformers cannot read from GGUF, without
            the extra ``gguf``, or no
            room on the disk.
    """
    if part := _PART.search(file.name):
        merge = f"llama-gguf-split --merge {file.name} WHOLE.gguf"
        raise ModelError(f"model must be one GGUF file, got {file}, one of {int(part[2])} parts; join them: {merge}")
    name = f"{content_hash(file)}-{_VERSION}"
    with load_lock():
        return built_once("gguf", name, is_whole, lambda folder: _convert(file, folder))


def _convert(file: Path, folder: Path) -> None:
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise ModelError(f"{file} needs the package {missing[0]} to be read; pip install 'echo-embed[gguf]'")
    header, stamp = read_header(file), file_stamp(file)
    check_whole(file, header)
    check_room(
        int(2.2 * sum(place.numbers for place in header.tensors.values())), "gguf"
    )  # two bytes each, and the vocabulary
    quantization = quantization_of(header)
    size = file.stat().st_size / 1e6
    log.info("unpacking %s (%s, %.0f MB) into bf16 safetensors, once; later loads read those", file, quantization, size)
    with _alone(file, folder) as link:
        fields, tokenizer, state = _read(link, header)
    if file_stamp(file) != stamp:
        raise ModelError(f"{file} must stay as it is while it is unpacked, but was written; load it again")
    _write(folder, fields, tokenizer, state, f"GGUF {quantization}")


@contextmanager
def _alone(file: Path, folder: Path) -> Iterator[Path]:
    """The file under a name in an empty folder, so that nothing that lies beside it is read with it."""
    link = folder / "model.gguf"
    try:
        link.symlink_to(file.resolve())
    except OSError:  # a file system or user without symbolic links
        link.hardlink_to(file.resolve())
    try:
        yield link
    finally:
        link.unlink()


def _read(link: Path, header: Header) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The config's fields, the tokenizer and the weights in bf16, as transformers reads them from a GGUF file."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

    where: dict[str, Any] = {"gguf_file": link.name, "local_files_only": True}
    try:
        with _parsed_once():
            fields, _ = PreTrainedConfig.get_config_dict(link.parent, **where)
            fields.pop("_model_name_or_path", None)
            fields |= _scaled_positions(link, header)
            tokenizer = with_bos(PreTrainedTokenizerFast.from_pretrained(link.parent, **where), header)
            options = {"dtype": torch.bfloat16, "output_loading_info": True, **_dense(), **where}
            model, report = AutoModelForCausalLM.from_pretrained(
                link.parent, config=AutoConfig.for_model(**deepcopy(fields)), **options
            )
    except ModelError:
        raise
    except Exception as error:  # whatever transformers and gguf raise about a file that they do not understand
        problem = f"cannot be read by transformers as a causal language model: {error}"
        name = f"{link.resolve()}, of architecture {header.architecture!r},"
        raise ModelError(f"{name} {problem}; take the same model as safetensors") from error
    _check_all_read(link, header, model, report["missing_keys"])
    return fields, tokenizer, model.state_dict()


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Keep what gguf has parsed, as transformers asks for it again: for config, tokenizer, weights and each module.

    That is a third to a half of the time that unpacking takes (benchmarks/LOG.md).
    """
    import gguf

    readers: dict[str, gguf.GGUFReader] = {}

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """One for each path."""

        def __new__(cls, path: Any, *mode: Any) -> Any:
            return readers.setdefault(str(path), super().__new__(cls))

        def __init__(self, path: Any, *mode: Any) -> None:
            if not vars(self):
                super().__init__(path, *mode)

    own = gguf.GGUFReader, gguf.get_tensor_name_map
    try:
        gguf.GGUFReader, gguf.get_tensor_name_map = Reader, cache(own[1])
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = own


def with_bos(tokenizer: Any, header: Header) -> Any:
    """The tokenizer, with its BOS first where the file asks for one: some versions of transformers leave it out."""
    from tokenizers.processors import Sequence, TemplateProcessing

    bos, wanted = tokenizer.bos_token, header.values.get("tokenizer.ggml.add_bos_token")
    if wanted and bos is not None and tokenizer("a").input_ids[:1] != [tokenizer.bos_token_id]:
        backend = tokenizer.backend_tokenizer
        first = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
        before = backend.post_processor
        backend.post_processor = first if before is None else Sequence([before, first])
    return tokenizer


def _check_all_read(link: Path, header: Header, model: Any, missing: Iterable[str]) -> None:
    """Return if every weight came from the file, and every number of the file, but rotations, went into one."""
    if lacking := sorted(missing):
        raise ModelError(f"{link.resolve()} must hold all weights, got none for {lacking[:3]}; download it again")
    there = sum(place.numbers for name, place in header.tensors.items() if not name.startswith("rope_"))
    read = sum(weight.numel() for weight in model.parameters())
    if read != there:
        problem = f"{read:,} of the {there:,} numbers of {link.resolve()} are read by transformers"
        raise ModelError(f"all weights must be read, but {problem}; take the same model as safetensors")


def _scaled_positions(link: Path, header: Header) -> dict[str, Any]:
    """The config's field for positions that are not rotated in the plain way, which transformers leaves out."""
    kind, factor = header.get("rope.scaling.type"), header.get("rope.scaling.factor")
    if "rope_freqs.weight" in header.tensors:
        return {"rope_scaling": _llama3_scaling(link, header)}
    if kind in (None, "none") or header.architecture == "gpt-oss":  # of which transformers knows
        return {}
    original = header.get("rope.scaling.original_context_length")
    scaling = {
        "linear": {"rope_type": "linear", "factor": factor},
        "yarn": {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original},
    }.get(kind)
    if scaling is None or None in scaling.values():
        raise ModelError(
            f"{link.resolve()} scales its positions by {kind!r}, which is not read; take it as safetensors"
        )
    return {"rope_scaling": scaling}


def _llama3_scaling(link: Path, header: Header) -> dict[str, Any]:
    """Llama 3's scaling of positions, from the factors that llama.cpp keeps of it, if it is the released one."""
    place = header.tensors["rope_freqs.weight"]
    factors = read_floats(link, place)
    base, width = header.get("rope.freq_base"), header.get("rope.dimension_count")
    largest = float(factors.max(initial=0))
    if base and width and largest >= 1:
        lengths = 2 * np.pi * base ** (np.arange(0, width, 2) / width)  # positions in one turn
        smooth = np.clip((_ORIGINAL / lengths - 1) / (4 - 1), 0, 1)
        expected = 1 / ((1 - smooth) / largest + smooth)
        if expected.shape == factors.shape and np.allclose(factors, expected, rtol=1e-3):
            limits = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": _ORIGINAL}
            return {"rope_type": "llama3", "factor": largest, **limits}
    raise ModelError(
        f"{link.resolve()} rotates its positions by factors of its own, which are not read; take safetensors"
    )


def _write(folder: Path, fields: dict[str, Any], tokenizer: Any, state: dict[str, Any], source: str) -> None:
    """Write a folder that any transformers loads: config.json says what the file said, whichever version read it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**deepcopy(fields)), dtype=torch.bfloat16)
    model.load_state_dict(state, assign=True)  # the model that was read from GGUF refuses to be saved
    model.tie_weights()
    save_model(model, folder)
    architecture = {"architectures": [type(model).__name__], "dtype": "bfloat16", SOURCE_KEY: source}
    write_json(folder / "config.json", {**fields, **architecture})
    _keep_tokenizer(tokenizer, folder)


def _dense() -> dict[str, Any]:
    """What newer versions of transformers must be told so that they unpack; older ones always do."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _keep_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer so that tokenizer.json is taken as it is, instead of being rebuilt by a family's class."""
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    kept = {key: value for key, value in read_json(settings).items() if key not in ("is_local", "local_files_only")}
    write_json(settings, {**kept, "tokenizer_class": "PreTrainedTokenizerFast"})
    again = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if any(again(text).input_ids != tokenizer(text).input_ids for text in _PROBES):
        kind = type(tokenizer).__name__
        raise ModelError(f"the tokenizer of a GGUF file must stay as it is, got a {kind} that cannot be saved whole")
