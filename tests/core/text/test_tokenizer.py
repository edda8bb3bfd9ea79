from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_texts import ALL
from tiny_tokenizers import TEXT_TOKENIZERS, TOKENIZERS
from transformers import AutoTokenizer

from echo_core.errors import ModelError, UnencodableTextError
from echo_core.text.tokenizer import TextTokenizer

OWN = {name: make() for name, make in TOKENIZERS.items()}
WRAPPED = {name: TextTokenizer(own) for name, own in OWN.items()}
BYTE_LEVEL = ("byte_level_bos", "byte_level", "chatml")
every_tokenizer = pytest.mark.parametrize("name", TEXT_TOKENIZERS)


@every_tokenizer
@pytest.mark.parametrize("text", ALL)
def test_a_text_comes_back_whole_and_holds_no_special_token(name: str, text: str):
    for before in ("", " "):
        ids = WRAPPED[name].encode([before + text], continuing=True)[0]
        assert not set(ids) & set(OWN[name].all_special_ids)
        expected = (before + text).replace(
            "▁", "▁" if name in BYTE_LEVEL else " "
        )  # SentencePiece's own sign for a space
        assert OWN[name].decode(ids, clean_up_tokenization_spaces=False).removeprefix(" ") == expected.removeprefix(" ")


@every_tokenizer
@given(st.text(max_size=40).filter(lambda text: "▁" not in text and not any("\ud800" <= c <= "\udfff" for c in text)))
def test_any_text_comes_back_whole(name: str, text: str):
    ids = WRAPPED[name].encode(["x" + text], continuing=True)[0]
    assert OWN[name].decode(ids, clean_up_tokenization_spaces=False).removeprefix(" ") == "x" + text


@every_tokenizer
def test_pieces_of_a_prompt_give_the_ids_of_the_whole_prompt(name: str):
    """The joined seam is for this: cut before white space, the ids are those that the model knows from sentences."""
    pieces = ["Rewrite the following paragraph:", " Paris", ". The rewritten paragraph:", " Paris"]
    own = OWN[name]
    apart = [token for i, piece in enumerate(pieces) for token in WRAPPED[name].encode([piece], continuing=i > 0)[0]]
    assert apart == own("".join(pieces), add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("LlamaTokenizer", "legacy"),
        ("LlamaTokenizer", "metaspace"),
        ("GPT2Tokenizer", "byte_level"),
        ("Qwen2Tokenizer", "chatml"),
        ("GemmaTokenizer", "gemma"),
    ],
)
def test_the_classes_that_transformers_builds_for_known_families_keep_their_ids(kind: str, name: str, tmp_path: Path):
    """They rebuild normaliser and pre-tokenizer in code instead of reading them from tokenizer.json."""
    OWN[name].save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": kind}))
    own, ours = AutoTokenizer.from_pretrained(tmp_path), TextTokenizer.from_folder(tmp_path)
    assert type(own).__name__ == kind
    pieces = ["Rewrite the following paragraph:", " Paris </s> <|im_end|>", ". The rewritten paragraph:", " Paris"]
    apart = [token for i, piece in enumerate(pieces) for token in ours.encode([piece], continuing=i > 0)[0]]
    assert apart == own("".join(pieces), add_special_tokens=False, split_special_tokens=True).input_ids
    assert [*ours.bos, *own("Hi", add_special_tokens=False).input_ids] == own("Hi").input_ids


@pytest.mark.parametrize("name", ["metaspace", "legacy"])
def test_no_dummy_space_appears_in_the_middle_of_a_prompt(name: str):
    alone = WRAPPED[name].encode(["Paris"], continuing=False)[0]
    behind = WRAPPED[name].encode(["Paris"], continuing=True)[0]
    spaced = WRAPPED[name].encode([" Paris"], continuing=True)[0]
    assert alone == spaced != behind


@every_tokenizer
def test_the_leading_ids_are_what_the_models_own_tokenizer_sets(name: str):
    own = OWN[name]
    expected = (own.bos_token_id,) if name not in ("byte_level", "chatml") else ()
    assert WRAPPED[name].bos == expected
    assert [*expected, *own("Hi", add_special_tokens=False).input_ids] == own("Hi").input_ids


