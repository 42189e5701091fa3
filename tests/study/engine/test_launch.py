"""Inputs that a stage takes only where the images have classes; what a stage and its rows must be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from study.checks import UsageError
from study.data.dataset import Dataset
from study.engine.launch import Request, leave_out_unlabelled, resolve_inputs
from study.engine.stage import Row, Stage
from tracking.store import Store


@dataclass(frozen=True)
class Settings:
    epochs: int = 1


def stage(name: str, **what: object) -> Stage:
    return Stage(name, "?", Settings, lambda _: "", lambda _: None, **what)  # type: ignore[arg-type]


RULER = stage("ruler-maker", outputs=("ruler",))
DRAWN = stage("drawer", inputs=("ruler",), inputs_with_classes=("ruler",), outputs=("line",), needs_classes=False)


def test_without_classes_a_stage_does_without_these_inputs(store: Store, tiny: Dataset) -> None:
    flat = replace(tiny, classes=())
    assert leave_out_unlabelled([RULER, DRAWN], tiny) == (RULER, DRAWN)
    (alone,) = leave_out_unlabelled([RULER, DRAWN], flat)
    assert (alone.name, alone.inputs) == ("drawer", ())
    assert resolve_inputs(Request((alone,), {}, {}), flat, [RULER, DRAWN]) == {}
    follower = stage("follower", inputs=("line",), needs_classes=False)
    with pytest.raises(UsageError, match=r"run with --stages drawer follower$"):
        resolve_inputs(Request((follower,), {}, {}), flat, [RULER, DRAWN, follower])


def test_with_classes_it_needs_them_and_says_so(store: Store, tiny: Dataset) -> None:
    with pytest.raises(
        UsageError, match=r"stage drawer needs tiny-ruler@champion, .*: run with --stages ruler-maker drawer"
    ):
        resolve_inputs(Request((DRAWN,), {}, {}), tiny, [RULER, DRAWN])
    assert resolve_inputs(Request((RULER, DRAWN), {}, {}), tiny, [RULER, DRAWN]) == {}


def test_they_must_be_inputs() -> None:
    with pytest.raises(ValueError, match="`inputs_with_classes` must be among the inputs of stage drawer"):
        stage("drawer", inputs_with_classes=("ruler",))


@dataclass
class Thawed:
    epochs: int = 1


@dataclass(frozen=True)
class Demanding:
    epochs: int


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"config": Thawed}, "the config of stage odd must be a frozen dataclass"),
        ({"config": Demanding}, r"must have defaults, but these have none: \['epochs'\]"),
        ({"presets": {"smoke": {"epochs": 1}}}, r"must be of its config's type, but these are not: \['smoke'\]"),
        ({"outputs": "line"}, "inputs and outputs of stage odd must be tuples of lower-case words with hyphens"),
        ({"outputs": ("a b",)}, "inputs and outputs of stage odd must be tuples"),
        ({"inputs": ("class",)}, "inputs and outputs of stage odd must be tuples"),
    ],
)
def test_a_stage_that_cannot_work_is_refused_as_it_is_made(what: dict[str, Any], message: str) -> None:
    config = what.pop("config", Settings)
    with pytest.raises(ValueError, match=message):
        Stage("odd", "?", config, lambda _: "", lambda _: None, **what)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("cells", [("acc", 0.93), (None, "1"), ("acc", "1", 5), ("acc", "1", None, 0.5)])
def test_a_cell_that_is_no_text_is_refused(cells: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="the cells of a row must be text"):
        Row(*cells)
