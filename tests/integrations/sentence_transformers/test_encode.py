"""EchoSentenceTransformer.encode: the core's vectors, with everything that SentenceTransformer's encode offers."""

from __future__ import annotations

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from echo_core import (
    ConfigError,
    EchoConfig,
    EchoEncoder,
    EmptyTextError,
    NotFiniteError,
    Runtime,
    UnencodableTextError,
    VariableError,
)
from echo_sentence_transformers import EchoPooling, EchoSentenceTransformer, EchoTransformer

QUERY = "Question: {text} Asked again: [[{text}]]"
INSTRUCTED = "Instruct: {instruction}\nQuery: {text}\nQuery again: [[{text}{eos}]]"
TEXTS = [
    "Paris is the capital.",
    "two\nlines\n",
    "It rained. " * 200,
    "žluťoučký 🎉 日本語",
    "</s> <|im_end|> [[{text}]] {instruction} <s>",
    "Paris is the capital.",
    " spaces  around ",
    "THE GREAT HALL IS CLOSED",
]
PREPENDING = {"prepend_layers": 2, "query_template": "prepending", "document_template": "prepending"}
CPU = Runtime(device="cpu", dtype="float32")


def warnings_of_ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "echo_sentence_transformers"]


def build(folder: Path, **fields: object) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(EchoConfig(str(folder), **fields), device="cpu")


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> EchoSentenceTransformer:
    return build(tiny_llama, query_template=QUERY)


