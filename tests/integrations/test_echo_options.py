"""What LangChain's and LlamaIndex's classes share: the core's options as fields, and whose vectors they promise."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import json
import pickle
import pydoc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")

from langchain_core.load import dumpd, dumps, load, loads
from pydantic import BaseModel, ValidationError
from tiny_models import change_weights

from echo_core import INSTRUCTIONS, EchoConfig, EchoEncoder, EmbeddingSpaceMismatch, Runtime
from echo_core.identity import presets
from langchain_echo import EchoEmbeddings
from llama_index.embeddings.echo import EchoEmbedding

TEXT = "the tide\ncomes in"


@dataclass(frozen=True)
class Adapter:
    """A class over ``EchoOptions``, the name of its model, and every entrance that takes texts."""

    kind: Any
    model: str
    texts: tuple[str, ...]
    atexts: tuple[str, ...]
    one: tuple[str, ...]
    aone: tuple[str, ...]


LANGCHAIN = Adapter(
    EchoEmbeddings, "model", ("embed_documents",), ("aembed_documents",), ("embed_query",), ("aembed_query",)
)
LLAMA_INDEX = Adapter(
    EchoEmbedding,
    "model_name",
    ("get_text_embedding_batch", "get_agg_embedding_from_queries"),
    ("aget_text_embedding_batch", "aget_agg_embedding_from_queries"),
    ("get_query_embedding", "get_text_embedding"),
    ("aget_query_embedding", "aget_text_embedding"),
)
ADAPTERS = [LANGCHAIN, LLAMA_INDEX]


@pytest.fixture(params=ADAPTERS, ids=["langchain", "llama_index"])
def adapter(request):
    return request.param


@pytest.fixture
def folder(tiny_llama, tmp_path):
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def make(adapter, tiny_llama) -> Callable[..., Any]:
    """A function: options → an object over the tiny model, or over the one in ``folder``."""

    def made(folder: Path = tiny_llama, **options: Any) -> Any:
        return adapter.kind(
            **{adapter.model: folder, "query_template": "classical", "device": "cpu", "dtype": "float32", **options}
        )

    return made


def embed(adapter: Adapter, subject: Any, text: str = TEXT) -> list[float]:
    return getattr(subject, adapter.texts[0])([text])[0]


def call(subject: Any, name: str, argument: Any) -> Any:
    result = getattr(subject, name)(argument)
    return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result


async def _awaited(result: Any) -> Any:
    return await result


# ---- fields ----------------------------------------------------------------------------------------------------------


def test_a_field_has_the_type_and_the_default_of_the_cores_dataclass(adapter):
    for kind in (EchoConfig, Runtime):
        for knob in dataclasses.fields(kind):
            field = adapter.kind.model_fields[adapter.model if knob.name == "model" else knob.name]
            default = False if (adapter, knob.name) == (LLAMA_INDEX, "progress") else getattr(kind(), knob.name)
            assert field.default == (TEMPLATE if knob.name.endswith("_template") else default)
    assert adapter.kind.model_fields["layer"].annotation == int | tuple[int, ...]


TEMPLATE = "echo"  # a built-in name, which EchoConfig resolves


def test_signature_and_help_show_every_option(adapter):
    shown = inspect.signature(adapter.kind).parameters
    names = {knob.name for kind in (EchoConfig, Runtime) for knob in dataclasses.fields(kind)} - {"model"}
    assert names <= set(shown)
    assert shown["max_tokens"].default == 256
    assert shown["max_tokens"].kind is inspect.Parameter.KEYWORD_ONLY
    page = pydoc.render_doc(adapter.kind, renderer=pydoc.plaintext)
    assert "max_tokens: int = 256" in page
    assert "Echo embeddings as L" in page


def test_the_json_schema_names_every_option(adapter):
    assert adapter.kind.model_json_schema()["properties"]["overlap"]["default"] == 0


def test_a_new_option_of_the_core_is_an_option_here_without_a_line_of_code(adapter, run_python):
    module = adapter.kind.__module__
    code = f"""
import dataclasses
import echo_core.config as config
@dataclasses.dataclass(frozen=True)
class EchoConfig(config.EchoConfig):
    whole: bool = True
