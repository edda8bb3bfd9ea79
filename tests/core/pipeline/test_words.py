from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from encoders import LONG, encoder_of
from nasty_texts import NASTY, PLAIN
from safetensors.torch import load_file, save_file

from echo_core import ConfigError, EchoEncoder, EmptyTextError, ModelError, VariableError
from echo_core.methods.key_tokens import sample_texts
from echo_core.methods.share_matrix import share_matrix

OPTIONS = [
    {},
    {"pooling": "last"},
    {"pooling": "weighted_mean", "layer": -2},
    {"filter": 2},
    {"filter": 2, "dimension": 8, "centre": tuple([1.0] + [0.0] * 31)},
    {"normalize": False, "query_centre": tuple([0.0] * 31 + [1.0])},
    {"query_template": "classical", "max_tokens": 16, "overlap": 4},
    {"document_template": "Document: {text}\nAgain: [[{text}{eos}]]", "pooling": "last"},
    {"caps": "sentence"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("document", [PLAIN[0], LONG, "WHY OWLS HUNT AT NIGHT", "Zoë’s 日本語 🙂 text"])
def test_every_tokens_share_adds_up_to_the_cosine_of_the_vectors(tiny_llama: Path, options, document):
    encoder = encoder_of(tiny_llama, **options)
    query = PLAIN[1]
    score = float(encoder.encode_queries([query])[0] @ encoder.encode_documents([document])[0])
    found = encoder.explain(query, document)
    scale = max(1.0, abs(score))
    assert found.score == pytest.approx(score, abs=1e-5 * scale)
    for shares in (found.query_shares, found.document_shares):
        assert sum(share for _, share in shares) == pytest.approx(score, abs=1e-5 * scale)


@pytest.mark.parametrize("text", [PLAIN[0], *(text for text in NASTY if text.strip())])
def test_the_tokens_of_an_explanation_are_the_text_itself(encoder: EchoEncoder, text: str):
    shares = encoder.explain(PLAIN[1], text).document_shares
    assert "".join(token for token, _ in shares) == text


@pytest.mark.parametrize("family", ["llama", "smollm", "gemma3"])
def test_tokens_are_the_best_rows_of_the_head_for_the_state_less_the_samples_mean(model_folder, family):
    folder = model_folder(family)
    encoder = encoder_of(folder)
    tensors = load_file(folder / "model.safetensors")
    head = tensors.get("lm_head.weight", tensors.get("model.embed_tokens.weight")).double().numpy()
    raw = encoder.raw()
    state = raw.encode_documents([PLAIN[0]])[0] - raw.encode_documents(sample_texts()).mean(axis=0)
    best = np.argsort(-(head @ state.astype(np.float64)))[:5]
    found = encoder.words([PLAIN[0]], k=5, merged=False)[0]
    assert [word.word for word in found] == [encoder._engine.tokenizer.token(int(i)) for i in best]
    assert [word.weight for word in found] == pytest.approx((head[best] @ state).tolist(), rel=1e-3)


@pytest.mark.parametrize("overflow", ["error", "truncate"])
@pytest.mark.parametrize("seam", ["joined", "reference"])
def test_limits_of_texts_do_not_reach_the_sample_that_words_are_read_with(tiny_llama: Path, overflow, seam):
    """A text of one word was too long by a sentence that nobody gave, or a hundred texts were cut."""
    encoder = encoder_of(tiny_llama, max_tokens=6, overlap=0, overflow=overflow, seam=seam)
    assert encoder.words(["lamp"], k=3, merged=False)[0]
    assert encoder.words(["lamp"], k=3)
    assert encoder.encode_sparse_documents(["lamp"]).nnz
    assert encoder.explain("lamp", "lamp").score == pytest.approx(1.0, abs=1e-5)
    assert encoder.texts_cut == 0


def test_fewer_words_are_the_first_of_more():
    encoder = EchoEncoder()
    texts = ["The court fined the oil company for the spill.", "volcano", "https://example.org/shop/books/12345"]
    most = encoder.words(texts, k=20)
    for k in (1, 3, 12):
        assert encoder.words(texts, k=k) == [words[:k] for words in most]


def test_what_is_taken_out_is_checked_before_the_model_runs(encoder: EchoEncoder):
    before = encoder.statistics().rows
    with pytest.raises(ConfigError, match="taken_out must be one of"):
        encoder.words(PLAIN, taken_out="x")
    assert encoder.statistics().rows == before


def test_threads_fit_the_sample_once(tiny_llama: Path):
    encoder = encoder_of(tiny_llama)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: encoder.words(PLAIN, k=2, merged=False), range(4)))
    assert found[1:] == found[:-1]
    assert encoder.statistics().rows == len(sample_texts()) + 4 * len(PLAIN)


