"""The GAN stages: collapse, what a search is made of, what conditional trials log."""

from __future__ import annotations

from functools import partial
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import LatentGenerator, ToneCurve
from study.config import LatentGanConfig
from study.data.dataset import Dataset
from study.engine.search import Params, Result, Search, Trial, choice
from study.engine.stage import Context, Session
from study.engine.study import open_study
from study.measures.judges import PARTS, Judges
from study.stages.gan.baselines import baseline_search, kernel_search, redraw_search, run_baseline_trial
from study.stages.gan.cells import Cells, distance_sentence
from study.stages.gan.collapse import (
    KINDS,
    Share,
    collapse_table,
    collapsed,
    collapsed_alone,
    paired_verdict,
    recipe_search,
    recipe_settings,
    run_recipe_trial,
    share_verdict,
)
from study.stages.gan.inputs import GanInputs
from study.stages.gan.settings import BEST, BY_NAME, SPACE, START, ablations, params_of, settings_of
from study.stages.gan.stage import LATENT_GAN
from study.stages.gan.trial import class_metric, run_gan_trial
from study.stages.gan.watch import Watch, shown_inputs
from study.training.gan import PAPER, REFERENCE, GanSettings
from study.training.loops import Diverged, Report
from tracking.runs import trial_metrics
from tracking.store import Store, read_store

CPU = torch.device("cpu")
DIGITS = (1, 28, 28)


class Brightness(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None].expand(-1, 4) * 10


