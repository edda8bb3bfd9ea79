"""What counts as the same print in README and docs."""

from __future__ import annotations

import pytest
from printed import same_print


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("(3, 384) float32", "(3, 384) float32\n"),
        ("[[ 0.24  0.12 -0.03]\n [ 0.09  0.04  0.24]]", "[[ 0.24  0.12 -0.03]\n [ 0.10  0.04  0.23]]\n"),
        ("first\n…\nlast", "first\nsecond\nthird\nlast"),
        ("53.00 and … more", "53.01 and 17 more"),
        ("v1.2 of a [pattern].*", "v1.2 of a [pattern].*"),
    ],
)
def test_the_same_words_and_nearly_the_same_numbers_are_the_same_print(shown, printed):
    assert same_print(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("(3, 384)", "(3, 385)"),
        ("0.24", "0.26"),
        ("0.24", "-0.24"),
        ("one line", "one line\nand another"),
        ("a\n…\nz", "a\nb"),
        ("something", ""),
        ("", "something"),
    ],
)
def test_other_words_numbers_or_lines_are_not_the_same_print(shown, printed):
    assert not same_print(shown, printed)
