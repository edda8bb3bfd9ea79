from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from encoders import FP32
from nasty_texts import PLAIN
from safetensors.torch import load_file, save_file
from tiny_tokenizers import TOKENIZERS
from transformers import AutoTokenizer

from echo_core import EchoConfig, EchoEncoder, ModelError, space_of
from echo_core.identity.checkpoint import find_checkpoint
from echo_core.identity.gguf import _VERSION, unpack_gguf, with_bos
from echo_core.identity.gguf_header import quantization_of, read_header
from echo_core.methods.embed_filter import read_head

gguf = pytest.importorskip("gguf")
from tiny_gguf import write_gguf  # noqa: E402 - needs gguf

Kind = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets"


@pytest.fixture(scope="module")
def tied(model_folder) -> Path:
    return model_folder("smollm", "byte_level")


@pytest.fixture(scope="module")
def file(tied: Path, tmp_path_factory) -> Path:
    return write_gguf(tied, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def in_bfloat16(folder: Path, copy: Path) -> Path:
    """The checkpoint with its numbers rounded as the unpacked ones are."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    rounded = {name: tensor.bfloat16().float() for name, tensor in weights.items()}
    save_file(rounded, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def vectors(model: Path) -> np.ndarray:
    return EchoEncoder(EchoConfig(str(model)), FP32).encode_documents(PLAIN)


@pytest.mark.parametrize(("family", "tokenizer"), [("llama", "byte_level_bos"), ("smollm", "byte_level")])
def test_a_gguf_file_gives_the_vectors_of_the_model_that_it_was_made_from(family, tokenizer, model_folder, tmp_path):
    """With and without a BOS of the tokenizer's own, with an LM head of its own and with a tied one."""
    folder = model_folder(family, tokenizer)
    file = write_gguf(folder, tmp_path / "model.gguf")
    np.testing.assert_allclose(vectors(file), vectors(in_bfloat16(folder, tmp_path / "rounded")), atol=1e-5)


def test_the_file_its_folder_and_the_unpacked_folder_are_one_space(file: Path):
    unpacked = unpack_gguf(file)
    spaces = [space_of(EchoConfig(str(model))) for model in (file, file.parent, unpacked)]
    assert spaces[0] == spaces[1] == spaces[2]
    np.testing.assert_array_equal(vectors(file), vectors(unpacked))


def test_the_tokens_are_those_of_the_model_that_it_was_made_from(tied: Path, file: Path):
    own, ours = (AutoTokenizer.from_pretrained(folder) for folder in (tied, unpack_gguf(file)))
    texts = [*PLAIN, "  two  spaces", "<|endoftext|> in a text"]
    assert own(texts).input_ids == ours(texts).input_ids
    assert own.eos_token_id == ours.eos_token_id


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.F16, Kind.BF16])
def test_the_quantisation_stands_in_the_space(kind: Kind, tied: Path, tmp_path: Path):
    names = {Kind.Q8_0: "Q8_0", Kind.F16: "F16", Kind.BF16: "BF16"}
    stored = int(gguf.LlamaFileType[f"MOSTLY_{names[kind]}"])
    model = write_gguf(tied, tmp_path / "model.gguf", kind, general__file_type=stored)
    space = space_of(EchoConfig(str(model)))
    assert space["weights"].endswith(f"-GGUF-{names[kind]}")
    silent = write_gguf(tied, tmp_path / "silent.gguf", kind, general__file_type=None)
    assert quantization_of(read_header(silent)) == names[kind]


def test_a_saved_encoder_keeps_the_space_of_its_gguf_file(file: Path, tmp_path: Path):
    encoder = EchoEncoder(EchoConfig(str(file), layer=-2), FP32)
    encoder.save(tmp_path / "saved")
    assert EchoEncoder.load(tmp_path / "saved", FP32).space == encoder.space


