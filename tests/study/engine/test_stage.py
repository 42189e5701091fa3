"""Which stages run on a data set, and on which models, checked before anything is trained."""

from dataclasses import dataclass, replace
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from study.checks import UsageError
from study.data.dataset import Dataset
from study.engine.stage import Context, Outcome, Request, Stage, resolve, run_stages
from tracking import registry

INVALID = [
    *[({"name": "Two Words"}, "lower-case words"), ({"settings": dict}, "frozen dataclass")],
    *[({"presets": {"demo": 3}}, "presets must be"), ({"identity_excludes": ("x",)}, "identity_excludes must be")],
    *[({"optional_inputs": ("x",)}, "optional_inputs must be"), ({"outputs": ("class",)}, "lower-case words")],
]


@dataclass(frozen=True)
class Settings:
    epochs: int = 1


def version(number: int = 1, data: str = "", metrics: Any = None, **module: Any) -> Any:
    """A registered model."""
    metrics = {"val/loss": 1.0} if metrics is None else metrics
    tags = {"data_digest": data} if data else {}
    config = {"module": {"image_shape": [1, 28, 28], "classes": 10} | module}
    uri = f"models:/tiny-ruler/{number}"
    return SimpleNamespace(number=number, uri=uri, tags=tags, metrics=metrics, config=lambda: config)


FITTING = version()
MAKER = Stage("ruler-maker", "?", Settings, None, outputs=("ruler",))  # type: ignore[arg-type]
OPTIONAL = {"inputs": ("ruler",), "optional_inputs": ("ruler",), "needs_classes": False}
DRAWER = replace(MAKER, name="drawer", outputs=("line",), **OPTIONAL)  # type: ignore[arg-type]
KNOWN = [MAKER, DRAWER]


def asked(*stages: Stage, **versions: int) -> Request:
    return Request(stages, {each.name: Settings() for each in KNOWN}, versions)


@pytest.fixture
def champions(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The champions of a registry, by name."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(registry, "champion", lambda name, *_: found.get(name))
    monkeypatch.setattr(registry, "champion_on", lambda name, digest: found.get(name))
    monkeypatch.setattr(registry, "require_version", lambda name, number: version(number))
    return found


def test_what_no_stage_makes_is_the_champion_or_the_asked_version(tiny: Dataset, champions: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"drawer needs tiny-ruler@champion, .* --stages ruler-maker drawer"):
        resolve(asked(DRAWER), tiny, KNOWN)
    assert resolve(asked(MAKER, DRAWER), tiny, KNOWN)[1] == {}
    champions["tiny-ruler"] = FITTING
    assert resolve(asked(DRAWER), tiny, KNOWN)[1] == {"ruler": FITTING}
    assert resolve(asked(DRAWER, ruler=7), tiny, KNOWN)[1]["ruler"].number == 7
    for odd in (asked(MAKER, DRAWER, ruler=7), asked(DRAWER, line=7)):
        with pytest.raises(UsageError, match=r"--inputs (ruler|line)=7"):
            resolve(odd, tiny, KNOWN)


def test_a_model_or_settings_that_do_not_fit_are_refused(tiny: Dataset, champions: dict[str, Any], caplog) -> None:
    for odd, message in (
        (version(image_shape=[3, 28, 28]), r"image_shape == \[1, 28, 28\].* \[3, 28, 28\]"),
        (version(classes=4), "classes == 10.* 4"),
        (version(metrics={}), "lost its run"),
    ):
        champions["tiny-ruler"] = odd
        with pytest.raises(UsageError, match=message):
            resolve(asked(DRAWER), tiny, KNOWN)
    champions["tiny-ruler"] = version(data="0" * 16)
    resolve(asked(DRAWER), tiny, KNOWN)
    assert "0000000000000000" in caplog.text

    def check(settings: Settings, data: Dataset) -> None:
        raise UsageError(f"{settings.epochs} on {data.name}")

    champions.clear()  # the settings come first
    with pytest.raises(UsageError, match="1 on tiny"):
        resolve(asked(replace(DRAWER, check=check)), tiny, KNOWN)


def test_unlabelled_data_have_fewer_stages_and_fewer_inputs(tiny: Dataset, champions: dict[str, Any], caplog) -> None:
    flat = replace(tiny, classes=())
    request, inputs = resolve(asked(MAKER, DRAWER), flat, KNOWN)
    assert ([(each.name, each.inputs) for each in request.stages], inputs) == ([("drawer", ())], {})
    assert "ruler-maker" in caplog.text
    with pytest.raises(UsageError, match=r"no labels, .*: ruler-maker"):
        resolve(asked(MAKER), flat, KNOWN)


def test_a_stage_is_given_its_settings_those_it_reads_and_what_was_made_before_it() -> None:
    seen: list[Context] = []

    def run(context: Context) -> Outcome:
        seen.append(context)
        return Outcome(context.stage.name, dict.fromkeys(context.stage.outputs, "made"), ())  # type: ignore[arg-type]

    maker, drawer = replace(MAKER, run=run), replace(DRAWER, run=run, reads={"ruler-maker": ("epochs",)})
    request = Request((maker, drawer), {"ruler-maker": Settings(3), "drawer": Settings(4)}, {})
    session: Any = SimpleNamespace(deadline=inf)
    outcomes = run_stages(request, session, {"ruler": "champion"})  # type: ignore[dict-item]
    assert [outcome.stage for outcome in outcomes] == ["ruler-maker", "drawer"]
    assert (seen[1].settings, seen[1].others) == (Settings(4), {"ruler-maker": {"epochs": 3}})
    assert seen[1].inputs == {"ruler": "made"}, "the stage's before the champion"


@pytest.mark.parametrize(("fields", "rule"), INVALID)
def test_a_stage_that_is_not_valid_is_refused(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(MAKER, **fields)
