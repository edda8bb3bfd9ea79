from __future__ import annotations

from echo_core.template import TEMPLATES, parse_template
from echo_core.text.seams import Seam, joined_parts, reference_parts


def parts(mode, source: str) -> list[tuple[str, str, str, bool, bool]]:
    found = mode(parse_template(source))
    return [(p.piece.value, p.seam.before, p.seam.after, p.seam.continuing, p.piece.pooled) for p in found]


def test_white_space_before_a_value_belongs_to_the_value():
    assert parts(joined_parts, TEMPLATES["echo"]) == [
        ("Rewrite the following paragraph:", "", "", False, False),
        ("text", " ", "", True, False),
        (". The rewritten paragraph:", "", "", True, False),
        ("text", " ", "", True, True),
    ]


def test_all_white_space_goes_along_line_breaks_too():
    assert parts(joined_parts, "Query: \n\t{text} [[{text}]]")[1] == ("text", " \n\t", "", True, False)


def test_white_space_inside_the_pooled_region_stays_pooled_and_outside_of_it_stays_outside():
    """The white space before ``{text}]]`` would leave the pooled region with a literal that ends in it."""
    assert parts(joined_parts, "{text} [[again: {text}]]")[-1] == ("text", " ", "", True, True)
    pooled_space, value = parts(joined_parts, "[[{text}: ]]{text}")[-2:]
    assert pooled_space == (": ", "", "", True, True)
    assert value == ("text", "", "", True, False)


def test_a_literal_of_white_space_only_vanishes_into_the_value():
    assert parts(joined_parts, "{text} [[{text}]]") == [("text", "", "", False, False), ("text", " ", "", True, True)]


def test_a_prompt_still_begins_behind_a_bos():
    assert [p[3] for p in parts(joined_parts, "{bos}Say {text} [[{text}]]")] == [False, False, True, True]


def test_neighbouring_variables_have_no_white_space_between_them():
    assert [p[1] for p in parts(joined_parts, "a {context}{text} [[{text}]]")] == ["", " ", "", " "]


def test_the_reference_seam_tokenises_each_piece_alone_and_keeps_white_space_with_the_literal():
    found = parts(reference_parts, "{bos}Instruct:{instruction},\nQuery: {text}\nQuery again:[[{text}{eos}]]")
    assert found == [
        ("bos", "", "", False, False),
        ("Instruct:", "", "", False, False),
        ("instruction", "", ",", False, False),
        ("\nQuery: ", "", "", False, False),
        ("text", "", "", False, False),
        ("\nQuery again:", "", "", False, False),
        ("text", "", "", False, True),
        ("eos", "", "", False, True),
    ]


def test_seams_can_be_keys_of_a_table():
    assert len({Seam(" "), Seam(" "), Seam()}) == 2
