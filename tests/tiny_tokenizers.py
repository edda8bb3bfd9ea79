"""Tiny tokenizers of every kind that matters, trained in the test on a few sentences.

Each is a real `tokenizers` object wrapped by transformers.

* ``byte_level_bos`` / ``byte_level``: GPT-2's alphabet, with and without a BOS that the tokenizer sets itself (Llama 3
  / GPT-2, Pythia).
* ``chatml``: byte level, no BOS, ``<|im_end|>`` as EOS, an added token that is not special (Qwen, SmolLM).
* ``metaspace``: SentencePiece style with byte fallback and a dummy space before the text (Llama 2, newer files).
* ``legacy``: the same with a Prepend normaliser and no pre-tokenizer (Llama 2, Mistral 7B).
* ``gemma``: SentencePiece style without a dummy space.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = """Rewrite the following paragraph: The rewritten paragraph: Write a paragraph: This sentence means in one word
Instruct: Given a web search query, retrieve relevant passages that answer the query Query: Query again: Document: Document again:
The old lighthouse keeper walked along the shore and counted the ships that came home before the storm.
A gardener waters tomatoes in the morning, because the leaves burn when drops hang on them at noon.
Nobody knew why the clock in the tower had stopped at seven, until a bird was found asleep between its wheels.
Bread needs flour, water, salt and time; most people forget the time. What is the capital of France? Paris is the capital.
The river froze twice last winter, and the children skated from one village to the next. It rained on the second of March 1987.
She paid 12 euros for the ticket, found seat 47 and slept through the whole opera. Which planet has the most moons?
Volcanoes build islands, rain carries them away again. Light takes eight minutes from the sun to the earth.
""".splitlines()  # noqa: E501
VOCABULARY = 384


@lru_cache(maxsize=1)
def _byte_level_base() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer.to_str()


@lru_cache(maxsize=1)
def _metaspace_model() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in Llama 2's order: unk, bos, eos, 256 bytes, pieces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<unk>"], show_progress=False)
    )
    trained = json.loads(tokenizer.to_str())["model"]
    pieces = [piece for piece, _ in sorted(trained["vocab"].items(), key=lambda item: item[1]) if piece != "<unk>"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {name: i for i, name in enumerate(names)}, [tuple(merge) for merge in trained["merges"]]


def _sentencepiece(bos: bool = True) -> Tokenizer:
    vocabulary, merges = _metaspace_model()
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    )
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(strip)
    if bos:
        tokenizer.post_processor = _bos_processor(tokenizer, "<s>")
    return tokenizer


def _bos_processor(tokenizer: Tokenizer, token: str) -> Any:
    pair = f"{token} $A {token} $B"
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=pair, special_tokens=[(token, tokenizer.token_to_id(token))]
    )


def _wrapped(tokenizer: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def byte_level_bos() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(_byte_level_base())
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = _bos_processor(tokenizer, "<s>")
    return _wrapped(tokenizer, bos_token="<s>", eos_token="</s>")


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(_byte_level_base())
    tokenizer.add_special_tokens(["<|endoftext|>"])
    token = "<|endoftext|>"
    return _wrapped(tokenizer, bos_token=token, eos_token=token, unk_token=token)


def chatml() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(_byte_level_base())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return _wrapped(
        tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def no_special() -> PreTrainedTokenizerFast:
    """Neither BOS nor EOS nor anything else."""
    return _wrapped(Tokenizer.from_str(_byte_level_base()))


def metaspace() -> PreTrainedTokenizerFast:
    tokenizer = _sentencepiece()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def legacy() -> PreTrainedTokenizerFast:
    tokenizer = _sentencepiece()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gemma() -> PreTrainedTokenizerFast:
    tokenizer = _sentencepiece()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return _wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def forgetful() -> PreTrainedTokenizerFast:
    """A byte-level one whose normaliser deletes zero-width characters and NUL: a text may be left with nothing."""
    tokenizer = Tokenizer.from_str(_byte_level_base())
    tokenizer.normalizer = normalizers.Replace(Regex("[\\x{200B}\\x{00}]"), "")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = _bos_processor(tokenizer, "<s>")
    return _wrapped(tokenizer, bos_token="<s>", eos_token="</s>")


def word_level() -> PreTrainedTokenizerFast:
    """Words of BERT's kind, for the models that must be refused."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return _wrapped(tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    make.__name__: make
    for make in (byte_level_bos, byte_level, chatml, no_special, metaspace, legacy, gemma, forgetful, word_level)
}
TEXT_TOKENIZERS = ("byte_level_bos", "byte_level", "chatml", "metaspace", "legacy", "gemma")
