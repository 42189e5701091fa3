"""The GAN stages: collapse, what a search is made of, what conditional trials log."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.data.dataset import Dataset
from study.harness.search import Params, Search, Trial, choice
from study.harness.stage import Context, Session
from study.harness.study import open_study
from study.science.gans import PAPER, REFERENCE, GanSettings
from study.science.judges import TwoJudges
from study.stages.gan.config import LatentGanConfig
from study.stages.gan.settings import BY_NAME, SPACE, START, ablations, params_of, settings_of
from study.stages.gan.stage import LATENT_GAN
from study.stages.gan.trial import GanInputs, class_metric, run_gan_trial, shown_inputs
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
    judges = TwoJudges(brightness_judge(), brightness_judge(), context.dataset)
    autoencoder = Autoencoder(3, "conv", DIGITS).eval()
    inputs.__dict__.update(autoencoder=autoencoder, architecture="conv", judges=judges)
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
    config = LatentGanConfig(epochs=4, evaluate_every=2)
    context = context_of(store, tiny, config)
    inputs = inputs_of(context)

    def objective(trial: Trial) -> tuple[float]:
        settings = GanSettings(64, 1e-3, trial.params["clip_value"], 1, width=8, noise_dim=4)
        return run_gan_trial(trial, settings, inputs=inputs, config=config)

    with open_study(context, "A test.") as study:
        (vanilla,) = study.search(Free({"val/fd": "minimize"}, {"clip_value": choice(0.1, None)}), objective)
        measured = trial_metrics(study.parent)[vanilla.run_id]
    assert vanilla.params == {"clip_value": None}
    assert measured["sample/modes"] == measured["second/modes"] == 1
    assert measured["sample/class_kl"] == pytest.approx(np.log(10))
    assert 0 <= measured["sample/diversity"] < 1
    assert all(np.isfinite(value) for value in measured.values())
    runs = mlflow.MlflowClient().search_runs([store.experiment("tiny/latent-gan")], "tags.`optuna.state` = 'PRUNED'")
    assert [run.data.tags["reason"] for run in runs] == ["collapsed to 1 of 10 classes at epoch 2"]


def test_a_fixed_trial_is_not_given_up(store: Store, tiny: Dataset) -> None:
    """The others are compared with it: a table without the reference's settings would say nothing."""
    config = LatentGanConfig(epochs=2, evaluate_every=1)
    context = context_of(store, tiny, config)
    inputs = inputs_of(context)

    def objective(trial: Trial) -> tuple[float]:
        return run_gan_trial(trial, GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4), inputs=inputs, config=config)

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
    assert min(accuracies) == metrics["sample/label_accuracy_worst"]
    assert np.mean(accuracies) == pytest.approx(metrics["sample/label_accuracy"], abs=0.01)
