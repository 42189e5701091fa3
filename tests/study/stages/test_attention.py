"""The attention stage: its objectives without a store, and the rules of its rows."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contexts import context_of
from fakes import FakeRun, FakeTrial

from models.attention import LearnedAttention, grid
from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.config import AttentionConfig
from study.data import to_float
from study.data.dataset import Dataset
from study.results import Result, Row, Table
from study.stages.attention import trial as stage
from study.stages.attention.trial import DRAWS, copy_encoder, first_convolution, identities, learn_convolution, rows

MODULE = {"latent_dim": 3, "architecture": "conv", "image_shape": [1, 28, 28]}


@pytest.fixture
def context(tiny: Dataset) -> Any:
    """Random models in place of registered ones."""
    torch.manual_seed(0)
    modules = {"autoencoder": Autoencoder(**MODULE), "judge": Judge("conv", image_shape=(1, 28, 28), classes=10)}
    version = SimpleNamespace(config=lambda: {"module": MODULE}, uri="models:/tiny-autoencoder/1")
    inputs, settings = {"autoencoder": version, "judge": None}, AttentionConfig(epochs=2, images=128)
    return context_of(tiny, settings, inputs=inputs, module=lambda kind, _: modules[kind].eval())


def copied(context: Any) -> FakeTrial:
    trial = FakeTrial({"alpha": 46.0})
    assert copy_encoder(trial, context=context) == (trial.metrics["val/loss"],)
    return trial


def learned(context: Any, heads: str, repeat: int = 0) -> FakeTrial:
    trial = FakeTrial({"heads": heads, "repeat": repeat})
    torch.manual_seed(repeat)
    conv = first_convolution(context.module("autoencoder", Autoencoder))
    assert learn_convolution(trial, context=context, conv=conv) == (trial.metrics["val/error"],)
    return trial


def test_the_copy_is_the_autoencoder(context: Any) -> None:
    trial = copied(context)
    ((copy, example, config),) = trial.models
    original, images = context.module("autoencoder", Autoencoder), to_float(context.dataset.test.images)
    with torch.no_grad():
        wanted = original(images)
        torch.testing.assert_close(copy(images), wanted, atol=1e-5, rtol=0)
    assert (config["copy_of"], example.shape) == ("models:/tiny-autoencoder/1", (2, 1, 28, 28))
    assert trial.metrics["test/loss"] == pytest.approx(float((wanted - images).square().mean()), rel=1e-4)
    assert trial.metrics["test/decisions_float64"] == 0
    assert trial.metrics["test/difference_float64"] < 1e-10
    del context.inputs["judge"]
    assert not any("decisions" in name for name in copied(context).metrics)


def test_learned_heads_move_and_fixed_heads_do_not(context: Any) -> None:
    layers = {}
    for heads in ("learned", "fixed"):
        trial = learned(context, heads)
        ((layer, example, config),) = trial.models
        rebuilt = LearnedAttention(**config["module"])
        rebuilt.load_state_dict(layer.state_dict())
        torch.testing.assert_close(rebuilt(example), layer(example))
        assert list(trial.history["train/loss"][0]) == [1, 2]
        assert {"val/error", "test/error", "noise/error", "head/centre_distance"} <= trial.metrics.keys()
        layers[heads] = layer
    torch.manual_seed(0)
    begun = LearnedAttention(**config["module"])
    assert torch.equal(layers["fixed"].centres, begun.centres)
    assert not torch.equal(layers["learned"].centres, begun.centres)


def test_all_identities_are_exact_and_the_figures_are_logged(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = {"exact": copied(context), "a": learned(context, "learned"), "b": learned(context, "fixed")}
    parts = {"exact": "exact", "a": "learned", "b": "learned"}
    table = Table(Result(0, parts[run], run, each.params, (0.0,), run, each.metrics) for run, each in trials.items())
    stored: Any = {run: SimpleNamespace(rebuild=lambda _, run=run: trials[run].models[0][0]) for run in trials}
    for name, value in {"kept_model": stored.get, "DRAWS": 2, "ALPHAS": (1, 46)}.items():
        monkeypatch.setattr(stage, name, value)
    parent: Any = FakeRun()
    conv = first_convolution(context.module("autoencoder", Autoencoder))
    found = stage.log_outcome(parent, context, conv, table)
    assert (found[0].ours, len(parent.tables["exact"]["identity"])) == ("12 of 12 exact", 12)
    assert parent.figures.keys() == {"sharpness", "heads"}
    stored.pop("a")  # its model was deleted: the figure of an earlier call stays
    parent.figures.clear()
    stage.log_outcome(parent, context, conv, table)
    assert parent.figures.keys() == {"sharpness"}


def test_maps_are_of_the_query_in_the_middle() -> None:
    pixels = grid(range(6), range(8))
    weights = torch.zeros(2, 48, 48)
    weights[0, 3 * 8 + 4, 5] = 0.5
    weights[1, 3 * 8 + 4, :8] = 0.125
    maps = stage.head_maps(weights, pixels, (6, 8))
    assert (maps.shape, [*zip(*maps[0].nonzero(), strict=True)]) == ((2, 6, 8), [(0, 5)])
    assert maps[1, 0].tolist() == [255] * 8


COPY = {"test/difference_float32": 2e-6, "test/difference_float64": 1e-15}
COPY |= dict.fromkeys(("test/loss_change_float32", "test/loss_change_float64"), 1e-9)
COPY |= dict.fromkeys(("test/decisions_float32", "test/decisions_float64"), 0.0)
COPY |= dict.fromkeys(("test/loss", "test/loss_of_original"), 0.005)
EXACT = dict.fromkeys(("inside", "ring"), 1e-7) | dict.fromkeys(("by_pixel", "by_rank", "to_image", "constant"), 1e-14)
DRAWN = [{**EXACT, "border": 1.9 + draw / 10, "shared": 0.001 + draw / 1e5} for draw in range(DRAWS)]


@pytest.mark.parametrize(
    ("name", "value", "exact"),
    [
        ("test/difference_float32", 1e-5, 12),
        ("test/difference_float64", 1e-5, 11),
        ("test/decisions_float32", 1.0, 11),
        ("test/loss_change_float64", float("nan"), 11),
    ],
)
def test_one_error_above_its_goal_is_named(name: str, value: float, exact: int) -> None:
    checks = identities({**COPY, name: value}, DRAWN)
    assert sum(check.exact for check in checks) == exact
    first = rows(checks, COPY, Table([]), DRAWN, {"12 -> 3": 0.01})[0]
    assert (first.ours, bool(first.baseline)) == (f"{exact} of 12 exact", exact < 12)
    (wrong,) = [check for check in identities(COPY, [*DRAWN, {**DRAWN[0], "ring": 0.1}]) if not check.exact]
    assert (wrong.error, wrong.goal) == (0.1, 1e-5), "they must hold for every draw"


def decided(learned: float, fixed: float, **changes: float) -> list[str]:
    """The verdicts of the claims, of three trainings near these errors."""
    trials = [
        Result(0, "learned", "", {"heads": heads, "repeat": repeat}, (), "", {"test/error": value})
        for heads, error in (("learned", learned), ("fixed", fixed))
        for repeat, value in enumerate((error, 1.01 * error, 0.99 * error))
    ]
    draws = [{**drawn, **changes} for drawn in DRAWN]
    found: list[Row] = rows(identities(COPY, draws), COPY, Table(trials), draws, {})
    return [row.claim.verdict for row in found if row.claim]


def test_claims_are_decided_by_the_numbers() -> None:
    assert decided(0.02, 0.2) == ["supported"] * 3
    assert decided(0.2, 0.02)[2] == "refuted"
    assert decided(0.2, 0.2, shared=0.1)[1:] == ["refuted", "inconclusive"]
    assert decided(0.02, 0.2, border=1e-7)[0] == "inconclusive"
