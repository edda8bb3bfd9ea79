import numpy as np
import pytest
import torch
from oracle import open_oracle

from echo_core import ConfigError, EchoConfig, EchoEncoder, Runtime
from echo_core.methods import token_prepending

SLOW = Runtime(device="cpu", dtype="float32")
TEXTS = [
    "The owl hunts at night.",
    "Bread needs flour, water and a good deal of patience before it rises.",
    "Ships!",
    "Seven ships left.",
]
FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi", "opt", "mistral"]


def config(folder, through, **options):
    fields = {
        "query_template": "prepending",
        "document_template": "prepending",
        "pooling": "last",
        "normalize": False,
        **options,
    }
    return EchoConfig(str(folder), prepend_layers=through, **fields)


def encode(folder, through, texts=TEXTS, **options):
    return EchoEncoder(config(folder, through, **options), SLOW).encode_documents(texts)


def edited_by_hand(folder, through, text):
    """One row, one layer at a time from the model's own list, the slot's state copied by hand between the layers."""
    oracle = open_oracle(folder)
    tokenizer = EchoEncoder(config(folder, through), SLOW)._engine.tokenizer
    before = oracle.leading() + oracle.piece_ids('This sentence: "', False)
    after = [oracle.piece_ids(piece, True) for piece in (text, '" means in one word:', '"')]
    ids = [*before, tokenizer.special["slot"], *(i for piece in after for i in piece)]
    slot = len(before)
    layers = next(
        m
        for m in oracle.model.modules()
        if isinstance(m, torch.nn.ModuleList) and len(m) == oracle.model.config.num_hidden_layers
    )
    hooks = [
        layer.register_forward_hook(lambda _, __, output: copied(output, slot)) for layer in list(layers)[: through - 1]
    ]
    try:
        return oracle.states(ids)[-1].numpy()
    finally:
        for hook in hooks:
            hook.remove()


def copied(output, slot):
    """What a layer gave, with the last state written over the slot's."""
    states = (output[0] if isinstance(output, tuple) else output).clone()
    states[0, slot] = states[0, -1]
    return (states, *output[1:]) if isinstance(output, tuple) else states


@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_a_forward_pass_with_a_hand_edited_state(model_folder, family):
    folder = model_folder(family)
    wanted = np.stack([edited_by_hand(folder, 3, text) for text in TEXTS])
    np.testing.assert_allclose(encode(folder, 3), wanted, rtol=1e-3, atol=1e-4)


def test_it_changes_the_vector_more_than_a_plain_token_in_the_slot_does(tiny_llama):
    plain, one, two = (encode(tiny_llama, through) for through in (1, 2, 3))
    assert np.abs(plain - one).max() > 0.01
    assert np.abs(one - two).max() > 0.01


def test_through_one_layer_nothing_is_overwritten(tiny_llama):
    wanted = np.stack([edited_by_hand(tiny_llama, 1, text) for text in TEXTS])
    np.testing.assert_allclose(encode(tiny_llama, 1), wanted, rtol=1e-3, atol=1e-4)


def test_a_batch_gives_the_vectors_of_each_text_alone(tiny_llama):
    alone = np.concatenate([encode(tiny_llama, 3, [text]) for text in TEXTS])
    np.testing.assert_allclose(encode(tiny_llama, 3), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_rows_laid_end_to_end_give_the_vectors_of_padded_ones(model_folder, family):
    encoder = EchoEncoder(config(model_folder(family), 3), Runtime(device="cpu", dtype="float32", attention="packed"))
    assert encoder._engine.runner.planner.packed
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), encode(model_folder(family), 3), rtol=1e-4, atol=1e-5)


def test_with_an_echo_template_the_first_saying_sees_the_last_word(tiny_llama):
    """Pool the first saying only: without prepending it cannot depend on what comes after it, with it it must."""
    template = "Say {slot} [[{text}]] and then {later}"
    fields = {"query_template": template, "document_template": template, "pooling": "mean"}
    seen, blind = (EchoEncoder(config(tiny_llama, through, **fields), SLOW) for through in (3, 1))

    def difference(encoder):
        one, other = (encoder.encode_documents(["an owl"], variables={"later": word}) for word in ("flies", "sleeps"))
        return np.abs(one - other).max()

    assert difference(blind) < 1e-6
    assert difference(seen) > 1e-3


def test_windows_of_a_long_text_each_fill_their_own_slot(tiny_llama):
    fields = {
        "query_template": "echo-prepending",
        "document_template": "echo-prepending",
        "pooling": "mean",
        "max_tokens": 8,
    }
    long_text = " ".join(TEXTS)
    np.testing.assert_allclose(
        encode(tiny_llama, 3, [long_text, *TEXTS], **fields)[0],
        encode(tiny_llama, 3, [long_text], **fields)[0],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "fields", [{"prepend_layers": 2}, {"document_template": "prepending", "query_template": "prepending"}]
)
def test_a_slot_and_its_layers_go_together(fields):
    with pytest.raises(ConfigError, match=r"prepend_layers.*\{slot\}.*go together"):
        EchoConfig(**fields)


def test_slots_go_to_the_device_once_a_pass(tiny_llama, monkeypatch):
    """They were copied there before each layer, and each copy waits for the device."""
    given = []
    monkeypatch.setattr(token_prepending, "overwrite", lambda states, slots: given.append(slots) or states)
    encode(tiny_llama, 3)
    assert len(given) >= 2
    assert all(isinstance(slots, torch.Tensor) and slots.dtype is torch.int64 for slots in given)
    assert given[-2] is given[-1]


def test_more_layers_than_run_are_refused(tiny_llama):
    with pytest.raises(ConfigError, match="prepend_layers must be at most 2"):
        EchoEncoder(config(tiny_llama, 3, layer=2), SLOW)