def test_words_of_the_embedded_model_are_about_the_text():
    encoder = EchoEncoder()
    (read,) = encoder.words(["My husband is so loud while asleep at night; what can we do"])
    assert len(read) == 12
    assert {"asleep", "night"} <= {word.word.casefold() for word in read}
    found = encoder.explain(
        "Why do I wake up at night?", "Evening light keeps people awake and makes their sleep short."
    )
    assert found.words_in_common


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_several_passages_are_explained_and_drawn_as_a_matrix(encoder: EchoEncoder, tmp_path: Path, ending):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"shares.{ending}"
    found = encoder.explain_all(PLAIN[1], PLAIN[2:], plot=path)
    assert [each.score for each in found] == [
        pytest.approx(encoder.explain(PLAIN[1], document).score, abs=1e-6) for document in PLAIN[2:]
    ]
    words, shares = share_matrix(found)
    assert words == PLAIN[1].split()
    assert shares.sum(axis=1) == pytest.approx([each.score for each in found], abs=1e-5)
    assert path.stat().st_size > 1000
    assert encoder.explain_all(PLAIN[1], []) == []


def test_a_matrix_is_drawn_on_axes_of_the_callers(encoder: EchoEncoder):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.add_subplot()
    found = encoder.explain_all(PLAIN[1], PLAIN[2:], plot=axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == PLAIN[1].split()
    assert axes.get_yticklabels()[0].get_text() == f"{PLAIN[2]}  {found[0].score:.2f}"


def test_dollar_signs_in_texts_are_no_formulas(encoder: EchoEncoder, tmp_path: Path):
    """What stood between two was typeset as mathematics, and what is none there ended in matplotlib's parser."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "shares.svg"
    encoder.explain_all(r"Is $5 less than $6 or \$7?", ["from $5 to $6_", r"$\nosuchsign$"], plot=path)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("plot", "kind", "message"),
    [
        ("shares.xyz", ConfigError, "plot must end in one of .*png.*, got"),
        ("shares", ConfigError, "plot must end in one of"),
        ("nowhere/shares.png", ConfigError, "plot must be a file in a folder that exists, got"),
        (3, TypeError, "plot must be a file's path or Axes of matplotlib, got int"),
    ],
)
def test_where_nothing_can_be_drawn_is_refused_before_the_model_runs(
    encoder: EchoEncoder, monkeypatch, plot, kind, message
):
    """It was found out after all passages had been explained, in matplotlib."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(EchoEncoder, "explain", lambda *args, **options: pytest.fail("the model has run"))
    with pytest.raises(kind, match=message):
        encoder.explain_all(PLAIN[1], PLAIN[2:], plot=plot)


def test_no_passages_are_explained_but_not_drawn_and_the_query_is_checked_all_the_same(encoder: EchoEncoder, tmp_path):
    """An empty picture was written, and any query was taken."""
    pytest.importorskip("matplotlib")
    assert encoder.explain_all(PLAIN[1], []) == []
    with pytest.raises(ConfigError, match="documents must hold a passage at least for a plot, got none"):
        encoder.explain_all(PLAIN[1], [], plot=tmp_path / "shares.png")
    with pytest.raises(EmptyTextError, match=r"text 0 \(query\)"):
        encoder.explain_all(" ", [])


def test_a_word_that_stands_there_often_carries_once(encoder: EchoEncoder):
    told = str(encoder.explain(PLAIN[1], "rocks and rocks and rocks")).splitlines()[-1]
    assert told.count("rocks") == told.count("and") == 1


def test_an_explanation_names_the_text_that_is_wrong(encoder: EchoEncoder):
    """Both were text 0, and the way out for a blank one was an option that no explanation has."""
    for texts, name in (((None, "a"), "query"), (("a", ["b"]), "document")):
        with pytest.raises(TypeError, match=f"{name} must be a string, got"):
            encoder.explain(*texts)
    for texts, name in (((" ", "a"), r"text 0 \(query\)"), (("a", ""), r"text 1 \(document\)")):
        with pytest.raises(EmptyTextError, match=f"{name} must not be empty or blank") as caught:
            encoder.explain(*texts)
        assert "zero" not in str(caught.value)


def test_an_instruction_that_no_template_has_a_place_for_is_refused(encoder: EchoEncoder, tiny_llama: Path):
    """It was left out in silence, by explanations alone."""
    with pytest.raises(VariableError, match=r"has no variable \{instruction\}"):
        encoder.explain(PLAIN[0], PLAIN[1], instruction="Find it")
    one = encoder_of(tiny_llama, query_template="finetuned-query")
    assert one.explain(PLAIN[0], PLAIN[1], instruction="Find it").score


def test_further_variables_reach_the_roles_that_have_a_place_for_them(tiny_llama: Path):
    """Templates with a variable of their own had words, but no explanation."""
    encoder = encoder_of(
        tiny_llama, query_template="Find {kind}: {text}. Again: [[{text}]]", document_template="situated"
    )
    given = {"kind": "a recipe", "context": "a book"}
    found = encoder.explain(PLAIN[0], PLAIN[1], variables=given)
    query = encoder.encode_queries([PLAIN[0]], variables={"kind": "a recipe"})[0]
    document = encoder.encode_documents([PLAIN[1]], variables={"context": "a book"})[0]
    assert found.score == pytest.approx(float(query @ document), abs=1e-5)
    assert encoder.explain_all(PLAIN[0], [PLAIN[1]], variables=given)[0].score == pytest.approx(found.score, abs=1e-6)
    with pytest.raises(VariableError, match=r"needs a value for \{kind\}"):
        encoder.explain(PLAIN[0], PLAIN[1], variables={"context": "a book"})
    with pytest.raises(VariableError, match=r"has no variable \{tone\}"):
        encoder.explain(PLAIN[0], PLAIN[1], variables={**given, "tone": "dry"})
    with pytest.raises(TypeError, match="variables must be a dict"):
        encoder.explain(PLAIN[0], PLAIN[1], variables=[])


def test_what_is_asked_wrongly_is_refused(encoder: EchoEncoder):
    with pytest.raises(ConfigError, match="role must be one of 'query', 'document', got 'passage'"):
        encoder.words(PLAIN, role="passage")
    with pytest.raises(ConfigError, match="k must be an integer of at least 1, got 0"):
        encoder.words(PLAIN, k=0)
    with pytest.raises(ConfigError, match="merged must be one of True, False, got 'no'"):  # it was taken for True
        encoder.words(PLAIN, merged="no")
    with pytest.raises(EmptyTextError):
        encoder.explain("Why?", " ")
    with pytest.raises(TypeError, match="one string"):
        encoder.words("a text")


def test_a_checkpoint_without_its_head_has_vectors_but_no_words(tiny_llama: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "headless"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="LM head"):
        encoder_of(folder).words(PLAIN)


def test_variables_and_instructions_reach_the_words(tiny_llama: Path):
    encoder = encoder_of(tiny_llama, query_template="finetuned-query", document_template="situated")
    assert encoder.words([PLAIN[0]], role="query", instruction="Find it")
    assert encoder.words([PLAIN[0]], variables={"context": "a book"})


@pytest.mark.parametrize("options", [{}, {"pooling": "last"}, {"max_tokens": 16}, {"empty": "zero"}], ids=str)
def test_all_layers_from_one_pass_are_the_vectors_of_encoders_that_read_each_one(tiny_llama: Path, options):
    encoder = encoder_of(tiny_llama, **options)
    texts = [*PLAIN, LONG, PLAIN[0], *([""] if options.get("empty") else [])]
    before = encoder.statistics().batches
    states = encoder.encode_layers(texts)
    assert states.shape == (3, len(texts), 32)
    assert encoder.statistics().batches - before <= 2
    for layer in (1, 2, 3):
        alone = encoder_of(tiny_llama, layer=layer, **options).raw().encode_documents(texts)
        assert np.abs(states[layer - 1] - alone).max() <= 1e-4 * max(1.0, np.abs(alone).max())
    assert np.array_equal(encoder.encode_layers(texts, [-1]), states[2:])
    assert encoder.encode_layers([], [1, 2]).shape == (2, 0, 32)


def test_a_layer_or_pooling_that_is_not_there_is_refused(encoder: EchoEncoder):
    with pytest.raises(ConfigError, match="layer must be from 1 to 3"):
        encoder.encode_layers(PLAIN, [4])
    with pytest.raises(ConfigError, match="pooling must be one of 'mean'"):
        encoder.encode_layers(PLAIN, pooling="max")


@pytest.mark.parametrize("layers", [[], "12", 2, [1.0], [True]], ids=str)
def test_what_is_no_list_of_layers_is_refused(encoder: EchoEncoder, layers):
    """They came to torch, and ended in its errors."""
    with pytest.raises(ConfigError, match=r"layers must be a list of at least one integer, as \[1, -1\], got"):
        encoder.encode_layers(PLAIN, layers)


def test_a_passage_that_cannot_be_explained_is_named_by_its_index_before_any_is(encoder: EchoEncoder, monkeypatch):
    """Each was explained as a text 0."""
    monkeypatch.setattr(EchoEncoder, "explain", lambda *args, **options: pytest.fail("the model has run"))
    with pytest.raises(EmptyTextError, match="text 2 "):
        encoder.explain_all("What froze?", ["a", "b", " "])
