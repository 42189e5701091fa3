"""Which stages run on a data set, and on which models, checked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from study.checks import UsageError
from study.data.dataset import Dataset
from study.engine.pipeline import Request, resolve, run_stages
from study.engine.stage import Context, Outcome, Stage
from tracking import registry


@dataclass(frozen=True)
class Settings:
    epochs: int = 1


@dataclass
class FakeVersion:
    """A registered model."""

    number: int
    module: Mapping[str, Any]
    data: str = ""
    metrics: Mapping[str, float] | None = None

    @property
    def uri(self) -> str:
        return f"models:/tiny-ruler/{self.number}"

    @property
    def tags(self) -> dict[str, str]:
        return {"data_digest": self.data} if self.data else {}

    def config(self) -> dict[str, Any]:
        return {"module": dict(self.module)}


FITTING = FakeVersion(1, {"image_shape": [1, 28, 28], "classes": 10}, metrics={"val/loss": 1.0})


def stage(name: str, run: Any = None, **what: Any) -> Stage:
    return Stage(name, "?", Settings, run, **what)


MAKER = stage("ruler-maker", outputs=("ruler",))
DRAWER = stage("drawer", inputs=("ruler",), optional_inputs=("ruler",), outputs=("line",), needs_classes=False)
KNOWN = [MAKER, DRAWER]


def asked(*stages: Stage, **versions: int) -> Request:
    return Request(stages, {each.name: Settings() for each in KNOWN}, versions)


@pytest.fixture
def champions(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeVersion]:
    """The champions of a registry, by name."""
    found: dict[str, FakeVersion] = {}
    monkeypatch.setattr(registry, "champion", lambda name, *_: found.get(name))
    monkeypatch.setattr(registry, "champion_on", lambda name, digest: found.get(name))
    monkeypatch.setattr(registry, "require_version", lambda name, number: replace(FITTING, number=number))
    return found


def test_what_no_stage_makes_is_the_champion_or_the_version_that_was_asked_for(
    tiny: Dataset, champions: dict[str, FakeVersion]
) -> None:
    with pytest.raises(UsageError, match=r"drawer needs tiny-ruler@champion, .* --stages ruler-maker drawer"):
        resolve(asked(DRAWER), tiny, KNOWN)
    assert resolve(asked(MAKER, DRAWER), tiny, KNOWN)[1] == {}
    champions["tiny-ruler"] = FITTING
    assert resolve(asked(DRAWER), tiny, KNOWN)[1] == {"ruler": FITTING}
    assert resolve(asked(DRAWER, ruler=7), tiny, KNOWN)[1]["ruler"].number == 7
    for odd in (asked(MAKER, DRAWER, ruler=7), asked(DRAWER, line=7)):
        with pytest.raises(UsageError, match=r"--inputs (ruler|line)=7"):
            resolve(odd, tiny, KNOWN)


def test_a_model_that_does_not_fit_is_refused(
    tiny: Dataset, champions: dict[str, FakeVersion], caplog: pytest.LogCaptureFixture
) -> None:
    for odd, message in (
        (replace(FITTING, module={"image_shape": [3, 28, 28]}), r"image_shape == \[1, 28, 28\].* \[3, 28, 28\]"),
        (replace(FITTING, module={"classes": 4}), "classes == 10.* 4"),
        (replace(FITTING, metrics={}), "lost its run"),
    ):
        champions["tiny-ruler"] = odd
        with pytest.raises(UsageError, match=message):
            resolve(asked(DRAWER), tiny, KNOWN)
    champions["tiny-ruler"] = replace(FITTING, data="0" * 16)
    resolve(asked(DRAWER), tiny, KNOWN)
    assert "0000000000000000" in caplog.text


def test_unlabelled_data_have_fewer_stages_and_fewer_inputs(
    tiny: Dataset, champions: dict[str, FakeVersion], caplog: pytest.LogCaptureFixture
) -> None:
    flat = replace(tiny, classes=())
    request, inputs = resolve(asked(MAKER, DRAWER), flat, KNOWN)
    assert [(each.name, each.inputs) for each in request.stages] == [("drawer", ())]
    assert inputs == {}
    assert "ruler-maker" in caplog.text
    with pytest.raises(UsageError, match=r"no labels, .*: ruler-maker"):
        resolve(asked(MAKER), flat, KNOWN)


def test_settings_that_do_not_fit_the_data_are_refused_before_models_are_looked_for(tiny: Dataset) -> None:
    def check(settings: Settings, data: Dataset) -> None:
        raise UsageError(f"{settings.epochs} on {data.name}")

    with pytest.raises(UsageError, match="1 on tiny"):
        resolve(asked(replace(DRAWER, check=check)), tiny, KNOWN)


def test_a_stage_is_given_its_settings_those_it_reads_and_what_was_made_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Context] = []

    def run(context: Context) -> Outcome:
        seen.append(context)
        return Outcome(context.stage.name, {"ruler": "made"} if context.stage.outputs == ("ruler",) else {}, ())  # type: ignore[dict-item]

    maker, drawer = replace(MAKER, run=run), replace(DRAWER, run=run, reads={"ruler-maker": ("epochs",)})
    request = Request((maker, drawer), {"ruler-maker": Settings(3), "drawer": Settings(4)}, {})
    with caplog.at_level(logging.INFO, "study"):
        outcomes = run_stages(request, "session", {"ruler": "champion"})  # type: ignore[arg-type, dict-item]
    assert [outcome.stage for outcome in outcomes] == ["ruler-maker", "drawer"]
    assert seen[1].settings == Settings(4)
    assert seen[1].others == {"ruler-maker": {"epochs": 3}}
    assert seen[1].inputs == {"ruler": "made"}, "the stage's before the champion"