@pytest.mark.parametrize("family", ["llama", "smollm"])
def test_the_lm_head_is_kept(family: str, model_folder, tmp_path: Path):
    folder = model_folder(family, "byte_level")
    head = read_head(unpack_gguf(write_gguf(folder, tmp_path / "model.gguf")))
    np.testing.assert_array_equal(head.float().numpy(), read_head(folder).bfloat16().float().numpy())


def test_it_is_unpacked_once_and_said_once(file: Path, caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "echo_core"):
        first = unpack_gguf(file)
        monkeypatch.setattr("echo_core.identity.gguf._convert", lambda *_: pytest.fail("unpacked again"))
        assert unpack_gguf(file) == first
    assert [record.getMessage() for record in caplog.records if "unpacking" in record.getMessage()] == [
        f"unpacking {file} (ALL_F32, 0 MB) into bf16 safetensors, once; later loads read those".replace("ALL_", "")
    ]
    assert first.name.endswith(f"-{_VERSION}")


def test_a_file_is_parsed_once_and_gguf_is_left_as_it_was(tied: Path, tmp_path: Path, monkeypatch):
    """transformers parsed it for the config, for the tokenizer and for the weights: half of the time."""
    parsed: list[str] = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path, *rest):
            parsed.append(str(path))
            super().__init__(path, *rest)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    before = gguf.get_tensor_name_map
    unpack_gguf(write_gguf(tied, tmp_path / "model.gguf", general__name="parsed once"))
    assert len(parsed) == 1
    monkeypatch.setattr("echo_core.identity.gguf.with_bos", lambda *_: 1 / 0)
    with pytest.raises(ModelError, match="division by zero"):
        unpack_gguf(write_gguf(tied, tmp_path / "other.gguf", general__name="never read whole"))
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (Counted, before)


def test_a_file_that_was_changed_is_unpacked_again(tied: Path, model_folder, tmp_path: Path):
    """Also where size and time of the last change are those of the old file: the inode's own time is not."""
    model = write_gguf(tied, tmp_path / "model.gguf")
    os.utime(model, (time.time() - 60, time.time() - 60))
    first, status = space_of(EchoConfig(str(model))), model.stat()
    other = model_folder("smollm", "byte_level", seed=1)
    write_gguf(other, model)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert model.stat().st_size == status.st_size
    assert space_of(EchoConfig(str(model))) != first


def test_what_was_thinned_out_in_the_cache_is_made_again(file: Path):
    folder = unpack_gguf(file)
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        (folder / name).unlink()
        assert unpack_gguf(file) == folder
        assert (folder / name).is_file()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert (unpack_gguf(file) / "model.safetensors").read_bytes() == whole


def test_nothing_that_lies_beside_the_file_is_read_with_it(file: Path, tmp_path: Path):
    """The tokenizer's class and a LoRA adapter were read from the folder that the file lies in."""
    copy = Path(shutil.copy(file, tmp_path / "model.gguf"))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    assert space_of(EchoConfig(str(copy))) == space_of(EchoConfig(str(file)))


def unpack_in_process(file: str) -> str:
    return str(unpack_gguf(Path(file)))


