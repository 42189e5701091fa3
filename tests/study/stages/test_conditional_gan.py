"""The conditional GAN's study: its rows and claims, and a whole study with fake trials."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from gans import context_of, fake_study, measured

from study.config import ConditionalGanConfig
from study.data.dataset import Dataset
from study.results import Row, Table
from study.stages import conditional_gan
from study.stages.conditional_gan import CONDITIONAL_GAN
from study.stages.generators import MIXTURE, REAL, RECONSTRUCTIONS
from study.training.gan import GanSettings

GAN = GanSettings(64, 1e-3, 0.1, 1, width=8, noise_dim=4, ema_decay=0.9)


def context(data: Dataset, **settings: int) -> Any:
    found = context_of(data, ConditionalGanConfig(**settings), others={"judge": {"epochs": 1}})
    found.inputs["latent-gan"] = SimpleNamespace(
        config=lambda: {"settings": asdict(GAN)}, metrics={"judge3/fd": 0.4, "generator/steps": 1000.0}
    )
    return found


def table(accuracy: float, **ours: float) -> Table:
    figures = {"judge3__fd": 0.3, "judge3__diversity": 0.9, "judge3__label_accuracy": 0.98, "val__fd": 1.0}
    gan = {**figures, "generator__steps": 2000.0, "val__fd_range": 0.05, "judge3__label_accuracy": accuracy, **ours}
    baselines = [{"source": REAL}, {"source": RECONSTRUCTIONS}] + [{"source": MIXTURE, "repeat": n} for n in range(5)]

    def jittered(values: dict[str, float], number: int) -> dict[str, float]:
        return {name: value + 0.001 * number for name, value in values.items()}

    return Table(
        [measured("", {"repeat": number}, **jittered(gan, number)) for number in range(5)]
        + [measured("baselines", each, **jittered(figures, each.get("repeat", 0))) for each in baselines]
    )


def rows_of(there: Any, accuracy: float, **ours: float) -> list[Row]:
    return conditional_gan.rows(there, conditional_gan.groups_of(table(accuracy, **ours)))


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.99, "supported"), (0.97, "refuted"), (0.98, "inconclusive")])
def test_four_claims_are_decided_by_the_third_judge(tiny: Dataset, accuracy: float, verdict: str) -> None:
    rows = rows_of(context(tiny), accuracy, judge3__diversity=0.7)
    claims = {row.metric: row.claim for row in rows if row.claim}
    assert {metric: claim.verdict for metric, claim in claims.items()} == {
        "judge3/label_accuracy": verdict,
        "judge3/fd": "inconclusive",
        "judge3/diversity": "refuted",
        "val/fd_range": "supported",
    }
    assert claims["judge3/label_accuracy"].counts == (5, 5)
    assert claims["judge3/diversity"].shown == f"goal {0.95 * 0.9:.3f}"
    first = next(row for row in rows if row.found)
    assert all(name in (first.baseline or "") for name in (REAL, RECONSTRUCTIONS, "Gaussians a class"))
    with_labels = rows[-1]
    assert "2,000 steps" in with_labels.figure
    assert with_labels.baseline == "without labels, 1,000 steps 0.400"


def test_a_latent_gan_whose_run_is_gone_is_not_compared_with(tiny: Dataset) -> None:
    there = context(tiny)
    there.inputs["latent-gan"].metrics = {}
    assert len(rows_of(there, 0.9)) == len(rows_of(context(tiny), 0.9)) - 1


def test_a_whole_study_repeats_the_gan_and_the_mixtures_as_often(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = context(tiny, epochs=1)
    there.repeats = range(2)
    study = fake_study(there, monkeypatch)
    rows: Any = CONDITIONAL_GAN.run(there)
    gans = [result for result in study.results if result.part == ""]
    assert [result.params for result in gans] == [{"repeat": 0}, {"repeat": 1}]
    assert gans[0].values != gans[1].values
    assert study.candidates["conditional-gan"].result == min(gans, key=lambda result: result.values[0])
    mixtures = [each for each in study.results if each.params.get("source") == MIXTURE]
    assert [each.params["repeat"] for each in mixtures] == [0, 1]
    assert mixtures[0].values != mixtures[1].values
    assert study.parent.tables["generators"]["repeats"] == ["2", "2", "1", "1"]
    assert study.parent.figures.keys() == {"loss_curves", "label_accuracy"}
    assert all(0 <= study.trials[each.run_id].metrics["classification_accuracy_score"] <= 1 for each in study.results)
    assert any(row.found for row in rows)