class NearestTenth(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return -60 * (features[:, :1] - torch.arange(10.0)).square()


def brightness_judge() -> Judge:
    """Takes a uniform image of brightness k / 10 for a k."""
    judge = Judge("conv", image_shape=DIGITS, classes=10, width=2)
    judge.features, judge.head = Brightness(), NearestTenth()  # type: ignore[assignment]
    return judge.eval()


def inputs_of(context: Context) -> GanInputs:
    """An untrained decoder makes all images alike, so that the judge sees a single class whatever is generated."""
    torch.manual_seed(0)
    inputs = GanInputs(context)
    judges = Judges([brightness_judge() for _ in PARTS], context.dataset)
    autoencoder = Autoencoder(3, "conv", DIGITS).eval()
    inputs.__dict__.update(autoencoder=autoencoder, architecture="conv", judges=judges, tone=ToneCurve())
    return inputs


def context_of(store: Store, data: Dataset, config: LatentGanConfig) -> Context:
    session = Session(data, store, CPU, 0, "smoke", "python -m study.run")
    return Context(LATENT_GAN, session, config, others={}, inputs={})


class Free(Search):
    """Trials that may be pruned, as those that Optuna picks, of parameters that are given."""

    @property
    def slots(self) -> dict[str, Params]:
        return {"free 0": {"clip_value": 0.1}, "free 1": {"clip_value": None}}


def test_a_collapsed_wgan_is_given_up_a_collapsed_vanilla_gan_measured_and_the_study_goes_on(
    store: Store, tiny: Dataset
) -> None:
    context = context_of(store, tiny, LatentGanConfig())
    inputs = inputs_of(context)

    def objective(trial: Trial) -> tuple[float]:
        settings = GanSettings(64, 1e-3, trial.params["clip_value"], 1, width=8, noise_dim=4)
        return run_gan_trial(trial, settings, inputs=inputs, epochs=4, evaluate_every=2)

    with open_study(context, "A test.") as study:
        (vanilla,) = study.search(Free({"val/fd": "minimize"}, {"clip_value": choice(0.1, None)}), objective)
        measured = trial_metrics(study.parent)[vanilla.run_id]
    assert vanilla.params == {"clip_value": None}
    assert measured["sample/modes"] == measured["second/modes"] == measured["third/modes"] == 1
    assert measured["collapse/last"] == measured["collapse/epochs"] == 1
    assert measured["generator/steps"] == 4 * (len(tiny.train) // 64)
    assert measured["sample/class_kl"] == pytest.approx(np.log(10))
    assert 0 <= measured["sample/diversity"] < 1
    assert all(np.isfinite(value) for value in measured.values())
    runs = mlflow.MlflowClient().search_runs([store.experiment("tiny/latent-gan")], "tags.`optuna.state` = 'PRUNED'")
    assert [run.data.tags["reason"] for run in runs] == ["collapsed to 1 of 10 classes at epoch 2"]


def test_a_fixed_trial_is_not_given_up(store: Store, tiny: Dataset) -> None:
    """The others are compared with it: a table without the reference's settings would say nothing."""
    context = context_of(store, tiny, LatentGanConfig())
    inputs = inputs_of(context)

    def objective(trial: Trial) -> tuple[float]:
        settings = GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4)
        return run_gan_trial(trial, settings, inputs=inputs, epochs=2, evaluate_every=1)

    with open_study(context, "A test.") as study:
        search = Search({"val/fd": "minimize"}, {"clip_value": choice(0.1)}, {"reference": {"clip_value": 0.1}})
        (reference,) = study.search(search, objective)
    assert reference.slot == "reference"


def test_named_settings_are_those_of_their_trials() -> None:
    assert settings_of("paper", params_of(PAPER)) == PAPER
    assert settings_of("reference", params_of(REFERENCE)) == REFERENCE
    assert settings_of("free 3", params_of(START)) == START
    for settings in BY_NAME.values():
        assert set(params_of(settings)) == set(SPACE)


def test_ablations_take_one_thing_away_each() -> None:
    for settings in ablations(START).values():
        assert settings != START
        assert settings.learning_rate == START.learning_rate


@pytest.mark.parametrize(("classes", "shape"), [(0, (100, 7)), (3, (30, 10)), (26, (200, 33))])
def test_the_sample_sheet_has_a_row_a_class_with_the_same_noises(classes: int, shape: tuple[int, int]) -> None:
    shown = shown_inputs(7, classes, CPU)
    assert tuple(shown.shape) == shape
    if classes:
        rows = shown.reshape(-1, 10, shape[1])
        assert torch.equal(rows[:, :, :7], rows[:1, :, :7].expand(len(rows), -1, -1))
        assert torch.equal(rows[:, :, 7:].argmax(2), torch.arange(len(rows))[:, None].expand(-1, 10))


def test_classes_whose_names_mlflow_does_not_take_go_by_their_number() -> None:
    names = ["green disc", "Größe L", "a/b", "7"]
    found = [class_metric(names, label) for label in range(4)]
    assert found == [
        "label_accuracy/green disc",
        "label_accuracy/class 1",
        "label_accuracy/class 2",
        "label_accuracy/7",
    ]


def test_every_class_has_its_label_accuracy(smoke_store: Path) -> None:
    read_store(smoke_store)
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("digits-conditional-gan", "champion")
    metrics = client.get_run(version.run_id).data.metrics
    accuracies = [metrics[f"label_accuracy/{digit}"] for digit in range(10)]
    assert metrics["sample/label_accuracy_worst"] == pytest.approx(min(accuracies))
    assert np.mean(accuracies) == pytest.approx(metrics["sample/label_accuracy"], abs=0.01)


def test_the_epoch_that_is_kept_is_measured_again_on_fresh_noise(store: Store, tiny: Dataset) -> None:
    """The least of several distances is too good by luck."""
    context = context_of(store, tiny, LatentGanConfig())
    inputs = inputs_of(context)
    seen: dict[str, tuple[list[int], list[float]]] = {}

    def objective(trial: Trial) -> tuple[float]:
        settings = GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4)
        found = run_gan_trial(trial, settings, inputs=inputs, epochs=3, evaluate_every=1)
        seen.update(trial.history)
        return found

    with open_study(context, "A test.") as study:
        search = Search({"val/fd": "minimize"}, {"clip_value": choice(0.1)}, {"reference": {"clip_value": 0.1}})
        (result,) = study.search(search, objective)
        measured = trial_metrics(study.parent)[result.run_id]
    assert result.values[0] == measured["val/fd"]
    assert result.values[0] not in seen["val/fd"][1]
    assert measured["val/best_epoch"] == 1 + int(np.argmin(seen["val/fd"][1]))