@pytest.mark.slow
def test_two_processes_at_once_unpack_once(file: Path, cache: Path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        folders = pool.map(unpack_in_process, [str(file)] * 2)
    assert len(set(folders)) == 1
    assert sorted(path.suffix for path in (cache / "echo-embed" / "gguf" / "v1").iterdir()) == ["", ".lock"]


@pytest.mark.slow
def test_a_kill_leaves_no_half_model_and_the_next_run_makes_it(file: Path, cache: Path):
    code = (
        "import sys, time, echo_core.identity.gguf as g; from pathlib import Path;"
        "g._keep_tokenizer = lambda *_: (print('here', flush=True), time.sleep(60)); g.unpack_gguf(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [path.name for path in (cache / "echo-embed" / "gguf" / "v1").iterdir()]
    assert any(name.endswith(".part") for name in left)
    folder = unpack_gguf(file)
    assert (folder / "tokenizer.json").is_file()
    assert not list(folder.parent.glob("*.part"))


@pytest.mark.parametrize("kept", [0, 3, 20, 300, 5_000, -1, -500])
def test_a_file_that_is_cut_off_is_refused(kept: int, file: Path, tmp_path: Path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"must be a whole GGUF file, got .*cut\.gguf.*copy or download it again"):
        find_checkpoint(EchoConfig(str(cut)))


@pytest.mark.parametrize(
    "content", [b"not a GGUF file, but long enough for one" * 9, struct.pack("<4sIQQ", b"GGUF", 1, 0, 0)]
)
def test_something_else_under_that_name_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError, match="must be a whole GGUF file"):
        find_checkpoint(EchoConfig(str(tmp_path)))


def test_one_part_of_several_is_refused_with_the_way_out(file: Path, tied: Path, tmp_path: Path):
    for part in (1, 2):
        shutil.copy(file, tmp_path / f"model-0000{part}-of-00002.gguf")
    for model in (tmp_path, tmp_path / "model-00002-of-00002.gguf"):
        with pytest.raises(ModelError, match=r"one of 2 parts; join them: llama-gguf-split --merge"):
            find_checkpoint(EchoConfig(str(model)))
    renamed = write_gguf(tied, tmp_path / "renamed.gguf", split__count=3)
    with pytest.raises(ModelError, match="one of 3 parts"):
        find_checkpoint(EchoConfig(str(renamed)))


def test_a_folder_with_several_is_refused_and_names_them(file: Path, tmp_path: Path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(file, tmp_path / name)
    with pytest.raises(ModelError, match=r"with 2 \(a\.gguf, b\.gguf\); name one of them"):
        find_checkpoint(EchoConfig(str(tmp_path)))
    assert find_checkpoint(EchoConfig(str(tmp_path / "a.gguf"))) == unpack_gguf(file)


@pytest.mark.parametrize("architecture", ["clip", "whatever"])
def test_an_architecture_that_transformers_cannot_read_is_refused(architecture: str, tied: Path, tmp_path: Path):
    model = write_gguf(tied, tmp_path / "model.gguf", general__architecture=architecture)
    with pytest.raises(ModelError, match=rf"architecture '{architecture}'.*take the same model as safetensors"):
        find_checkpoint(EchoConfig(str(model)))


def test_numbers_that_no_weight_takes_are_refused(tied: Path, tmp_path: Path, monkeypatch):
    """transformers leaves out a tensor that it does not know, such as a bias, without a word."""
    import tiny_gguf

    tensors = tiny_gguf._tensors
    bias = {"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}
    monkeypatch.setattr(tiny_gguf, "_tensors", lambda *given: {**tensors(*given), **bias})
    with pytest.raises(ModelError, match="all weights must be read, but"):
        find_checkpoint(EchoConfig(str(write_gguf(tied, tmp_path / "model.gguf"))))
    monkeypatch.setattr(tiny_gguf, "_tensors", lambda *given: dict(list(tensors(*given).items())[:-1]))
    with pytest.raises(ModelError, match="must hold all weights, got none for"):
        find_checkpoint(EchoConfig(str(write_gguf(tied, tmp_path / "less.gguf"))))


def test_no_room_on_the_disk_is_said_with_both_sizes(file: Path, cache: Path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"needs 0\.0 GB of disk .*, got 0\.0 GB; make room, or set HF_ASSETS_CACHE"):
        unpack_gguf(file)


def test_a_disk_that_is_full_in_the_middle_leaves_nothing(file: Path, cache: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("echo_core.identity.gguf.save_model", full)
    with pytest.raises(ModelError, match=r"No space left on device.*make room, or set HF_ASSETS_CACHE"):
        unpack_gguf(file)
    assert not [path for path in (cache / "echo-embed" / "gguf" / "v1").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_a_model_error(file: Path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", "/dev/null")
    with pytest.raises(ModelError, match="set HF_ASSETS_CACHE to a folder elsewhere"):
        unpack_gguf(file)


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_said_with_the_extra(package: str, file: Path, monkeypatch):
    monkeypatch.setattr("echo_core.identity.gguf.find_spec", lambda name: None if name == package else object())
    with pytest.raises(ModelError, match=rf"needs the package {package}.*pip install 'echo-embed\[gguf\]'"):
        unpack_gguf(file)


def test_a_file_in_a_repository_of_the_hub_is_asked_for_by_its_name(file: Path, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *given, revision: asked.append((*given, revision)) or str(file)
    )
    assert find_checkpoint(EchoConfig("org/repo/sub/x.Q4_K_M.gguf", revision="abc")) == unpack_gguf(file)
    assert asked == [("org/repo", "sub/x.Q4_K_M.gguf", "abc")]


def llama3_factors(base: float, width: int, factor: float) -> np.ndarray:
    """As llama.cpp's converter computes them from low_freq_factor 1, high_freq_factor 4 and 8,192 positions."""
    lengths = 2 * np.pi * base ** (np.arange(0, width, 2) / width)
    smooth = (8192 / lengths - 1) / 3
    middle = 1 / ((1 - smooth) / factor + smooth)
    return np.where(lengths < 8192 / 4, 1, np.where(lengths > 8192, factor, middle)).astype(np.float32)


def test_the_scaled_positions_of_llama_3_are_kept(model_folder, tmp_path: Path, monkeypatch):
    """transformers drops the factors: the vectors were those of a model that nobody has trained."""
    import tiny_gguf

    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"rope_theta": 500000.0, "original_max_position_embeddings": 8192}
    folder = model_folder("llama", "byte_level_bos", rope_parameters=scaling)
    tensors = tiny_gguf._tensors
    extra = {"rope_freqs.weight": llama3_factors(500000.0, 8, 8.0)}
    monkeypatch.setattr(tiny_gguf, "_tensors", lambda *given: {**tensors(*given), **extra})
    unpacked = unpack_gguf(write_gguf(folder, tmp_path / "model.gguf"))
    assert json.loads((unpacked / "config.json").read_text())["rope_scaling"]["factor"] == 8.0
    np.testing.assert_allclose(vectors(unpacked), vectors(in_bfloat16(folder, tmp_path / "rounded")), atol=1e-5)
    extra["rope_freqs.weight"] = np.linspace(1, 5, 4, dtype=np.float32)
    with pytest.raises(ModelError, match="factors of its own"):
        unpack_gguf(write_gguf(folder, tmp_path / "other.gguf"))


def test_linearly_scaled_positions_are_kept_and_others_refused(tied: Path, tmp_path: Path):
    linear = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 8.0}
    unpacked = unpack_gguf(write_gguf(tied, tmp_path / "linear.gguf", **linear))
    assert json.loads((unpacked / "config.json").read_text())["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    odd = write_gguf(tied, tmp_path / "odd.gguf", llama__rope__scaling__type="longrope")
    with pytest.raises(ModelError, match="scales its positions by 'longrope'"):
        unpack_gguf(odd)


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
@pytest.mark.parametrize("asked", [True, False, None])
def test_a_bos_that_the_file_asks_for_is_set_where_transformers_left_it_out(kind, asked):
    """transformers 5.17 read such a tokenizer without one, and vectors were off by up to 0.3 without a word."""
    tokenizer = TOKENIZERS[kind]()
    tokenizer.bos_token = tokenizer.eos_token
    before = tokenizer("The owl hunts.").input_ids
    header = SimpleNamespace(values={} if asked is None else {"tokenizer.ggml.add_bos_token": asked})
    read = with_bos(tokenizer, header)
    bos = [read.bos_token_id] if asked and before[0] != read.bos_token_id else []
    assert read("The owl hunts.").input_ids == [*bos, *before]
    assert with_bos(read, header)("The owl hunts.").input_ids == [*bos, *before]
