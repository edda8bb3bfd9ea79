"""Records against what is stored: what Chroma's merging would keep, and what it gives back differently."""

from hypothesis import given
from hypothesis import strategies as st

from echo_chroma.changes import compare
from echo_chroma.records import Record

VALUES = st.one_of(
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=2),
    st.lists(st.text(max_size=2), min_size=1, max_size=2),
)
METADATA = st.one_of(st.none(), st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1))


def record(id="1", text="one", metadata=None):
    return Record(0, id, text, metadata, {})


def kinds(changes):
    return [[r.id for r in part] for part in (changes.new, changes.rewritten, changes.relabelled)]


def test_a_record_is_new_rewritten_relabelled_or_as_it_was():
    stored = {"2": ("old", None), "3": ("three", {"a": 1}), "4": ("four", {"a": 1})}
    records = [record("1"), record("2", "new"), record("3", "three", {"a": 2}), record("4", "four", {"a": 1})]
    assert kinds(compare(records, stored)) == [["1"], ["2"], ["3"]]


def test_a_stored_record_without_a_text_is_written_again():
    """As one is that was added with a ready-made vector."""
    assert kinds(compare([record()], {"1": (None, None)})) == [[], ["1"], []]


@given(METADATA, METADATA)
def test_after_chromas_merge_the_metadata_is_the_records_own(old, new):
    """A changed record kept the keys of the one that it replaced."""
    (written,) = compare([record(text="new", metadata=new)], {"1": ("old", old)}).rewritten
    merged = {**(old or {}), **(written.metadata or {})}
    assert {key: value for key, value in merged.items() if value is not None} == (new or {})


@given(METADATA)
def test_the_same_metadata_is_no_change(metadata):
    assert kinds(compare([record(metadata=metadata)], {"1": ("one", metadata)})) == [[], [], []]


def test_a_float_that_comes_back_with_another_last_digit_is_no_change():
    """Chroma 1.5.9 gives back 90.28571428571428 for 632 / 7: each run would have written it again."""
    stored = {"1": ("one", {"a": 90.28571428571428, "b": [0.1]})}
    assert kinds(compare([record(metadata={"a": 632 / 7, "b": [0.1]})], stored)) == [[], [], []]


def test_one_and_true_and_one_point_zero_are_three_values():
    for old in (1, True, 1.0):
        for new in (1, True, 1.0):
            changed = compare([record(metadata={"a": [new]})], {"1": ("one", {"a": [old]})}).relabelled
            assert bool(changed) == (type(old) is not type(new))
