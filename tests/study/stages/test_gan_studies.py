"""Both GANs' studies: lists of trials, random recipes, rows and claims, and whole studies with fake trials."""

from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contexts import context_of, fake_study, inputs_of, measured
from fakes import FakeTrial
from torch import nn

from study.config import ConditionalGanConfig, LatentGanConfig
from study.data.dataset import Dataset
from study.engine.search import Pruned
from study.results import Claim, Result, Row, Table
from study.stages import conditional_gan
from study.stages.conditional_gan import CONDITIONAL_GAN
from study.stages.generators import MEASURES, MIXTURE, REAL, RECONSTRUCTIONS
from study.stages.latent_gan import LATENT_GAN, search
from study.stages.latent_gan import trial as stage
from study.stages.latent_gan.search import SPACE, epochs_for, settings_of
from study.stages.latent_gan.trial import KINDS
from study.training import gan
from study.training.gan import GanSettings
from study.training.loops import Diverged, Report

PARAMS = {"batch_size": 64, "learning_rate": 1e-4, "clip_value": 0.1, "n_critic": 1, "width": 32}
PARAMS |= {"depth": 2, "noise_dim": 4, "ema_decay": 0.0}


def test_every_parameter_of_the_search_is_a_setting_and_the_reference_takes_as_many_steps() -> None:
    assert PARAMS.keys() == SPACE.keys()
    assert asdict(settings_of({**PARAMS, "repeat": 2})).items() >= PARAMS.items()
    for steps in (100, 2_730):
        taken = gan.generator_steps(settings_of(PARAMS), 50_000, epochs_for(steps, PARAMS, 50_000))
        assert abs(taken - steps) <= 50_000 / 64, "to the next epoch"


def test_a_trial_of_a_search_is_measured_at_its_rungs_and_stopped_if_it_collapses(tiny: Dataset) -> None:
    trial, inputs = FakeTrial(PARAMS), inputs_of(context_of(tiny, LatentGanConfig()))
    with pytest.raises(Pruned, match="1 of 10 classes at epoch 2"):  # the fake judges see one class only
        search.train(trial, inputs, epochs=6)
    assert (trial.history["search/fd"][0], trial.history["val/modes"][0], trial.models) == ([2], [2], [])
    assert [step for step, _ in trial.images["samples"]] == [0, 2]
    last: Any = FakeTrial(PARAMS, history={"search/fd": ([1], [0.5])})
    last.report = lambda *_: (_ for _ in ()).throw(Pruned)
    assert search.train(last, inputs, epochs=1) == (0.5,), "at its last epoch there is nothing to save"


def test_mixtures_are_drawn_as_often_as_gans_are_trained_with_at_most_a_component_a_latent(tiny: Dataset) -> None:
    trials = stage.baseline_list(context_of(tiny, LatentGanConfig(mixture_components=(1, 5, 1000)), repeats=range(2)))
    mixtures = [params for params in trials if params["source"] == MIXTURE]
    assert [(each["components"], each["repeat"]) for each in mixtures] == [(1, 0), (5, 0), (1, 1), (5, 1)]
    assert sum("repeat" not in params for params in trials) == 3
    for count in (0, 1001):
        with pytest.raises(ValueError, match=f"mixture_components.* {count}"):
            LatentGanConfig(mixture_components=(50, count))


def test_each_recipe_is_tried_as_both_kinds_and_stays_the_same_among_more() -> None:
    few, many = stage.recipe_list(2, 7), stage.recipe_list(30, 7)
    assert many[:4] == few
    for vanilla, wgan in zip(many[::2], many[1::2], strict=True):
        assert {**vanilla, "kind": "WGAN"} == wgan
        first, second = map(stage.recipe_settings, (vanilla, wgan))
        assert (first.clip_value, second.clip_value, second.saturating) == (None, 0.1, False)
    for name in ("latents", "loss", "critic_norm", "n_critic", "depth"):
        assert len({params[name] for params in many}) > 1, name