config.EchoConfig = EchoConfig
from {module} import {adapter.kind.__name__} as kind
assert kind(whole=False).config.whole is False
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


# ---- the model's folder ----------------------------------------------------------------------------------------------


def test_a_path_is_a_model_as_it_is_in_the_core(adapter, folder):
    """Both classes refused a ``Path``, which ``EchoEncoder`` takes."""
    made = [adapter.kind(**{adapter.model: model}).config for model in (folder, str(folder))]
    assert made[0] == made[1]


def test_a_relative_folder_is_found_after_a_change_of_the_working_directory(adapter, folder, monkeypatch, tmp_path):
    """The folder stayed relative and was looked for at the first text: a ``chdir`` before it broke the object."""
    monkeypatch.chdir(folder.parent)
    subjects = [
        adapter.kind(**{adapter.model: model}) for model in (folder.name, Path(folder.name), f"./{folder.name}")
    ]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for subject in subjects:
        assert subject.config.model == str(folder)
    assert len(embed(adapter, subjects[0])) == 32


@pytest.mark.parametrize("adapter", [LANGCHAIN, LLAMA_INDEX], ids=["langchain", "llama_index"])
def test_a_base_may_be_a_path_as_a_model_may(adapter: Adapter, tiny_llama: Path):
    made = adapter.kind(**{adapter.model: "echo-smollm2", "base": tiny_llama})
    assert (made.base, made.config.base) == (str(tiny_llama.resolve()),) * 2


def test_a_named_instruction_is_an_option_as_in_the_core(adapter, folder):
    made = adapter.kind(**{adapter.model: folder}, instruction="qa")
    assert made.config == EchoConfig(str(folder), instruction="qa")
    assert made.config.query_template.startswith(INSTRUCTIONS["qa"].query)


def test_a_name_on_the_hub_stays_as_it_is(adapter):
    assert adapter.kind(**{adapter.model: "org/name"}).config.model == "org/name"


# ---- presets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
    preset = presets.Preset("org/tiny", ("nothing has this shape",), {"layer": -2, "pooling": "last"}, "quality: 12.3")
    monkeypatch.setattr(presets, "KNOWN", (preset,))
    return preset


def test_a_known_model_that_is_named_alone_takes_what_was_measured_best(adapter, known):
    taken = adapter.kind(**{adapter.model: known.name, "device": "cpu"}).config
    assert (taken.layer, taken.pooling) == (-2, "last")
    assert taken == presets.preset_for(known.name)


def test_a_known_model_with_an_option_of_ones_own_takes_the_defaults(adapter, known):
    assert adapter.kind(**{adapter.model: known.name, "overlap": 10}).config == EchoConfig(known.name, overlap=10)


def test_a_folder_is_known_by_its_shape_and_what_was_written_down_is_never_changed(adapter, folder, monkeypatch):
    before = adapter.kind(**{adapter.model: folder})
    found = json.loads((folder / "config.json").read_text())
    fields = (
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "vocab_size",
    )
    shape = (*(found[field] for field in fields), found["eos_token_id"])
    monkeypatch.setattr(presets, "KNOWN", (presets.Preset("org/tiny", shape, {"layer": -2}, "12.3"),))
    assert adapter.kind(**{adapter.model: folder}).config.layer == -2
    assert adapter.kind.model_validate(before.model_dump()).config == before.config


def test_a_folder_that_an_encoder_saved_takes_its_options(adapter, folder, tmp_path):
    saved = EchoEncoder(EchoConfig(str(folder), layer=1, query_template="classical"), Runtime("cpu"))
    saved.save(tmp_path / "saved")
    taken = adapter.kind(**{adapter.model: tmp_path / "saved"})
    assert taken.config.layer == 1
    assert taken.config.query_template == saved.config.query_template
    assert adapter.kind.model_validate(taken.model_dump()).config == taken.config


# ---- whose vectors they are ------------------------------------------------------------------------------------------


