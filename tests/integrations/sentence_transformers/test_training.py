"""Training with sentence-transformers' own trainer, losses and adapters."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from transformers import AutoModelForCausalLM

from echo_core import EchoConfig, EchoEncoder, ModelError, Runtime
from echo_sentence_transformers import EchoSentenceTransformer

QUERY = "Question: {text} Asked again: [[{text}]]"
PAIRS = {
    "query": ["Where is Paris?", "Who waters the tomatoes?", "When did it rain?", "Which river froze?"],
    "passage": [
        "Paris is in France.",
        "A gardener does.",
        "On the second of March.",
        "The one by the village froze twice.",
    ],
}
FP32 = Runtime(device="cpu", dtype="float32")
ROUTES = {"query": "query", "passage": "document"}


def build(folder: Path, **fields: object) -> EchoSentenceTransformer:
    return EchoSentenceTransformer(EchoConfig(str(folder), query_template=QUERY, **fields), device="cpu")


def trainer_for(
    model: EchoSentenceTransformer,
    loss: torch.nn.Module,
    folder: Path,
    columns: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    arguments = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
    }
    args = SentenceTransformerTrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, router_mapping=ROUTES, seed=1, **{**arguments, **options}
    )
    return SentenceTransformerTrainer(
        model=model, args=args, train_dataset=Dataset.from_dict(columns or PAIRS), loss=loss
    )


def guide(model: EchoSentenceTransformer) -> EchoSentenceTransformer:
    return copy.deepcopy(model)


LOSSES: dict[str, Callable[[EchoSentenceTransformer], torch.nn.Module]] = {
    "MultipleNegativesRanking": losses.MultipleNegativesRankingLoss,
    "CachedMultipleNegativesRanking": lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2),
    "GIST": lambda model: losses.GISTEmbedLoss(model, guide(model)),
    "CachedGIST": lambda model: losses.CachedGISTEmbedLoss(model, guide(model), mini_batch_size=2),
    "Matryoshka": lambda model: losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [32, 8]),
    "MatryoshkaCached": lambda model: losses.MatryoshkaLoss(
        model, losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2), [32, 8]
    ),
    "AdaptiveLayer": lambda model: losses.AdaptiveLayerLoss(model, losses.MultipleNegativesRankingLoss(model)),
}


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_trains_the_model_and_encode_sees_it(tiny_llama: Path, tmp_path: Path, name: str, layer: int) -> None:
    model = build(tiny_llama, layer=layer)
    before = model.encode_query(PAIRS["query"])
    trainer = trainer_for(model, LOSSES[name](model), tmp_path)
    trainer.train()
    after = model.encode_query(PAIRS["query"])
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-4


def test_cosent_trains_on_scored_pairs(tiny_llama: Path, tmp_path: Path) -> None:
    model = build(tiny_llama)
    before = model.encode(PAIRS["query"])
    columns = {"query": PAIRS["query"], "passage": PAIRS["passage"], "score": [1.0, 0.1, 0.7, 0.2]}
    trainer_for(model, losses.CoSENTLoss(model), tmp_path, columns).train()
    assert np.abs(model.encode(PAIRS["query"]) - before).max() > 1e-4


def test_three_columns_train_in_one_merged_forward_as_in_separate_ones(tiny_llama: Path) -> None:
    """Newer versions pad the columns to one batch; the pooling mask has to be padded along."""
    model = build(tiny_llama)
    columns = [PAIRS["query"], PAIRS["passage"], list(reversed(PAIRS["passage"]))]
    features = [
        model.preprocess(column, task=task)
        for column, task in zip(columns, ("query", "document", "document"), strict=True)
    ]
    loss = losses.MultipleNegativesRankingLoss(model)
    together = loss([dict(feature) for feature in features], None)
    apart = loss.compute_loss_from_embeddings([model(dict(f))["sentence_embedding"] for f in features], None)
    torch.testing.assert_close(together, apart)


def test_the_loss_falls(tiny_llama: Path, tmp_path: Path) -> None:
    model = build(tiny_llama)
    loss = losses.MultipleNegativesRankingLoss(model)

    def now() -> float:
        with torch.no_grad():
            return float(
                loss(
                    [
                        model.preprocess(PAIRS["query"], task="query"),
                        model.preprocess(PAIRS["passage"], task="document"),
                    ],
                    None,
                )
            )

    before = now()
    trainer_for(model, loss, tmp_path, max_steps=8, learning_rate=3e-3).train()
    assert now() < before / 2


def test_prompts_of_the_training_arguments_are_the_templates_instruction(tiny_llama: Path, tmp_path: Path) -> None:
    echo = EchoConfig(
        str(tiny_llama), query_template="Instruct: {instruction} Query: {text} Again: [[{text}]]", instruction="Look"
    )
    model = EchoSentenceTransformer(echo, device="cpu")
    trainer = trainer_for(model, losses.MultipleNegativesRankingLoss(model), tmp_path, prompts={"query": "Find it"})
    batch = trainer.data_collator([dict(zip(PAIRS, row, strict=True)) for row in zip(*PAIRS.values(), strict=True)])
    wanted = model.preprocess(PAIRS["query"], prompt="Find it", task="query")["input_ids"]
    assert torch.equal(batch["query_input_ids"], wanted)
    features = trainer.collect_features(batch)[0]  # one for each column: no feature's name may look like a column's
    assert [set(feature) - {"task"} for feature in features] == [{"input_ids", "attention_mask", "pooling_mask"}] * 2


def test_training_resumes_from_a_checkpoint_where_it_stopped(tiny_llama: Path, tmp_path: Path) -> None:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    straight = build(tiny_llama)
    trainer_for(straight, losses.MultipleNegativesRankingLoss(straight), tmp_path, **options).train()
    resumed = build(tiny_llama)
    trainer_for(resumed, losses.MultipleNegativesRankingLoss(resumed), tmp_path, **options).train(
        str(tmp_path / "checkpoint-2")
    )
    np.testing.assert_allclose(resumed.encode(PAIRS["passage"]), straight.encode(PAIRS["passage"]), atol=1e-4)


@pytest.fixture
def adapted(tiny_llama: Path, tmp_path: Path) -> EchoSentenceTransformer:
    model = build(tiny_llama, layer=-2)
    model.add_adapter(
        LoraConfig(task_type="FEATURE_EXTRACTION", r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    trainer_for(model, losses.MultipleNegativesRankingLoss(model), tmp_path / "run", max_steps=4).train()
    return model


def test_lora_trains_the_adapter_only(adapted: EchoSentenceTransformer, tiny_llama: Path) -> None:
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert np.abs(adapted.encode(PAIRS["query"]) - build(tiny_llama, layer=-2).encode(PAIRS["query"])).max() > 1e-3


def test_a_saved_adapter_is_small_and_loads_onto_its_base(adapted: EchoSentenceTransformer, tmp_path: Path) -> None:
    adapted.save_pretrained(str(tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = EchoSentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    np.testing.assert_allclose(again.encode_query(PAIRS["query"]), adapted.encode_query(PAIRS["query"]), atol=1e-5)
    with pytest.raises(ModelError, match=r"must fit its base model.*call merge_adapters\(\)"):  # layers were dropped
        EchoEncoder.load(tmp_path / "adapter")
    for name in ("adapter_model.bin", "gone"):
        (tmp_path / "adapter" / "adapter_model.safetensors").replace(tmp_path / "adapter" / name)
        with pytest.raises(ModelError, match=r"must have its weights as adapter_model.safetensors"):
            EchoSentenceTransformer(str(tmp_path / "adapter"), device="cpu")
        (tmp_path / "adapter" / name).replace(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="must hold a model or an adapter, got both"):
        EchoSentenceTransformer(str(tmp_path / "adapter"), device="cpu")


def test_what_is_made_of_an_adapter_and_its_base_is_saved_without_either(tiny_llama: Path, tmp_path: Path) -> None:
    """The saved config still named the base: a whole model refused it, and a further adapter was put onto it."""
    settings: dict[str, Any] = {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False}
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    get_peft_model(plain, LoraConfig(**settings)).save_pretrained(tmp_path / "adapter")
    echo = EchoConfig(str(tmp_path / "adapter"), base=str(tiny_llama))
    model = EchoSentenceTransformer(echo, device="cpu", model_kwargs={"dtype": "float32"})
    model.save_pretrained(str(tmp_path / "whole"))
    core = EchoEncoder.load(tmp_path / "whole", FP32)
    np.testing.assert_allclose(core.encode_queries(PAIRS["query"]), model.encode_query(PAIRS["query"]), atol=1e-5)

    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", **settings))
    model.save_pretrained(str(tmp_path / "further"))
    core = EchoEncoder.load(tmp_path / "further", FP32)
    np.testing.assert_allclose(core.encode_queries(PAIRS["query"]), model.encode_query(PAIRS["query"]), atol=1e-5)


def test_a_merged_adapter_gives_the_same_vectors_in_a_whole_model(
    adapted: EchoSentenceTransformer, tmp_path: Path
) -> None:
    wanted = adapted.encode_query(PAIRS["query"])
    adapted.merge_adapters()
    assert not any("lora" in name for name, _ in adapted.named_parameters())
    np.testing.assert_allclose(adapted.encode_query(PAIRS["query"]), wanted, atol=1e-5)
    adapted.save_pretrained(str(tmp_path / "merged"))
    np.testing.assert_allclose(
        EchoSentenceTransformer(str(tmp_path / "merged"), device="cpu").encode_query(PAIRS["query"]), wanted, atol=1e-5
    )
    core = EchoEncoder.load(tmp_path / "merged", Runtime(device="cpu", dtype="float32"))
    np.testing.assert_allclose(core.encode_queries(PAIRS["query"]), wanted, atol=1e-5)
    with pytest.raises(ModelError, match="must have an adapter"):
        adapted.merge_adapters()


def test_a_training_run_with_lora_resumes_from_its_checkpoint(tiny_llama: Path, tmp_path: Path) -> None:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}

    def fresh() -> EchoSentenceTransformer:
        torch.manual_seed(3)
        model = build(tiny_llama)
        model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=["q_proj"]))
        return model

    straight, resumed = fresh(), fresh()
    trainer_for(straight, losses.MultipleNegativesRankingLoss(straight), tmp_path, **options).train()
    trainer_for(resumed, losses.MultipleNegativesRankingLoss(resumed), tmp_path, **options).train(
        str(tmp_path / "checkpoint-2")
    )
    np.testing.assert_allclose(resumed.encode(PAIRS["passage"]), straight.encode(PAIRS["passage"]), atol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients_at_an_earlier_layer(tiny_llama: Path) -> None:
    def gradient(checkpointing: bool) -> torch.Tensor:
        model = build(tiny_llama, layer=-2).train()
        if checkpointing:
            model[0].model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(model.preprocess(PAIRS["query"]))["sentence_embedding"].sum().backward()
        return model[0].model.layers[0].self_attn.q_proj.weight.grad

    torch.testing.assert_close(gradient(True), gradient(False))


class Recorded(torch.nn.Module):
    """A loss that keeps the vectors that it was given, and gives something that has gradients."""

    def __init__(self, model: EchoSentenceTransformer) -> None:
        super().__init__()
        self.model, self.given = model, list[torch.Tensor]()

    def forward(self, features: Any, labels: Any) -> torch.Tensor:
        columns = [self.model(feature)["sentence_embedding"] for feature in features]
        self.given.append(columns[0].detach())
        return sum(column.sum() for column in columns)  # type: ignore[return-value]


@pytest.mark.parametrize("fields", [{}, {"filter": 2, "dimension": 16}], ids=["plain", "filter"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_2d_matryoshka_loss_trains_what_the_options_layer_and_dimension_read(
    model_folder: Callable[..., Path], family: str, fields: dict[str, Any]
) -> None:
    """Each layer's vector in the loss is that of a model made for this layer and dimension, whatever the norm."""
    folder = model_folder(family)
    model = EchoSentenceTransformer(EchoConfig(str(folder), **fields), device="cpu")
    model.train()
    recorded = Recorded(model)
    dimensions = [16, 8] if fields else [32, 8]
    loss = losses.Matryoshka2dLoss(model, recorded, dimensions, n_layers_per_step=-1, n_dims_per_step=-1)
    columns = [model.preprocess(PAIRS["query"], task="query"), model.preprocess(PAIRS["passage"], task="document")]
    loss(columns, None)
    pairs = [(layer, dimension) for layer in (3, 0, 1, 2) for dimension in dimensions]  # 3: the last; 0: embeddings
    assert len(recorded.given) == len(pairs)
    for (layer, dimension), got in zip(pairs, recorded.given, strict=True):
        if layer:
            config = EchoConfig(str(folder), layer=layer, **{**fields, "dimension": dimension})
            expected = EchoEncoder(config, FP32).encode_queries(PAIRS["query"])
            np.testing.assert_allclose(got.numpy(), expected, atol=2e-5)


def test_a_model_trained_by_the_2d_matryoshka_loss_opens_at_any_layer_and_dimension(
    tiny_llama: Path, tmp_path: Path
) -> None:
    model = build(tiny_llama)
    base = losses.MultipleNegativesRankingLoss(model)
    trainer_for(model, losses.Matryoshka2dLoss(model, base, [32, 16, 8]), tmp_path).train()
    model.save_pretrained(str(tmp_path / "saved"))
    whole = EchoEncoder.load(tmp_path / "saved", FP32)
    states = whole.raw().encode_layers(PAIRS["query"], [1, 2, 3], role="query")
    for layer, dimension in ((1, 8), (2, 32), (3, 16)):
        config = dataclasses.replace(whole.config, layer=layer, dimension=dimension)
        cut = states[layer - 1][:, :dimension]
        expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
        for reader in (EchoEncoder(config, FP32).encode_queries, EchoSentenceTransformer(config).encode_query):
            np.testing.assert_allclose(reader(PAIRS["query"]), expected, atol=2e-5)