def test_constant_and_diverged_generators_count_as_collapsed(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant output has no correlation, and a diverged training no samples: both are the plainest collapse."""
    constant = iter((True, False))

    def broken_training(generator: nn.Module, *args: object, epochs: int, report: Report, **_: object) -> None:
        if not next(constant):
            raise Diverged("critic/loss is nan after epoch 1")
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.zero_()
        for epoch in range(1, epochs + 1):
            report(epoch, {"critic/loss": 0.0})

    monkeypatch.setattr("study.stages.generators.train_gan", broken_training)
    inputs = inputs_of(context_of(tiny, LatentGanConfig(epochs=2, evaluate_every=1)))
    trials = [FakeTrial(params) for params in stage.recipe_list(1, 0)]
    assert [stage.train_recipe(trial, inputs) for trial in trials] == [(1.0,), (1.0,)]
    first, second = trials
    assert ("latent/max_abs_pcc" in first.metrics, first.metrics["val/recall"] < 0.1) == (False, True)
    assert (second.tags, bool(first.figures), second.figures) == ({"collapse": "diverged"}, True, {})


def recipes_of(collapsed: dict[str, list[float]]) -> Table:
    recipes = stage.recipe_list(len(collapsed[KINDS[0]]), 0)
    return Table(measured("recipes", each, collapse__last=collapsed[each["kind"]][each["recipe"]]) for each in recipes)


def test_the_table_of_choices_counts_every_recipe_once_a_choice() -> None:
    recipes = recipes_of({KINDS[0]: [1.0] * 8, KINDS[1]: [0.0] * 8})
    table = stage.collapse_table(recipes)
    assert [table[f"{kind}, collapsed"][0] for kind in KINDS] == ["8 of 8 (68% to 100%)", "0 of 8 (0% to 32%)"]
    for name in ("latents", "loss", "critic norm", "learning rate", "n critic", "depth"):
        rows = [place for place, choice in enumerate(table["choice"]) if choice.startswith(name)]
        assert sum(int(table["WGAN, collapsed"][place].split()[2]) for place in rows) == 8, name
    assert stage.fraction([]) == "0 of 0"


FIGURES = {
    **{name.replace("/", "__"): 0.5 for name in MEASURES if name.startswith("judge")},
    **{name.replace("/", "__"): 1.0 for name in MEASURES if name.startswith("latent")},
}


def study_table(repeats: int, wgan: float, mixture: float) -> Table:
    """A finished study in which the third judge's distances of the best WGAN and the best mixture are these."""
    steps = {"generator__steps": 100.0, "collapse__last": 0.0}
    trained: list[tuple] = [("best", {}, wgan), (stage.EQUAL_STEPS, {}, wgan)]
    trained += [("settings", {"settings": name}, 3.0) for name in ("reference", "paper")]
    mixtures = [("baselines", {"source": MIXTURE, "components": count}, fd) for count, fd in ((1, 9.0), (50, mixture))]
    repeated = [(*each, steps) for each in trained] + [(*each, {}) for each in mixtures]
    trials = [
        measured(part, {**params, "repeat": n}, **FIGURES | more | {"judge3__fd": fd + 0.001 * n, "val__fd": fd})
        for n in range(repeats)
        for part, params, fd, more in repeated
    ]
    real = [measured("baselines", {"source": each}, **FIGURES, val__fd=0.1) for each in (REAL, RECONSTRUCTIONS)]
    return Table([*trials, *real])


def rows_of(data: Dataset, table: Table, recipes: Sequence[Result] = (), repeats: int = 1) -> list[Row]:
    context = context_of(data, LatentGanConfig(), repeats=range(repeats))
    best = [Result(0, "best", "", dict(each.params), each.values, each.run_id) for each in table.where(part="best")]
    return stage.rows(context, stage.groups_of(table, best), Table(recipes))


@pytest.mark.parametrize(
    ("wgan", "mixture", "verdict"), [(0.2, 0.4, "supported"), (0.4, 0.2, "refuted"), (0.3, 0.3, "equivalent")]
)
def test_judge_3_decides_against_the_best_mixture(tiny: Dataset, wgan: float, mixture: float, verdict: str) -> None:
    recipes = recipes_of({KINDS[0]: [1.0] * 8, KINDS[1]: [0.0, 1.0] * 4})
    rows = rows_of(tiny, study_table(5, wgan, mixture), recipes)
    first, *_ = (row.claim for row in rows if row.claim)
    assert (first.verdict, first.primary, first.counts) == ("supported", True, (5, 5)), "against the reference"
    claims = {row.metric or row.figure: row.claim for row in rows if row.claim and row.claim is not first}
    assert len(claims) == 4
    nearer: Claim = claims["judge3/fd"]
    assert (nearer.verdict, nearer.counts, nearer.shown.split()[0]) == (verdict, (5, 5), "GMM-50")
    fd = next(row for row in rows if row.found)
    assert [part in str(fd.baseline) for part in ("GMM-50", REAL, RECONSTRUCTIONS, "GMM-1 ")] == [True] * 3 + [False]
    assert claims["latent/nearest"].shown == "goal 0.950"
    assert claims["collapsed: vanilla GANs of random recipes"].verdict == "supported"


def test_without_a_mixture_no_claim_is_against_one_and_gans_that_diverged_count_as_collapsed(tiny: Dataset) -> None:
    rows = rows_of(tiny, Table(each for each in study_table(3, 0.2, 0.4) if each.params.get("source") != MIXTURE))
    assert [row.metric for row in rows if row.claim] == ["judge3/fd", "latent/nearest"], "the reference, and copies"
    rows = rows_of(tiny, study_table(1, 0.2, 0.4), repeats=3)
    row = next(row for row in rows if row.figure.startswith("collapsed"))
    assert (row.ours[:6], str(row.baseline)[:12]) == ("1 of 1", "WGANs 2 of 3")


def test_a_whole_study_trains_the_best_anew_and_shows_all(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"free_trials": 1, "search_epochs": 1, "recipes": 1, "mixture_components": (2,)}
    settings = LatentGanConfig(**given, final_epochs=2, epochs=1, evaluate_every=1)
    context = context_of(tiny, settings, repeats=range(2))
    # A proposal that collapses would be pruned: the fake judges see one class only.
    monkeypatch.setattr(search, "HOPELESS_FRACTION", 0.0)
    study = fake_study(context, monkeypatch, proposals=[PARAMS])

    def model_of(run: str) -> Any:
        module, _, config = study.trials[run].models[0]
        return SimpleNamespace(rebuild=lambda _: module, config=lambda: config)

    monkeypatch.setattr(stage, "logged_model", model_of)
    monkeypatch.setattr(stage, "CANDIDATES", 100)
    rows: Any = LATENT_GAN.run(context)
    parts = {part: [each for each in study.results if each.part == part] for part in {r.part for r in study.results}}
    counts = {"settings": 4, "search": 1, "best": 2, "equal steps": 2, "baselines": 5, "recipes": 2}
    assert {part: len(found) for part, found in parts.items()} == counts
    assert [each.params for each in parts["best"]] == [{**PARAMS, "repeat": repeat} for repeat in (1, 2)]
    assert study.candidates["latent-gan"].result.values[0] == min(each.values[0] for each in parts["best"])
    assert study.trials["best 0"].logged_params["epochs"] == 2
    generators = study.parent.tables["generators"]
    gans = [stage.BEST, stage.EQUAL, stage.REFERENCE, stage.PAPER, stage.VANILLA]
    assert generators["generator"] == [*gans, REAL, RECONSTRUCTIONS, "reconstructions of test images", "GMM-2"]
    assert (generators["repeats"], len(generators["judge3/fd"])) == (["2"] * 3 + ["1"] * 5 + ["2"], 9)
    assert study.parent.figures.keys() == {"generators", "loss_curves", "search", "importances", "interpolation"}
    assert [len(column) for column in study.parent.tables["interpolation"].values()] == [3] * 4
    assert not any(row.claim for row in rows), "two repeats decide nothing"


FOUND = GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4, ema_decay=0.9)