def test_a_tokenizer_that_was_told_to_set_no_bos_sets_none(tmp_path):
    TOKENIZERS["byte_level_bos"]().save_pretrained(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path, add_bos_token=False)
    assert TextTokenizer(own).bos == tuple(
        own("Hi").input_ids[: len(own("Hi").input_ids) - len(own("Hi", add_special_tokens=False).input_ids)]
    )


def test_an_eos_that_the_tokenizer_sets_behind_a_text_is_not_taken_for_a_bos():
    from tokenizers import processors

    own = TOKENIZERS["byte_level_bos"]()
    ids = [("<s>", own.bos_token_id), ("</s>", own.eos_token_id)]
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B", special_tokens=ids
    )
    assert TextTokenizer(own).bos == (own.bos_token_id,)


@every_tokenizer
@pytest.mark.parametrize("text", ["a 🎉 b", "Bread  needs flour", "\n\nx", "שלום", " Paris"])
def test_the_ends_are_the_offsets_behind_each_token(name: str, text: str):
    for continuing in (False, True):
        ends = WRAPPED[name].ends(text, continuing)
        assert len(ends) == len(WRAPPED[name].encode([text], continuing)[0])
        assert ends == sorted(ends)
        assert ends[-1] == len(text)
        assert all(0 <= end <= len(text) for end in ends)


def test_a_lone_surrogate_is_refused_with_its_index():
    for name in TEXT_TOKENIZERS:
        with pytest.raises(
            UnencodableTextError, match=r"text 1 must be valid Unicode, got the lone surrogate '\\ud83d'"
        ):
            WRAPPED[name].encode(["fine", "broken \ud83d emoji", "fine"], continuing=True)


def test_a_text_that_the_vocabulary_can_only_write_as_a_special_token_is_refused():
    """A vocabulary of whole words holds its special tokens as words: splitting them is not in its power."""
    with pytest.raises(UnencodableTextError, match=r"text 1 holds '\[PAD\]'.*reword"):
        _whitespace_only().encode(["bread", "[PAD] bread"], continuing=False)


def _whitespace_only() -> TextTokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "bread": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]"))


def test_the_callers_tokenizer_is_not_changed():
    own = TOKENIZERS["legacy"]()
    before = own("a </s> b").input_ids
    TextTokenizer(own).encode(["x </s>"], continuing=True)
    assert own("a </s> b").input_ids == before
    assert own.eos_token_id in before


def test_one_tokenizer_serves_many_threads_at_once():
    """Toggling a shared tokenizer's state raises "Already borrowed" in other threads; here nothing is toggled."""
    tokenizer, texts = WRAPPED["legacy"], [text * 5 for text in ALL]
    expected = tokenizer.encode(texts, continuing=True)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                assert tokenizer.encode(texts, continuing=True) == expected
                tokenizer.ends(texts[0], continuing=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_slow_tokenizer_is_refused_with_the_way_out():
    class Slow:
        pass

    with pytest.raises(ModelError, match=r"must be a fast one.*got Slow"):
        TextTokenizer(Slow())


def test_a_folder_without_a_tokenizer_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="no usable tokenizer"):
        TextTokenizer.from_folder(tmp_path)


def test_a_tokenizer_larger_than_the_models_vocabulary_is_refused_by_name():
    """Such a model loaded, and failed with an IndexError at the first text that held one of the tokens."""
    size = len(OWN["byte_level_bos"])
    WRAPPED["byte_level_bos"].check_fits(size)
    with pytest.raises(
        ModelError, match=rf"at most the model's {size - 10} tokens, got \d+ more \({size - 10}: .*own token"
    ):
        WRAPPED["byte_level_bos"].check_fits(size - 10)


def test_special_tokens_beyond_the_vocabulary_are_no_harm_unless_a_prompt_holds_them():
    """Some checkpoints add a padding token without an embedding; no text gets its id."""
    own = TOKENIZERS["byte_level_bos"]()
    size = len(own)
    own.add_special_tokens({"pad_token": "<pad>"})
    TextTokenizer(own).check_fits(size)
    own.add_special_tokens({"eos_token": "<end>"})
    with pytest.raises(ModelError, match="'<end>'"):
        TextTokenizer(own).check_fits(size)
    own = TOKENIZERS["byte_level_bos"]()
    own.add_tokens(["<think>"])
    with pytest.raises(ModelError, match="'<think>'"):
        TextTokenizer(own).check_fits(size)
