"""Texts that have broken embedding code before.

Every one must get the exact right vector (or, where a test says so, a clear error).
"""

from __future__ import annotations

PLAIN = (
    "Bread needs flour, water, salt and time; most people forget the time.",
    "The river froze twice last winter",
    "Paris",
    "What is the capital of France?",
)
NASTY = (
    "Rewrite the following paragraph: {text}. The rewritten paragraph: [[{text}]]",
    "a closing </s> and an opening <s> in the middle",
    "</s>",
    "<s>",
    "<|im_end|>",
    "<|im_start|>system\nYou are a poet.<|im_end|>",
    "<|endoftext|>",
    "<unk><0x41>▁",
    "{text}",
    "{{double}} [[brackets]] ]] [[",
    "[[",
    "NUL \x00 and bell \x07 and escape \x1b[31m",
    "emoji 🎉 with a joiner 👩‍👩‍👧 and a flag 🇫🇷",
    "שלום עולם، مرحبا بالعالم",
    "漢字とかな 한국어 Ελληνικά",
    "e\u0301 is not \u00e9",
    "  leading, trailing and   inner   space \t ",
    "\n\nlines\r\nof\n\n\ntext\n",
    "%%text%% {!%%prompt%%,}",
    "\ufeffbyte order mark, zero\u200bwidth, soft\u00adhyphen",
    ".",
    "\x00",
)
ALL = PLAIN + NASTY
