"""One GAN trial and one baseline trial, as both GAN stages run them."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from contexts import context_of, inputs_of
from fakes import FakeTrial
from torch import nn

from study.config import LatentGanConfig
from study.data.dataset import Dataset
from study.engine.stage import Context
from study.stages import generators
from study.stages.generators import MIXTURE, REAL, RECONSTRUCTIONS, TEST_RECONSTRUCTIONS, GanInputs, GanTraining
from study.training.classifier import ClassifierSettings
from study.training.gan import GanSettings

WGAN = GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4)


@pytest.fixture
def inputs(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> GanInputs:
    monkeypatch.setattr("study.training.sampling.FEWEST", 50)
    return inputs_of(context_of(tiny, LatentGanConfig()))


def test_a_collapsed_generator_is_measured_to_its_end(inputs: GanInputs, tiny: Dataset) -> None:
    """The others are compared with given settings: a table without them would say nothing."""
    trial = FakeTrial()
    (value,) = generators.gan_trial(trial, inputs, WGAN, epochs=4, evaluate_every=2)
    found = trial.metrics
    wanted = {"val/fd": value, "generator/steps": 4 * (len(tiny.train) // 64), "judge3/class_kl": np.log(10)}
    wanted |= dict.fromkeys(("judge3/modes", "collapse/last", "collapse/epochs"), 1)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert {name for name in found if name[:6] in ("judge1", "judge2")} == {"judge1/fd", "judge2/fd"}, "they select"
    assert (trial.figures.keys(), trial.logged_params["ema_decay"]) == ({"samples"}, 0)
    assert [step for step, _ in trial.images["samples"]] == [0, 2, 4]


def test_the_epoch_that_is_kept_is_measured_again_on_fresh_noise(inputs: GanInputs) -> None:
    """The least of several distances is too good by luck."""
    trial = FakeTrial()
    (value,) = generators.gan_trial(trial, inputs, WGAN, epochs=3, evaluate_every=1)
    seen = trial.history["val/fd"][1]
    assert value not in seen
    assert trial.metrics["val/best_epoch"] == 1 + int(np.argmin(seen))
    ((model, example, config),) = trial.models
    again = GanTraining(FakeTrial(), inputs, WGAN, 3, 1, inputs.encoded)
    again.model.load_state_dict(model.state_dict())
    assert again.val_measures(again.model.generator, generators.CHOICE_SEED)["val/fd"] == value
    again.epochs, again.collapses = 20, {1: "1 of 10 classes", 5: None, 10: "recall 0.003", 15: None, 20: None}
    assert again.collapse_measures() == {"collapse/last": 0, "collapse/epochs": 0.25}, "after the first quarter"
    assert example.shape == (2, config["module"]["input_dim"])


def test_a_conditional_trial_measures_what_was_asked_for_and_the_last_epochs(inputs: GanInputs) -> None:
    trial, settings = FakeTrial(), GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4, ema_decay=0.9)
    generators.gan_trial(trial, inputs, settings, epochs=7, evaluate_every=50, score=ClassifierSettings(1, 64, 1e-2))
    found, epochs = trial.metrics, [3, 4, 5, 6, 7]
    assert trial.history["val/fd"][0] == trial.history["val/fd_online"][0] == epochs
    for metric in ("val/fd", "val/fd_online"):
        values = trial.history[metric][1]
        assert found[f"{metric}_range"] == pytest.approx((max(values) - min(values)) / min(values))
    accuracies = [found[f"label_accuracy/{label}"] for label in range(10)]
    assert np.mean(accuracies) == pytest.approx(found["judge3/label_accuracy"], abs=0.05), "of one draw, and of five"
    assert found["judge3/label_accuracy_worst"] <= found["judge3/label_accuracy"]
    assert 0 <= found["classification_accuracy_score"] <= 1
    assert ("confusion" in trial.figures, trial.models[0][2]["module"]["input_dim"]) == (True, 4 + 10)


def test_what_a_trial_loads_first_draws_none_of_its_random_numbers(tiny: Dataset) -> None:
    """Whichever trial of a process comes first, the same seed gives the same training."""
    version = SimpleNamespace(rebuild=lambda _: nn.Linear(3, 3))  # draws its initial weights
    context = context_of(tiny, LatentGanConfig(), cached_arrays=Context.cached_arrays)
    context.inputs = dict.fromkeys((*generators.KINDS, "autoencoder"), version)
    context.module = partial(Context.module, context)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loaded = GanInputs(context)
    assert (type(loaded.autoencoder), len(loaded.judges.all)) == (nn.Linear, 3)
    assert torch.equal(torch.rand(3), expected)


def measures_of(inputs: GanInputs, score: ClassifierSettings | None = None, **params: Any) -> dict[str, float]:
    trial = FakeTrial(params)
    (value,) = generators.baseline_trial(trial, inputs, score)
    assert value == trial.metrics["val/fd"]
    return trial.metrics


def test_baselines_are_measured_as_samples_are(inputs: GanInputs) -> None:
    real, train, test = (measures_of(inputs, source=each) for each in (REAL, RECONSTRUCTIONS, TEST_RECONSTRUCTIONS))
    assert (real["judge3/fd"] < train["judge3/fd"], "val/loss" in real) == (True, False)
    assert train["val/loss"] == test["val/loss"] > 0
    assert [test["latent/sliced_wasserstein"], test["latent/nearest"]] == pytest.approx([0, 1], abs=1e-6)
    draws = [measures_of(inputs, source=MIXTURE, components=2, repeat=repeat) for repeat in (0, 1, 2, 0)]
    distances = [found["latent/sliced_wasserstein"] for found in draws]
    assert (len({*distances}), distances[0]) == (3, distances[3]), "draws differ, and each is the same again"


def test_a_champion_that_other_judges_measured_is_measured_again(inputs: GanInputs) -> None:
    trial = FakeTrial()
    (value,) = generators.gan_trial(trial, inputs, WGAN, epochs=1, evaluate_every=1)
    ((model, _, config),) = trial.models
    tags = {f"input.{kind}.weights": kind for kind in generators.KINDS}
    version: Any = SimpleNamespace(tags=tags, rebuild=lambda _: model, config=lambda: config)
    assert generators.champion_distance(version, inputs, 0) is None
    tags["input.judge.weights"] = "other"
    assert generators.champion_distance(version, inputs, 0) == pytest.approx(value)


def test_a_weak_judge_is_named(tiny: Dataset) -> None:
    """A judge at chance finds every image alike: its distances are near zero."""
    context = context_of(tiny, LatentGanConfig())
    assert (generators.caution(context), generators.weak_judges(context.inputs)) == ("", [])
    context.inputs["third-judge"].metrics = {"val/accuracy": 0.101}
    assert "10.1%" in generators.caution(context)
    assert [row.figure for row in generators.weak_judges(context.inputs)] == ["note: third-judge"]
