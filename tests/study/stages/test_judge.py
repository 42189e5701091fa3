"""The judges' objective and rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import FakeTrial

from study.config import JudgeConfig
from study.data.dataset import Dataset
from study.stages.judge import KINDS, rows, train


@pytest.mark.parametrize("kind", ["conv", "residual"])
def test_a_judge_is_trained_measured_and_logged(kind: str, tiny: Dataset) -> None:
    torch.manual_seed(0)
    trial = FakeTrial({"kind": kind})
    context = SimpleNamespace(dataset=tiny, settings=JudgeConfig(epochs=2), device=torch.device("cpu"))
    (value,) = train(trial, context)  # type: ignore[arg-type]
    ((judge, _, config),) = trial.models
    judge.eval()
    with torch.no_grad():
        guesses, features = judge(tiny.val.images / 255).argmax(1), judge.features(tiny.val.images / 255)
    assert value == trial.metrics["val/accuracy"] == pytest.approx(float((guesses == tiny.val.labels).float().mean()))
    pcc = np.abs(np.corrcoef(features.double().numpy().T)) - np.eye(64)
    assert trial.metrics["latent/max_abs_pcc"] == pytest.approx(pcc.max(), abs=1e-4)
    assert type(judge)(**config["module"]).load_state_dict(judge.state_dict())
    assert trial.history["train/loss"][0] == [1, 2]
    assert ("mistakes" in trial.figures) == ("mistakes" in trial.images) == (value < 1)


def test_a_weak_judge_is_noted() -> None:
    metrics = [{"test/accuracy": 0.9, "val/accuracy": accuracy} for accuracy in (0.99, 0.5, 0.99)]
    found = rows({kind: SimpleNamespace(metrics=each) for kind, each in zip(KINDS, metrics, strict=True)})  # type: ignore[misc]
    assert [row.figure.split(" (")[0] for row in found] == [
        *("test accuracy, judge 1", "test accuracy, judge 2", "test accuracy, judge 3", "note: second-judge"),
    ]
    assert {row.ours for row in found if row.metric} == {"90.00%"}