@pytest.fixture(scope="module")
def core(tiny_llama: Path) -> EchoEncoder:
    return EchoEncoder(EchoConfig(str(tiny_llama), query_template=QUERY), CPU)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"query_template": QUERY},
        {"pooling": "last", "document_template": "Document: {text}\nDocument again: [[{text}{eos}]]"},
        {"pooling": "weighted_mean"},
        {"layer": -2},
        {"layer": 1, "normalize": False},
        {"dimension": 8},
        {"max_tokens": 40, "overlap": 5},
        {"overflow": "truncate"},
        {"seam": "reference"},
        {"layer": (-1, -2)},
        {"layer": (1, 2), "pooling": "weighted_mean"},
        PREPENDING,
        {"caps": "sentence"},
    ],
    ids=str,
)
def test_vectors_equal_the_core_for_both_roles(tiny_llama: Path, fields: dict[str, object]) -> None:
    model, core = build(tiny_llama, **fields), EchoEncoder(EchoConfig(str(tiny_llama), **fields), CPU)
    np.testing.assert_allclose(model.encode_query(TEXTS), core.encode_queries(TEXTS), atol=1e-5, rtol=0)
    np.testing.assert_allclose(model.encode_document(TEXTS), core.encode_documents(TEXTS), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(model.encode(TEXTS), model.encode_document(TEXTS))


@pytest.mark.parametrize("family", ["llama2", "qwen3", "gemma3", "gpt2"])
def test_vectors_equal_the_core_for_other_families(model_folder: object, family: str) -> None:
    folder = model_folder(family)  # type: ignore[operator]
    model, core = build(folder, layer=-2), EchoEncoder(EchoConfig(str(folder), layer=-2), CPU)
    np.testing.assert_allclose(model.encode(TEXTS), core.encode_documents(TEXTS), atol=1e-5, rtol=0)


def test_an_independent_oracle_of_builtin_modules_gives_the_same_vector(tiny_llama: Path) -> None:
    """The built-in Pooling can pool a second saying alone, if the first is a prompt and each text is encoded alone."""
    plain = Transformer(str(tiny_llama))
    plain.tokenizer.pad_token = plain.tokenizer.eos_token  # asked for, though one text needs no padding
    oracle = SentenceTransformer(
        modules=[plain, Pooling(plain.get_embedding_dimension(), "mean", include_prompt=False), Normalize()],
        device="cpu",
    )
    model = build(tiny_llama)
    for text in TEXTS[:2]:
        prompt = f"Rewrite the following paragraph: {text}. The rewritten paragraph:"
        np.testing.assert_allclose(model.encode(text), oracle.encode([" " + text], prompt=prompt)[0], atol=1e-5)


def test_query_and_document_vectors_differ_where_the_templates_do(model: EchoSentenceTransformer) -> None:
    assert np.abs(model.encode_query(TEXTS[:1]) - model.encode_document(TEXTS[:1])).max() > 1e-3


def test_no_text_gives_no_rows_of_the_right_width(model: EchoSentenceTransformer) -> None:
    assert model.encode([]).shape == model.encode_query([]).shape == (0, 32)
    assert model.encode([]).dtype == np.float32
    assert model.encode([], convert_to_tensor=True).shape == (0, 32)
    assert model.encode([], convert_to_numpy=False) == []


def test_one_text_gives_one_vector(model: EchoSentenceTransformer, core: EchoEncoder) -> None:
    assert model.encode(TEXTS[0]).shape == (32,)
    np.testing.assert_allclose(model.encode_query(TEXTS[0]), core.encode_queries(TEXTS[:1])[0], atol=1e-5)


@pytest.mark.parametrize("inputs", [np.array(TEXTS), tuple(TEXTS)], ids=["ndarray", "tuple"])
def test_other_collections_of_texts_are_read(model: EchoSentenceTransformer, inputs: object) -> None:
    np.testing.assert_array_equal(model.encode(inputs), model.encode(TEXTS))


@pytest.mark.parametrize("inputs", [set(TEXTS), {"text": "a"}, b"bytes", 3], ids=["set", "mapping", "bytes", "number"])
def test_what_is_no_ordered_collection_of_texts_is_refused(model: EchoSentenceTransformer, inputs: object) -> None:
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        model.encode(inputs)


def test_the_old_name_of_the_first_argument_still_works(model: EchoSentenceTransformer) -> None:
    np.testing.assert_array_equal(model.encode(sentences=TEXTS), model.encode(TEXTS))


def test_the_prompt_is_the_instruction_of_the_template(tiny_llama: Path) -> None:
    fields = {
        "query_template": INSTRUCTED,
        "document_template": "finetuned-document",
        "pooling": "last",
        "instruction": "Find it",
    }
    core = EchoEncoder(EchoConfig(str(tiny_llama), **fields), CPU)
    model = EchoSentenceTransformer(
        EchoConfig(str(tiny_llama), **fields), device="cpu", prompts={"shout": "Answer loudly"}
    )
    wanted = core.encode_queries(TEXTS, instruction="Answer loudly")
    np.testing.assert_allclose(model.encode_query(TEXTS, prompt="Answer loudly"), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode_query(TEXTS, prompt_name="shout"), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode_query(TEXTS), core.encode_queries(TEXTS), atol=1e-5)
    assert np.abs(wanted - core.encode_queries(TEXTS)).max() > 1e-3


def test_a_long_prompt_is_run_once_a_call_and_anew_when_the_weights_have_changed(tiny_llama: Path) -> None:
    echo = EchoConfig(
        str(tiny_llama),
        query_template=INSTRUCTED,
        document_template="finetuned-document",
        pooling="last",
        max_tokens=40,
    )
    prompt = "Answer loudly, or not at all. " * 30
    model, fresh = (EchoSentenceTransformer(echo, device="cpu") for _ in range(2))
    plain = EchoEncoder(echo, Runtime(device="cpu", dtype="float32", attention="padded"))
    wanted = np.concatenate([plain.encode_queries([text], instruction=prompt) for text in TEXTS])
    model.token_budget = fresh.token_budget = 100
    np.testing.assert_allclose(model.encode_query(TEXTS, prompt=prompt), wanted, atol=2e-5)
    with torch.no_grad():
        for each in (model, fresh):
            for parameter in each.parameters():
                parameter.mul_(1.1)
    changed = model.encode_query(TEXTS, prompt=prompt)
    assert np.abs(changed - wanted).max() > 1e-3
    np.testing.assert_allclose(changed, fresh.encode_query(TEXTS, prompt=prompt), atol=1e-6)


def test_a_prompt_named_query_reaches_encode_query(tiny_llama: Path) -> None:
    echo = EchoConfig(str(tiny_llama), query_template=INSTRUCTED)
    model = EchoSentenceTransformer(echo, device="cpu", prompts={"query": "Answer loudly"})
    wanted = EchoEncoder(echo, CPU).encode_queries(TEXTS, instruction="Answer loudly")
    np.testing.assert_allclose(model.encode_query(TEXTS), wanted, atol=1e-5)


def test_a_template_with_an_instruction_and_none_given_says_where_to_give_it(tiny_llama: Path) -> None:
    with pytest.raises(VariableError, match=r"prompt=.*EchoConfig\(instruction="):
        build(tiny_llama, query_template=INSTRUCTED).encode_query(TEXTS)


def test_a_prompt_without_a_place_in_the_template_is_refused_and_never_glued_on(model: EchoSentenceTransformer) -> None:
    with pytest.raises(VariableError, match=r"no variable {instruction}"):
        model.encode(TEXTS, prompt="query: ")
    with pytest.raises(VariableError, match=r"no variable {instruction}"):
        model.preprocess(TEXTS, prompt="query: ")


@pytest.mark.parametrize("inputs", [[("a", "b")], ["a", 3], [None]], ids=str)
def test_preprocess_never_raises_the_type_error_that_would_drop_the_prompt(
    model: EchoSentenceTransformer, inputs: list[object]
) -> None:
    with pytest.raises(ValueError, match=r"must be a string|must be of|not support"):
        model[0].preprocess(inputs, prompt="Find it")
    with pytest.raises(TypeError, match=r"text \d must be a string"):
        model.encode(inputs)


def test_an_unknown_task_or_option_is_refused(model: EchoSentenceTransformer) -> None:
    with pytest.raises(ConfigError, match="task must be one of 'query', 'document', None"):
        model.encode(TEXTS, task="passage")
    with pytest.raises(ConfigError, match="processing_kwargs has no meaning"):
        model.encode(TEXTS, processing_kwargs={"text": {"max_length": 3}})


def test_errors_name_the_text_in_the_callers_order(tiny_llama: Path, model: EchoSentenceTransformer) -> None:
    with pytest.raises(EmptyTextError, match="text 2 "):
        model.encode(["a", "a longer one", " ", "b"])
    with pytest.raises(UnencodableTextError, match=r"text 1 .*surrogate"):
        model.encode(["a", "half \ud800", "a much longer text than that"])
    broken = build(tiny_llama)
    torch.nn.init.constant_(broken[0].model.layers[0].mlp.up_proj.weight, float("nan"))
    with pytest.raises(NotFiniteError, match="text 0 "):
        broken.encode(["a"])


def test_a_blank_text_is_a_zero_vector_if_the_config_says_so(tiny_llama: Path) -> None:
    model = build(tiny_llama, empty="zero")
    vectors = model.encode(["a", " ", ""])
    assert not vectors[1:].any()
    np.testing.assert_array_equal(vectors[0], build(tiny_llama).encode("a"))
    padded = model(model.preprocess(["a", " "]))["sentence_embedding"].detach().numpy()
    np.testing.assert_allclose(padded, vectors[:2], atol=1e-5)


def test_padded_features_give_the_vectors_of_encode(model: EchoSentenceTransformer) -> None:
    """What training sees of texts of one window: (N, T) ids and two masks, nothing that makes a phantom column."""
    texts = [text for text in TEXTS if len(text) < 200]
    features = model.preprocess(texts, task="query")
    assert set(features) == {"input_ids", "attention_mask", "pooling_mask"}
    mask = features["attention_mask"].clone()
    returned = model(features)
    assert returned is features
    assert torch.equal(returned["attention_mask"], mask)
    np.testing.assert_allclose(returned["sentence_embedding"].detach(), model.encode_query(texts), atol=1e-5)


@pytest.mark.parametrize("fields", [{"layer": (-1, -2)}, {"layer": (1, 2)}, PREPENDING], ids=str)
def test_padded_features_read_several_layers_and_prepend_as_encode_does(
    tiny_llama: Path, fields: dict[str, object]
) -> None:
    model = build(tiny_llama, **fields)
    texts = [text for text in TEXTS if len(text) < 200]
    returned = model.train()(model.preprocess(texts))["sentence_embedding"]
    np.testing.assert_allclose(returned.detach(), model.encode(texts), atol=1e-5)
    returned.sum().backward()
    assert model[0].model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_a_long_text_is_cut_in_features_with_one_warning(tiny_llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build(tiny_llama, max_tokens=20)
    with caplog.at_level(logging.WARNING, "echo_sentence_transformers"):
        features = model.preprocess([TEXTS[2]])
        model.preprocess([TEXTS[2]])
    assert features["pooling_mask"].sum() == 20
    assert warnings_of_ours(caplog) == [
        "texts longer than max_tokens=20 are cut; encode reads them in windows where overflow='window'"
    ]


def test_max_seq_length_is_the_length_of_one_saying(tiny_llama: Path) -> None:
    model = build(tiny_llama)
    assert model.max_seq_length == 256
    model.max_seq_length = 30
    np.testing.assert_allclose(model.encode(TEXTS), build(tiny_llama, max_tokens=30).encode(TEXTS), atol=1e-5)
    with pytest.raises(ConfigError, match="2048 positions"):
        model.max_seq_length = 1100


def test_precision_normalisation_and_truncation_are_those_of_sentence_transformers(tiny_llama: Path) -> None:
    raw = build(tiny_llama, normalize=False)
    vectors = raw.encode(TEXTS)
    unit = raw.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(raw.encode(TEXTS, truncate_dim=5), vectors[:, :5], atol=1e-6)
    assert raw.encode(TEXTS, precision="ubinary").shape == (len(TEXTS), 4)
    assert raw.encode(TEXTS, precision="int8").dtype == np.int8
    with raw.truncate_embeddings(4):
        assert raw.encode(TEXTS).shape[1] == raw.get_embedding_dimension() == 4


def test_tensors_lists_and_token_states_come_as_asked(model: EchoSentenceTransformer) -> None:
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), model.encode(TEXTS))
    assert all(isinstance(vector, torch.Tensor) for vector in model.encode(TEXTS, convert_to_numpy=False))
    states = model.encode(["Paris", "Paris is the capital."], output_value="token_embeddings")
    assert [len(state) for state in states] == [
        len(model[0].preprocess([text])["input_ids"][0]) for text in ("Paris", "Paris is the capital.")
    ]
    everything = model.encode("Paris", output_value=None)
    assert {"input_ids", "pooling_mask", "token_embeddings", "sentence_embedding"} <= set(everything)


