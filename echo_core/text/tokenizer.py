"""A checkpoint's own tokenizer, set up so that text stays text.

Special tokens are never read out of a text, no dummy space appears in the middle of a prompt, and no state is ever
toggled, so any number of threads may share one. What is tokenised, and where it is cut, is decided in ``prompts.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from echo_core.errors import ModelError, UnencodableTextError

ANCHOR = "\n"  # stands before a piece whose tokenizer would put a dummy space there, and is cut off again


class TextTokenizer:
    """A checkpoint's own tokenizer, set once so that text never becomes a special token; threads may share it."""

    def __init__(self, tokenizer: Any, given_away: bool = False) -> None:
        """Wrap a transformers tokenizer.

        Args:
            tokenizer: not changed, unless it is given away.
            given_away: nobody else will use it, so that it need not be copied, which takes seconds for a large one.

        Raises:
            ModelError: the tokenizer has no fast (tokenizers) backend.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"the tokenizer must be a fast one (tokenizer.json), got {type(tokenizer).__name__}; convert it first"
            )
        self.special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "slot": _placeholder(tokenizer)}
        self._forbidden = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self.bos = _leading_special_ids(tokenizer)  # a call of the tokenizer sets its backend up anew
        self._backend = backend if given_away else type(backend).from_str(backend.to_str())
        self._backend.encode_special_tokens = True  # "</s>" in a text stays text
        self._backend.no_truncation()
        self._backend.no_padding()
        self._anchor = self._plain([ANCHOR])[0].ids if self._has_dummy_space() else []

    @classmethod
    def from_folder(cls, folder: Path, trust_remote_code: bool = False) -> TextTokenizer:
        """The tokenizer in a checkpoint's folder; nothing is downloaded."""
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
            return cls(loaded, given_away=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"no usable tokenizer in {folder}: {error}") from error

    def encode(self, texts: Sequence[str], continuing: bool) -> list[list[int]]:
        """Ids of each text; ``continuing``: as inside a prompt, without the dummy space that some tokenizers put first.

        Raises:
            UnencodableTextError: a lone surrogate, or a text that this tokenizer can only write as a special token;
                names
                the index.
        """
        anchored = continuing and bool(self._anchor)
        encodings = self._plain([ANCHOR + text for text in texts] if anchored else texts)
        ids = [self._without_anchor(encoding) if anchored else encoding.ids for encoding in encodings]
        for index, row in enumerate(ids):
            if not self._forbidden.isdisjoint(row):
                token = self._backend.id_to_token(next(i for i in row if i in self._forbidden))
                raise UnencodableTextError(
                    index, f"holds {token!r}, which this tokenizer can only read as its special token; reword it"
                )
        return ids

    def ends(self, text: str, continuing: bool) -> list[int]:
        """For each id that ``encode`` gives, the offset in ``text`` of the character after it."""
        shift = len(ANCHOR) if continuing and self._anchor else 0
        encoding = self._plain([ANCHOR[:shift] + text])[0]
        kept = len(self._without_anchor(encoding)) if shift else len(encoding.ids)
        return [end - shift for _, end in encoding.offsets[len(encoding.ids) - kept :]]

    def check_fits(self, vocabulary: int) -> None:
        """Return if a model with this many token embeddings has one for each id that a text or a prompt can get.

        Special tokens beyond them are no harm: no text holds one (some checkpoints add a padding token that way).

        Raises:
            ModelError: the tokenizer has more tokens than the model.
        """
        special = {number for number, token in self._backend.get_added_tokens_decoder().items() if token.special}
        unread = special - set(self.bos) - {self.special["bos"], self.special["eos"]}
        ids = self._backend.get_vocab(with_added_tokens=True)
        wrong = sorted(
            (number, token) for token, number in ids.items() if number >= vocabulary and number not in unread
        )
        if wrong:
            count, (number, token) = len(wrong), wrong[0]
            problem = f"the tokenizer must have at most the model's {vocabulary} tokens, got {count} more"
            raise ModelError(
                f"{problem} ({number}: {token!r}); save the model with resized embeddings, or its own tokenizer"
            )

    def token(self, token_id: int) -> str:
        """The text of one id, with white space as the tokenizer writes it."""
        return str(self._backend.decode([token_id], skip_special_tokens=False) or self._backend.id_to_token(token_id))

    def _plain(self, texts: Sequence[str]) -> list[Any]:
        try:
            return list(self._backend.encode_batch(list(texts), add_special_tokens=False))
        except (UnicodeEncodeError, TypeError) as error:
            raise _unencodable(texts) from error

    def _without_anchor(self, encoding: Any) -> list[int]:
        ids: list[int] = encoding.ids
        if ids[: len(self._anchor)] == self._anchor:
            return ids[len(self._anchor) :]
        return [i for i, (_, end) in zip(ids, encoding.offsets, strict=True) if end > len(ANCHOR)]

    def _has_dummy_space(self) -> bool:
        alone, behind, anchor = (encoding.ids for encoding in self._plain(["a", ANCHOR + "a", ANCHOR]))
        return bool(behind[: len(anchor)] == anchor and behind[len(anchor) :] != alone)


def _placeholder(tokenizer: Any) -> int:
    """The token that stands at a slot until its state is overwritten: one that no text holds, if there is any."""
    candidates = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((int(token) for token in candidates if token is not None), 0)


def _leading_special_ids(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer itself puts before a text (its BOS, or nothing)."""
    with_special = list(tokenizer("a")["input_ids"])
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    starts = range(len(with_special) - len(plain) + 1)
    return next((tuple(with_special[:i]) for i in starts if with_special[i : i + len(plain)] == plain), ())


def _unencodable(texts: Sequence[str]) -> UnencodableTextError:
    for index, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            problem = f"must be valid Unicode, got the lone surrogate {text[error.start]!r}"
            return UnencodableTextError(index, f"{problem}; decode its source with errors='replace'")
    return UnencodableTextError(0, "or one after it was refused by the tokenizer")