def test_weights_replaced_after_the_space_was_told_and_before_the_first_text_are_refused(adapter, make, folder):
    """The vectors of the new weights were stored under the fingerprint of the old ones."""
    subject = make(folder)
    told = subject.space
    change_weights(folder, "embed_tokens", at=(0, 0))
    for _ in range(2):
        with pytest.raises(
            EmbeddingSpaceMismatch, match=r"model.* must have the weights .*were replaced; put them back"
        ):
            embed(adapter, subject)
    with pytest.raises(EmbeddingSpaceMismatch):
        call(subject, adapter.aone[0], TEXT)
    fresh = make(folder)
    assert len(embed(adapter, fresh)) == 32
    assert fresh.space["weights"] != told["weights"]


def test_weights_replaced_after_they_were_loaded_leave_the_space_that_of_the_vectors(adapter, make, folder):
    """The files were hashed again later: vectors of the old weights went under the fingerprint of the new ones."""
    subject = make(folder)
    vector, space = embed(adapter, subject), subject.space
    change_weights(folder, "embed_tokens", at=(0, 0))
    assert subject.space == space == subject.encoder.space
    assert make(folder).space == space  # another object, served by the same loaded weights
    assert embed(adapter, subject) == embed(adapter, make(folder)) == vector


def test_a_pickled_object_refuses_other_weights_than_it_promised(adapter, make, folder):
    subject = make(folder)
    assert subject.space
    pickled = pickle.dumps(subject)
    change_weights(folder, "embed_tokens", at=(0, 0))
    with pytest.raises(EmbeddingSpaceMismatch):
        embed(adapter, pickle.loads(pickled))


def test_two_spaces_told_for_one_object_are_refused_whichever_is_loaded(adapter, make, folder):
    subject = make(folder)
    assert subject.space
    change_weights(folder, "embed_tokens", at=(0, 0))
    assert subject.space
    with pytest.raises(EmbeddingSpaceMismatch):
        embed(adapter, subject)


def test_a_copy_with_another_layer_is_not_held_to_the_promise_of_the_first(adapter, make, tiny_llama):
    subject = make()
    assert subject.space
    other = subject.model_copy(update={"layer": 2})
    core = EchoEncoder(
        EchoConfig(str(tiny_llama), query_template="classical", layer=2), Runtime(device="cpu", dtype="float32")
    )
    assert embed(adapter, other) == pytest.approx(core.encode_documents([TEXT])[0].tolist(), abs=2e-6)
    assert other.space != subject.space


def test_objects_with_the_same_options_are_equal_whatever_they_have_told(make, adapter):
    subject = make()
    assert subject.space
    equal = make().model_copy(update={"callback_manager": subject.callback_manager} if adapter is LLAMA_INDEX else {})
    assert subject == equal


# ---- written down and read again -------------------------------------------------------------------------------------

OPTIONS = {"layer": (1, 2), "centre": (0.25, -0.5) * 16, "dimension": 8, "overlap": 10, "normalize": False}
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda subject: pickle.loads(pickle.dumps(subject)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda subject: subject.model_copy(deep=True),
    "model_dump": lambda subject: type(subject).model_validate(subject.model_dump()),
    "model_dump_by_alias": lambda subject: type(subject).model_validate(subject.model_dump(by_alias=True)),
    "model_dump_json": lambda subject: type(subject).model_validate_json(subject.model_dump_json()),
    "model_dump_python_json": lambda subject: type(subject)(**json.loads(json.dumps(subject.model_dump(mode="json")))),
    "keywords": lambda subject: type(subject)(**subject.model_dump()),
}
READ: dict[str, Any] = {"allowed_objects": [EchoEmbeddings], "valid_namespaces": ["langchain_echo"]}
LANGCHAIN_WAYS: dict[str, Callable[[Any], Any]] = {
    "dumpd": lambda subject: load(dumpd(subject), **READ),
    "dumps": lambda subject: loads(dumps(subject), **READ),
    "to_json": lambda subject: EchoEmbeddings(**subject.to_json()["kwargs"]),
}
LLAMA_INDEX_WAYS: dict[str, Callable[[Any], Any]] = {
    "to_dict": lambda subject: EchoEmbedding.from_dict(subject.to_dict()),
    "to_json": lambda subject: EchoEmbedding.from_json(subject.to_json()),
    "dict": lambda subject: EchoEmbedding.from_dict(subject.dict()),
    "json": lambda subject: EchoEmbedding.from_json(subject.json()),
}
ALL_WAYS = [
    *((LANGCHAIN, name, way) for name, way in {**WAYS, **LANGCHAIN_WAYS}.items()),
    *((LLAMA_INDEX, name, way) for name, way in {**WAYS, **LLAMA_INDEX_WAYS}.items()),
]