def test_batches_keep_to_the_token_budget_and_batch_size_changes_nothing(model: EchoSentenceTransformer) -> None:
    sizes: list[int] = []
    hook = model[0].model.embed_tokens.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    model.token_budget = 700
    try:
        budgeted = model.encode(TEXTS * 3, batch_size=2)
    finally:
        hook.remove()
        model.token_budget = None
    assert max(sizes) <= 700
    assert len(sizes) < 10  # eight distinct rows and windows, though 24 texts
    np.testing.assert_allclose(budgeted, model.encode(TEXTS * 3), atol=1e-5)


def test_out_of_memory_halves_the_batch(
    model: EchoSentenceTransformer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, forward = model.encode(TEXTS), model[0].model.forward

    def small(*args: object, **kwargs: object) -> object:
        if kwargs["input_ids"].numel() > 600:  # type: ignore[attr-defined]  # the longest row alone is shorter
            raise torch.OutOfMemoryError("made by the test")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model[0].model, "forward", small)
    monkeypatch.setattr(model, "token_budget", 1200)  # by itself it follows the machine's caches
    with caplog.at_level(logging.WARNING, "echo_sentence_transformers"):
        np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=1e-5)
    assert "out of memory" in caplog.text


def test_threads_may_share_a_model_that_reads_an_earlier_layer(tiny_llama: Path) -> None:
    model = build(tiny_llama, layer=-2)
    texts = [f"Seat {number} in row {number % 7}" for number in range(24)]
    alone = [model.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(model.encode, texts))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_pickled_model_gives_the_same_vectors(tiny_llama: Path) -> None:
    model = build(tiny_llama, layer=-2)
    before = model.encode(TEXTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).encode(TEXTS), before)


