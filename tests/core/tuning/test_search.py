import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from echo_core import ConfigError, EchoConfig, EchoEncoder, Runtime
from echo_core.tuning.sample import read_sample
from echo_core.tuning.search import Trial, _certainly_better, _Tried, tune

SLOW = Runtime(device="cpu", dtype="float32")
WORDS = ["owl", "bread", "harbour", "storm", "tax", "violin", "frost", "letter", "engine", "garden", "river", "clock"]
TEXTS = [
    f"The {one} and the {other} were seen near the old {WORDS[i % 7]}."
    for i, (one, other) in enumerate(zip(WORDS * 2, WORDS[3:] * 3, strict=False))
]
TRIPLES = [(one, other, float(i % 5)) for i, (one, other) in enumerate(pairwise(TEXTS))]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))


@pytest.fixture
def encoder(tiny_llama):
    return EchoEncoder(EchoConfig(str(tiny_llama)), SLOW)


@pytest.mark.parametrize(
    "sample", [TRIPLES, [(text, text[::-1]) for text in TEXTS], TEXTS], ids=["scored", "pairs", "texts"]
)
def test_figures_are_those_that_the_encoder_of_the_config_gives_itself(encoder, sample):
    """Every trial is worked out from shared states.

    Encoding with its config, the plain way, must give the same figure.
    """
    found = tune(encoder, sample, seconds=0)
    whole = read_sample(sample)
    order = np.random.default_rng(0).permutation(len(whole)).tolist()
    half = whole.part(sorted(order[: len(order) // 2]))
    for trial in found.trials[::5]:
        plain = EchoEncoder(trial.config, SLOW)
        merit = half.judge(plain.encode_queries(half.queries), plain.encode_documents(half.documents))
        assert merit(np.arange(len(half))) == pytest.approx(trial.tuning, abs=1e-3)


def test_without_time_only_the_starting_templates_pass_runs_with_every_layer_filter_and_centre(encoder):
    found = tune(encoder, TEXTS, seconds=0)
    assert found.trials[0].changes == {}
    assert {trial.config.layer for trial in found.trials} == {-1, 1, 2, (1, 2, 3)}
    assert {tuple(trial.changes) for trial in found.trials if "layer" not in trial.changes} == {
        (),
        ("centre",),
        ("centre", "query_centre"),
        ("filter",),
        ("filter", "centre"),
        ("filter", "centre", "query_centre"),
    }


def test_one_pass_of_the_model_gives_all_layers(encoder):
    before = encoder.statistics().rows
    tune(encoder, TEXTS, seconds=0)
    queries_and_documents = 2 * len(TEXTS)
    assert encoder.statistics().rows - before == queries_and_documents


def test_with_time_templates_are_tried_too(encoder):
    found = tune(encoder, TEXTS, seconds=600)
    changed = {name for trial in found.trials for name in trial.changes}
    fields = {"layer", "query_template", "document_template", "pooling", "filter", "centre", "query_centre"}
    assert changed == fields
    assert len({trial.config for trial in found.trials}) == len(found.trials)


def test_the_best_is_certainly_better_on_the_tuning_half_or_the_starting_configuration_itself(encoder):
    found = tune(encoder, TRIPLES, seconds=600)
    assert found.chosen.tuning >= found.trials[0].tuning
    assert found.chosen is found.trials[0] or found.chosen.changes


def test_a_starting_layer_before_the_last_is_tried_among_all(tiny_llama):
    found = tune(EchoEncoder(EchoConfig(str(tiny_llama), layer=-2), SLOW), TEXTS, seconds=0)
    assert {trial.config.layer for trial in found.trials} == {-2, 1, 3, (1, 2, 3)}
    assert found.trials[0].config.layer == -2


def test_the_best_configuration_opens_an_encoder(encoder):
    found = tune(encoder, TEXTS, seconds=0)
    assert EchoEncoder(found.best, SLOW).encode_documents(["A text."]).shape == (1, 32)


def test_the_table_names_the_best_trials_and_the_start_with_both_halves(encoder):
    found = tune(encoder, TEXTS, seconds=0)
    lines = found.table(rows=len(found.trials)).splitlines()
    assert len(lines) == 2 + len(found.trials)
    assert "centre=fitted" in found.table(rows=len(found.trials))
    start = f"{found.trials[0].tuning:.2f} | {found.trials[0].held_out:.2f} |"
    assert any(start in line and "nothing" in line for line in found.table(rows=1).splitlines())


def test_two_runs_give_the_same(encoder):
    one, other = (dataclasses.replace(tune(encoder, TEXTS, seconds=0), seconds=0) for _ in range(2))
    assert one == other


def test_a_template_with_a_further_variable_is_kept(tiny_llama):
    config = EchoConfig(
        str(tiny_llama), query_template="finetuned-query", document_template="finetuned-document", instruction="Find it"
    )
    found = tune(EchoEncoder(config, SLOW), TEXTS, seconds=600)
    assert {trial.config.query_template for trial in found.trials} == {config.query_template}


def test_a_filter_that_keeps_too_little_for_the_dimension_is_left_out(tiny_llama):
    found = tune(EchoEncoder(EchoConfig(str(tiny_llama), dimension=12), SLOW), TEXTS, seconds=0)
    assert {trial.config.filter for trial in found.trials} == {None, 2}


def merit_of(values):
    return lambda chosen: float(values[chosen].mean())


def test_a_gain_that_is_luck_does_not_count():
    chance = np.random.default_rng(0)
    before, noise = chance.normal(size=400), chance.normal(size=400)

    def taken(*gains):
        parts = [before, *(before + gain for gain in gains)]
        trials = [_Tried(Trial(EchoConfig(), {}, part.mean(), 0.0), (merit_of(part), merit_of(part))) for part in parts]
        found = _certainly_better(trials, [400, 400])
        return None if found is None else trials.index(found)

    assert taken(noise) is None
    assert taken(noise + 1) == 1
    assert taken(noise + 0.01, noise / 9 + 0.1) == 2  # the first is better by luck alone
    assert taken(noise - 1) is None


def test_both_halves_have_a_say():
    chance = np.random.default_rng(0)
    before, noise = chance.normal(size=100), chance.normal(size=100)
    weak = merit_of(before + noise + 0.15)  # alone it does not show

    def taken(other):
        start = _Tried(Trial(EchoConfig(), {}, 0.0, 0.0), (merit_of(before), merit_of(before)))
        one = _Tried(Trial(EchoConfig(layer=-2), {"layer": -2}, 1.0, 0.0), (weak, merit_of(before + other)))
        return _certainly_better([start, one], [100, 100]) is one

    assert not taken(noise)
    assert taken(noise + 1)
    assert not taken(noise - 1)


@pytest.mark.parametrize(
    "sample",
    [
        TEXTS[:5],
        [*TEXTS, ("a", "b")],
        [1] * 20,
        ["word"] * 20,
        [("a", "b", "c")] * 20,
        [("a", " ")] * 20,
        [("a", "b", 10**400)] * 20,
        [("a", "b", float("nan"))] * 20,
    ],
)
def test_a_sample_that_is_too_small_or_mixed_is_refused(encoder, sample):
    with pytest.raises(ConfigError, match="sample must be 16 or more"):
        tune(encoder, sample, seconds=0)


def test_an_item_that_is_nothing_to_tune_on_is_shown(encoder):
    """Twenty single words were "20 items of 1 kinds"."""
    with pytest.raises(ConfigError, match="got 20 items of 1 kinds; item 3 is none of them: 'lamp'"):
        tune(encoder, [*TEXTS[:3], "lamp", *TEXTS[3:19]])


def test_any_time_may_be_given(encoder):
    sample = [(text, text[::-1]) for text in TEXTS]
    assert len(tune(encoder, sample, seconds=float("inf")).trials) > len(
        tune(encoder, sample, seconds=np.float32(0)).trials
    )


@pytest.mark.parametrize("seconds", [-1, "60", None, float("nan")])
def test_seconds_that_are_no_time_are_refused(encoder, seconds):
    with pytest.raises(ConfigError, match="seconds must be a number of at least 0, got"):
        tune(encoder, TEXTS, seconds=seconds)


def test_a_centre_is_the_mean_direction_of_unit_vectors_taken_out(encoder):
    fitted = encoder.fit_centre(TEXTS)
    raw = encoder.raw().encode_documents(TEXTS).astype(float)
    mean = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).mean(axis=0)
    mean /= np.linalg.norm(mean)
    wanted = raw - (raw @ mean)[:, None] * mean
    np.testing.assert_allclose(
        fitted.encode_documents(TEXTS), wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5
    )


def test_a_fitted_encoder_shares_weights_and_its_config_gives_the_same_vectors(encoder, tmp_path):
    fitted = encoder.fit_centre(TEXTS)
    assert fitted._engine.runner is encoder._engine.runner
    assert encoder.config.centre is None
    fitted.save(tmp_path / "saved")
    loaded = EchoEncoder.load(tmp_path / "saved", SLOW)
    np.testing.assert_array_equal(loaded.encode_documents(TEXTS), fitted.encode_documents(TEXTS))
    assert loaded.fingerprint == fitted.fingerprint != encoder.fingerprint


def test_a_space_holds_the_hash_of_a_centre_not_its_numbers(encoder):
    fitted = encoder.fit_centre(TEXTS)
    assert len(fitted.space["centre"]) == 16
    moved = dataclasses.replace(fitted.config, centre=(*fitted.config.centre[:-1], 0.5))
    assert EchoEncoder(moved, SLOW).fingerprint != fitted.fingerprint


def test_filter_and_centre_go_together(encoder):
    both = encoder.fit_centre(TEXTS).config
    vectors = EchoEncoder(dataclasses.replace(both, filter=2, dimension=16), SLOW).encode_documents(TEXTS)
    full = EchoEncoder(dataclasses.replace(both, filter=2), SLOW).encode_documents(TEXTS)
    np.testing.assert_allclose(vectors @ vectors.T, full @ full.T, atol=1e-5)


@pytest.mark.parametrize("centre", [(), (1.0, float("nan")), "abc", (1, None)])
def test_a_centre_that_is_no_direction_is_refused(centre):
    with pytest.raises(ConfigError, match="centre must be"):
        EchoConfig(centre=centre)


def test_a_centre_of_another_model_is_refused(tiny_llama):
    with pytest.raises(ConfigError, match="centre must have 32 numbers"):
        EchoEncoder(EchoConfig(str(tiny_llama), centre=(1.0, 0.0)), SLOW)


def test_a_centre_of_one_text_is_refused(encoder):
    with pytest.raises(ConfigError, match="two texts or more"):
        encoder.fit_centre(["one"])