def conditional_context(data: Dataset, **settings: int) -> Any:
    found = context_of(data, ConditionalGanConfig(**settings), others={"judge": {"epochs": 1}})
    metrics = {"judge3/fd": 0.4, "generator/steps": 1000.0}
    found.inputs["latent-gan"] = SimpleNamespace(config=lambda: {"settings": asdict(FOUND)}, metrics=metrics)
    return found


def conditional_rows(there: Any, accuracy: float) -> list[Row]:
    """The rows of five trainings with this label accuracy, five mixtures, and both bounds."""
    figures = {"judge3__fd": 0.3, "judge3__diversity": 0.9, "judge3__label_accuracy": 0.98, "val__fd": 1.0}
    gan = {**figures, "generator__steps": 2000.0, "val__fd_range": 0.05, "judge3__diversity": 0.7}

    def repeated(part: str, params: dict[str, Any], values: dict[str, float]) -> list[Result]:
        jittered = [{name: value + 0.001 * number for name, value in values.items()} for number in range(5)]
        return [measured(part, {**params, "repeat": number}, **each) for number, each in enumerate(jittered)]

    trials = repeated("", {}, {**gan, "judge3__label_accuracy": accuracy})
    trials += repeated("baselines", {"source": MIXTURE}, figures)
    trials += [measured("baselines", {"source": source}, **figures) for source in (REAL, RECONSTRUCTIONS)]
    return conditional_gan.rows(there, conditional_gan.groups_of(Table(trials)))


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.99, "supported"), (0.95, "refuted"), (0.98, "equivalent")])
def test_four_claims_are_decided_by_the_third_judge(tiny: Dataset, accuracy: float, verdict: str) -> None:
    there = conditional_context(tiny)
    rows = conditional_rows(there, accuracy)
    claims = {row.metric: row.claim for row in rows if row.claim}
    wanted = {"judge3/fd": "equivalent", "judge3/diversity": "refuted", "val/fd_range": "supported"}
    wanted["judge3/label_accuracy"] = verdict
    assert {metric: claim.verdict for metric, claim in claims.items()} == wanted
    shown = f"goal {0.95 * 0.9:.3f}"
    assert (claims["judge3/label_accuracy"].counts, claims["judge3/diversity"].shown) == ((5, 5), shown)
    first = next(row for row in rows if row.found)
    assert all(name in (first.baseline or "") for name in (REAL, RECONSTRUCTIONS, "Gaussians a class"))
    assert ("2,000 steps" in rows[-1].figure, rows[-1].baseline) == (True, "without labels, 1,000 steps 0.400")
    there.inputs["latent-gan"].metrics = {}
    assert conditional_rows(there, accuracy) == rows[:-1], "its run is gone: it is not compared with"


def test_a_whole_study_repeats_gan_and_mixtures_as_often(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    there = conditional_context(tiny, epochs=1)
    there.repeats = range(2)
    study = fake_study(there, monkeypatch)
    rows: Any = CONDITIONAL_GAN.run(there)
    gans = [result for result in study.results if result.part == ""]
    mixtures = [each for each in study.results if each.params.get("source") == MIXTURE]
    for repeats in (gans, mixtures):
        assert [each.params["repeat"] for each in repeats] == [0, 1]
        assert repeats[0].values != repeats[1].values
    assert study.candidates["conditional-gan"].result == min(gans, key=lambda result: result.values[0])
    assert study.parent.tables["generators"]["repeats"] == ["2", "2", "1", "1"]
    assert study.parent.figures.keys() == {"loss_curves", "label_accuracy"}
    assert all(0 <= study.trials[each.run_id].metrics["classification_accuracy_score"] <= 1 for each in study.results)
    assert any(row.found for row in rows)