def test_texts_without_a_task_warn_once_where_the_templates_differ(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(tiny_llama, query_template=QUERY)
    with caplog.at_level(logging.WARNING, "echo_sentence_transformers"):
        model.encode_query(TEXTS[:1])
        assert not warnings_of_ours(caplog)
        model.encode(TEXTS[:1])
        model.encode(TEXTS[:1])
    assert [message.split(";")[0] for message in warnings_of_ours(caplog)] == [
        "texts without a task are said as documents"
    ]


def test_an_instruct_models_chat_template_is_not_used(model_folder: object, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(model_folder("qwen2"), tmp_path / "instruct"))  # type: ignore[operator]
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}")
    model = build(folder)
    assert model[0].tokenizer.chat_template
    assert model.modalities == ["text"]
    np.testing.assert_allclose(
        model.encode(TEXTS), EchoEncoder(EchoConfig(str(folder)), CPU).encode_documents(TEXTS), atol=1e-5
    )


def test_another_backend_and_a_missing_layer_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="backend must be one of 'torch'"):
        EchoTransformer(str(tiny_llama), backend="onnx")
    with pytest.raises(ConfigError, match="layer must be from 1 to 3"):
        build(tiny_llama, layer=4)
    with pytest.raises(ConfigError, match="pooling must be one of"):
        EchoPooling(32, "max")


def test_the_embedded_model_is_the_default() -> None:
    model = EchoSentenceTransformer(device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(model.encode(TEXTS[:2]), EchoEncoder(runtime=CPU).encode_documents(TEXTS[:2]), atol=1e-5)