def recipe_trials(store: Store, data: Dataset, recipes: int) -> tuple[list, dict]:
    context = context_of(store, data, LatentGanConfig())
    inputs = inputs_of(context)
    with open_study(context, "A test.") as study:
        objective = partial(run_recipe_trial, inputs=inputs, epochs=2, evaluate_every=1)
        return study.search(recipe_search(recipes, 0), objective, "recipes"), trial_metrics(study.parent)


def test_a_constant_generator_and_one_that_breaks_down_count_as_collapsed(
    store: Store, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constant output has no correlation, and a broken training no samples: both are the plainest collapse."""
    constant = iter((True, False))

    def broken_training(generator: nn.Module, *args: object, epochs: int, report: Report) -> None:
        if not next(constant):
            raise Diverged("critic/loss is nan after epoch 1")
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.zero_()
        for epoch in range(1, epochs + 1):
            report(epoch, {"critic/loss": 0.0})

    monkeypatch.setattr("study.stages.gan.collapse.train_gan", broken_training)
    results, measured = recipe_trials(store, tiny, 1)
    assert [result.values for result in results] == [(1.0,), (1.0,)]
    first = measured[results[0].run_id]
    assert "latent/max_abs_pcc" not in first
    assert first["val/recall"] < 0.1
    assert Share(2, 2) == Share(sum(run["collapse/last"] > 0 for run in measured.values()), len(results))


def test_each_recipe_is_tried_as_both_kinds_and_stays_the_same_among_more() -> None:
    few, many = recipe_search(2, 7).fixed, recipe_search(30, 7).fixed
    assert len(many) == 60
    assert {name: many[name] for name in few} == few
    for number in range(30):
        vanilla, wgan = (many[f"recipe {number}, {kind}"] for kind in KINDS)
        assert {**vanilla, "kind": "WGAN"} == wgan
        assert recipe_settings(vanilla).clip_value is None
        assert recipe_settings(wgan).clip_value == 0.1
        assert not recipe_settings(wgan).saturating
    for name in ("latents", "loss", "critic_norm", "n_critic", "depth"):
        assert len({params[name] for params in many.values()}) > 1, name


def test_a_share_has_wilsons_interval() -> None:
    """Wilson 1927: (p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    for k, n in ((0, 5), (3, 5), (17, 30), (30, 30)):
        z, p = 1.959964, k / n
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        expected = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
        assert Share(k, n).interval == pytest.approx(expected, abs=1e-6)
    assert Share(0, 0).interval == (0, 1)


@pytest.mark.parametrize(
    ("ours", "against", "expected"),
    [
        (Share(28, 30), 0.5, "held"),
        (Share(2, 30), 0.5, "did not hold"),
        (Share(2, 3), 0.5, "undecided"),
        (Share(20, 30), Share(2, 30), "held"),
        (Share(2, 30), Share(20, 30), "did not hold"),
        (Share(10, 30), Share(8, 30), "undecided"),
    ],
)
def test_a_share_is_decided_where_the_intervals_are_apart(ours: Share, against: Share | float, expected: str) -> None:
    assert share_verdict(ours, against) == expected


@pytest.mark.parametrize(("alone", "others"), [(0, 0), (1, 5), (0, 5), (0, 6), (6, 0), (9, 2), (10, 1), (5, 5)])
def test_recipes_are_compared_in_pairs(alone: int, others: int) -> None:
    """McNemar's exact p-value, by hand: twice the smaller tail of a fair coin, 1 at most."""
    kinds = [(True, False)] * alone + [(False, True)] * others + [(True, True), (False, False)] * 4
    results, measured = [], {}
    for recipe, pair in enumerate(kinds):
        for kind, ended in zip(KINDS, pair, strict=True):
            run = f"{recipe} {kind}"
            results.append(Result(recipe, run, {"recipe": recipe, "kind": kind}, (0.0,), run))
            measured[run] = {"collapse/last": float(ended)}
    unpaired = Result(99, "alone", {"recipe": 99, "kind": KINDS[0]}, (0.0,), "alone")  # its WGAN ended in an error
    assert collapsed_alone([*results, unpaired], {**measured, "alone": {"collapse/last": 1.0}}) == (alone, others)
    count = alone + others
    tail = sum(comb(count, k) for k in range(min(alone, others) + 1)) / 2**count
    expected = "undecided" if min(1, 2 * tail) >= 0.05 else "held" if alone > others else "did not hold"
    assert paired_verdict(alone, others) == expected


def test_trainings_that_broke_down_count_as_collapsed() -> None:
    results = [Result(number, f"repeat {number}", {}, (0.0,), str(number)) for number in range(2)]
    measured = {"0": {"collapse/last": 1.0}, "1": {"collapse/last": 0.0}}
    assert collapsed(measured, results) == Share(1, 2)
    assert collapsed(measured, results, 3) == Share(2, 3)
    assert collapsed(measured, [], 1) == Share(1, 1)


def test_what_is_sampled_is_drawn_again_and_what_is_not_is_not(store: Store, tiny: Dataset) -> None:
    first = baseline_search((1, 2), len(tiny.train))
    again = redraw_search(first, range(1, 3))
    assert {name.rpartition(", draw ")[0] for name in again.fixed} == {
        "Gaussian (whitened latents)",
        "Gaussian mixture, 2",
        "SMOTE, 10 neighbours",
    }
    assert len(again.fixed) == 6
    context = context_of(store, tiny, LatentGanConfig())
    with open_study(context, "A test.") as study:
        measure = partial(run_baseline_trial, inputs=inputs_of(context), seed_for=context.seed_for)
        one = {name: params for name, params in again.fixed.items() if name.startswith("SMOTE")}
        results = study.search(Search(again.objectives, again.space, one), measure, "again")
        once = study.search(
            Search(first.objectives, first.space, {"SMOTE": {"source": "smote", "components": 0}}), measure
        )
        measured = trial_metrics(study.parent)
    found = {measured[result.run_id]["latent/sliced_wasserstein"] for result in (*results, *once)}
    assert len(found) == 3


def test_a_kernel_density_of_another_bandwidth_is_another_trial() -> None:
    def slots(bandwidth: float) -> set[str]:
        context = SimpleNamespace(kept_arrays=lambda *_: {"bandwidth": np.array(bandwidth)})
        inputs: Any = SimpleNamespace(context=context, encoded=None)
        return set(kernel_search(inputs, 1.0, 0).fixed)

    assert slots(0.25) == slots(0.25)
    assert slots(0.25).isdisjoint(slots(0.5))


def test_the_table_of_choices_counts_every_recipe_once_a_choice(store: Store, tiny: Dataset) -> None:
    results, measured = recipe_trials(store, tiny, 3)
    table = collapse_table(results, measured)
    assert table["vanilla GAN, collapsed"][0].startswith("3 of 3")  # the untrained decoder's images are all alike
    for name in ("latents", "loss", "critic norm", "learning rate", "n critic", "depth"):
        rows = [place for place, choice in enumerate(table["choice"]) if choice.startswith(name)]
        counted = [int(table["WGAN, collapsed"][place].split()[2]) for place in rows]
        assert sum(counted) == 3, name


def test_collapse_is_looked_for_after_the_first_quarter(store: Store, tiny: Dataset) -> None:
    inputs = inputs_of(context_of(store, tiny, LatentGanConfig()))
    model = LatentGenerator(4, 3, architecture="conv", image_shape=DIGITS, width=8)
    watch = Watch(inputs, model, GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4), 0, epochs=20)
    watch.collapses = {1: "1 of 10 classes", 5: None, 10: "recall 0.003", 15: None, 20: None}
    assert watch.collapse_measures() == {"collapse/last": 0, "collapse/epochs": 0.25}


@pytest.mark.parametrize(("accuracy", "cautious"), [(0.99, False), (0.101, True)])
def test_what_was_found_says_if_its_judge_is_weak(accuracy: float, cautious: bool) -> None:
    """A judge at chance finds every image alike: its distances are near zero."""
    context: Any = SimpleNamespace(inputs={"third-judge": SimpleNamespace(metrics={"val/accuracy": accuracy})})
    cells = Cells({BEST: [Result(0, "", {}, (1.0,), "run")]}, {"run": {"third/fd": 0.01}})
    said = distance_sentence(context, cells, [])
    assert said is not None
    assert "distance of 0.01" in said
    assert ("judge 3 reads only 10.1% of real images right" in said) == cautious