@pytest.mark.filterwarnings("ignore:The function `load")  # LangChain calls it beta
@pytest.mark.parametrize(
    ("adapter", "way"),
    [pytest.param(kind, way, id=f"{kind.kind.__name__}-{name}") for kind, name, way in ALL_WAYS],
)
def test_every_way_of_writing_it_down_gives_the_same_vectors_after_reading(adapter, way, make):
    """``model_validate(model_dump())`` of LlamaIndex's class was refused for the class's name that the dump holds;
    ``dumpd`` of LangChain's said "not implemented"."""
    subject = make(**OPTIONS)
    vector = embed(adapter, subject)
    read = way(subject)
    assert type(read) is adapter.kind
    assert read.config == subject.config
    assert embed(adapter, read.model_copy(update={"device": "cpu", "dtype": "float32"})) == vector


def test_no_dump_writes_trust_remote_code_down(adapter, make):
    subject = make(trust_remote_code=True)
    written = [subject.model_dump(), subject.model_dump_json(), repr(dumpd(subject))]
    assert not any("trust_remote_code" in str(one) for one in written[:2])
    if adapter is LANGCHAIN:
        assert "trust_remote_code" not in written[2]
    assert subject.model_copy().runtime.trust_remote_code


def test_what_to_dict_wrote_is_refused_for_other_weights_unless_the_fingerprint_is_taken_out(folder):
    fields = EchoEmbedding(model_name=folder).to_dict()
    change_weights(folder, "embed_tokens", at=(0, 0))
    with pytest.raises(EmbeddingSpaceMismatch, match="were replaced"):
        EchoEmbedding.from_dict(fields).get_text_embedding(TEXT)
    del fields["fingerprint"]
    assert len(EchoEmbedding.from_dict(fields).get_text_embedding(TEXT)) == 32


def test_it_can_be_a_field_of_another_model_that_is_dumped_and_read(adapter, make):
    class Settings(BaseModel):
        model: adapter.kind

    settings = Settings(model=make())
    assert Settings.model_validate_json(settings.model_dump_json()).model.config == settings.model.config


# ---- what is no list of texts ----------------------------------------------------------------------------------------


class Frame:
    """What iterates over its labels, as a table of pandas does."""

    ndim = 2
    shape = (1, 1)

    def __iter__(self):
        return iter(["text"])

    def __len__(self):
        return 1


NO_LISTS = ["one text", b"bytes", {"text": "a"}, {"a", "b"}, frozenset("ab"), Frame(), 3, None]


@pytest.mark.parametrize("wrong", NO_LISTS, ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_list_of_texts_is_refused_in_every_entrance(adapter, make, wrong):
    """LlamaIndex's base class embedded a string letter by letter, and a dict by its keys."""
    for name in (*adapter.texts, *adapter.atexts):
        with pytest.raises(TypeError, match="texts must be a list of strings"):
            call(make(), name, wrong)


@pytest.mark.parametrize("wrong", [["one"], None, 3, b"a"], ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_text_is_refused_where_one_text_is_taken(adapter, make, wrong):
    for name in (*adapter.one, *adapter.aone):
        with pytest.raises(TypeError, match="text 0 must be a string"):
            call(make(), name, wrong)


@pytest.mark.parametrize("stream", [iter, tuple], ids=["iterator", "tuple"])
def test_any_ordered_collection_of_texts_is_taken(adapter, make, stream):
    subject = make()
    texts = ["a b", "c d", "e f"]
    wanted = getattr(subject, adapter.texts[0])(texts)
    for name in (adapter.texts[0], adapter.atexts[0]):
        assert call(subject, name, stream(texts)) == wanted


def test_an_unknown_option_is_refused(adapter):
    with pytest.raises(ValidationError, match="layr"):
        adapter.kind(layr=2)
