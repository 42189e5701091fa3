"""The translation stage: its objectives without a store, the rules of its claims, and images translated by name."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from fakes import FakeTrial
from PIL import Image
from searches import listed, run
from studies import Studies

from models.classifier import Judge
from models.translation import Translator
from study import sample
from study.config import TranslationConfig
from study.data import to_float
from study.data.dataset import Dataset
from study.engine.trial import Trial
from study.results import Measured, Table
from study.stages.translation import outcome
from study.stages.translation.objectives import (
    SHOWN,
    HeldOut,
    measure_source,
    shown_places,
    steps_to,
    train_and_measure,
)
from study.stages.translation.outcome import claims, log_figures, measures_table, rows
from study.training.domains import LOOSE, PAIRED, PAIRINGS, UNPAIRED
from study.training.translation import CONDITIONAL_GAN, CYCLE_GAN, GAN, L1, METHODS
from tracking import registry
from tracking.store import open_store, read_store

CELLS = [(method, pairing) for method in METHODS for pairing in PAIRINGS]


@pytest.fixture
def context(tiny: Dataset) -> Any:
    """Random judges in place of registered ones."""
    torch.manual_seed(0)
    judges = {kind: Judge(kind, image_shape=(1, 28, 28), classes=10).eval() for kind in ("conv", "mlp")}
    version = SimpleNamespace(metrics={"val/accuracy": 0.5})
    return SimpleNamespace(
        dataset=tiny,
        device=torch.device("cpu"),
        settings=TranslationConfig(epochs=2, images=64),
        inputs=dict.fromkeys(judges, version),
        module=lambda kind, _: judges[kind],
        seed_for=lambda number: 100 + number,
        has_reference=True,
    )


def trained(context: Any, method: str, pairing: str, held_out: HeldOut, repeat: int = 0) -> FakeTrial:
    trial = FakeTrial({"method": method, "pairing": pairing, "repeat": repeat})
    torch.manual_seed(repeat)
    value = train_and_measure(trial, context=context, held_out=held_out)  # type: ignore[arg-type]
    assert value == (trial.history["val/mae"][1][-1],)
    return trial


def test_every_cell_of_the_matrix_is_trained_measured_and_drawn(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = HeldOut.of(context, ("conv", "mlp"))
    trials = {f"{method}, {pairing}": trained(context, method, pairing, held_out) for method, pairing in CELLS}
    for trial in trials.values():
        found = trial.metrics
        assert {"val/mae", "test/mae", "test/shortfall"} <= found.keys()
        assert {"judge1/kept", "judge2/permuted", "judge1/recall", "generator/loss", "train/seconds"} <= found.keys()
        assert ("discriminator/loss" in found) == (trial.params["method"] != L1)
        assert ("generator/cycle" in found) == (trial.params["method"] == CYCLE_GAN)
        assert all(map(math.isfinite, found.values()))
        assert trial.history["generator/steps"] == ([0, 1, 2], [0.0, 2.0, 4.0])
        assert {"loss"} <= trial.figures.keys() <= {"loss", "samples"}
    ((translator, example, config),) = trials[f"{L1}, {PAIRED}"].models
    assert config["translation"].items() >= {"task": "outline", "pairing": PAIRED, "method": L1, "weight": 1}.items()
    rebuilt = Translator(**config["module"])
    rebuilt.load_state_dict(translator.state_dict())
    torch.testing.assert_close(rebuilt(example), translator(example))

    for source in ("untranslated", "true translation"):
        trials[source] = FakeTrial({"source": source})
        measure_source(trials[source], held_out=held_out)  # type: ignore[arg-type]
    assert trials["true translation"].metrics["test/mae"] == 0
    assert trials["untranslated"].metrics["test/mae"] == held_out.truth.floor
    table = Table([Measured(0, "", run, each.params, (0.0,), run, each.metrics) for run, each in trials.items()])
    columns = measures_table(table)
    assert len(columns["model"]) == 2 + 12
    assert all(len(column) == 14 for column in columns.values())
    assert columns["test/mae"][1] == "0"

    models = {run: trial.models[0][0] for run, trial in trials.items() if trial.models}
    stored: Any = {run: SimpleNamespace(rebuild=lambda _, model=model: model) for run, model in models.items()}
    monkeypatch.setattr(outcome, "kept_model", stored.get)
    monkeypatch.setattr(outcome, "metric_history", lambda run, metric: trials[run].history[metric])
    figures: dict[str, Any] = {}
    parent: Any = SimpleNamespace(log_figure=lambda name, figure, _: figures.update({name: figure}))
    log_figures(parent, context, held_out, table)
    assert figures.keys() == {"matrix", "error_against_steps"}
    stored.pop(f"{GAN}, {UNPAIRED}")  # its model was deleted: the figure of an earlier call stays
    figures.clear()
    log_figures(parent, context, held_out, table)
    assert figures.keys() == {"error_against_steps"}
    found = rows(context, table, f"{L1}, {PAIRED}")
    assert len(found) == 2 + 5 + 2 * 4 + 2 + 1
    assert found[-1].found
    assert L1 in found[-1].found


def test_only_shown_and_paired_translators_are_kept_and_only_paired_ones_drawn(context: Any) -> None:
    held_out = HeldOut.of(context, ("conv",))
    kept = [trained(context, L1, pairing, held_out, repeat) for pairing in (PAIRED, LOOSE) for repeat in (0, 1)]
    assert [len(trial.models) for trial in kept] == [1, 1, 1, 0]
    assert ["samples" in trial.figures for trial in kept] == [True, True, False, False]


def test_pictures_show_every_class_first() -> None:
    labels = torch.tensor([1, 1, 1, 0, 2, 1, 2, 0, 0, 0, 1, 2])
    assert shown_places(labels, 3).tolist() == [3, 0, 4, 1, 2, 5, 6, 7, 8, 9]
    assert len(shown_places(torch.arange(30), 30)) == SHOWN


def test_steps_to_a_goal_lie_between_two_measurements() -> None:
    steps, errors = [0.0, 100.0, 200.0, 300.0], [0.4, 0.3, 0.1, 0.2]
    assert steps_to(0.2, steps, errors) == pytest.approx(150)
    assert steps_to(0.5, steps, errors) == 0
    assert steps_to(0.05, steps, errors) == math.inf


def verdicts(changes: Mapping[tuple[str, str], float] = {}, missing: tuple[str, str] | None = None) -> list[str]:
    """The verdicts of the five claims, if all is as the reference says but for the shortfalls of these cells."""
    good = [(CYCLE_GAN, pairing) for pairing in PAIRINGS]
    good += [(method, pairing) for method in (CONDITIONAL_GAN, L1) for pairing in (PAIRED, LOOSE)]
    shortfalls = {cell: 0.2 if cell in good else 6.0 for cell in CELLS} | dict(changes)
    table = Table(
        [
            Measured(0, "", "", {"method": m, "pairing": p, "repeat": n}, (), "", {"test/shortfall": value + n / 100})
            for (m, p), value in shortfalls.items()
            for n in range(3)
            if (m, p) != missing or n
        ]
    )
    found = claims(table)
    assert len(found) == 5
    assert all(row.reference and row.claim and row.claim.shown for row in found)
    return [row.claim.verdict for row in found if row.claim]


def test_all_claims_are_supported_if_all_is_as_the_reference_says() -> None:
    assert verdicts() == ["supported"] * 5


NONE, WORKS, BEST, GOOD, UNFIT = range(5)


@pytest.mark.parametrize(
    ("cell", "shortfall", "refuted"),
    [
        ((GAN, UNPAIRED), 0.1, {NONE, BEST}),
        ((GAN, PAIRED), 0.5, {NONE}),
        ((L1, UNPAIRED), 0.1, {BEST}),
        ((CYCLE_GAN, LOOSE), 2.0, {WORKS}),
        ((CYCLE_GAN, UNPAIRED), 7.0, {BEST}),
        ((CONDITIONAL_GAN, LOOSE), 3.0, {GOOD}),
        ((CONDITIONAL_GAN, UNPAIRED), 0.3, {UNFIT}),
    ],
)
def test_each_claim_can_be_refuted(cell: tuple[str, str], shortfall: float, refuted: set[int]) -> None:
    found = verdicts({cell: shortfall})
    assert {place for place, verdict in enumerate(found) if verdict == "refuted"} == refuted


def test_seeds_of_which_a_cell_failed_are_left_out() -> None:
    found = verdicts(missing=(CYCLE_GAN, LOOSE))
    assert set(found) == {"supported"}
    assert outcome.shortfalls(Table([]), [GAN], PAIRINGS, min) == []
    assert [row.ours for row in claims(Table([]))] == ["failed"] * 5


@pytest.fixture(scope="module")
def translators(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an untrained translator, registered by name."""
    folder = tmp_path_factory.mktemp("translators") / "store"
    shutil.copytree(empty_store, folder)
    store = open_store(folder)
    module = {"image_shape": [1, 28, 28]}

    def objective(trial: Trial) -> tuple[float]:
        trial.log({"loss": 0.1})
        trial.log_model(Translator(**module), torch.zeros(2, 1, 28, 28), {"module": module, "translation": {}})
        return (0.1,)

    (result,) = run(store, listed(objective, [{"repeat": 0}]))
    registry.promote(registry.register("abcd-translator", result.run_id, "", {}), "loss", "minimize")
    return folder


def translate(store: Path, out: Path, *arguments: object) -> int:
    try:
        return sample.main([str(part) for part in ("--data", "abcd", "--store", store, "--out", out, *arguments)])
    except SystemExit as ended:  # tyro's, after a mistake in the flags
        return int(ended.code or 0)


def test_images_are_translated_by_name(translators: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "given.npz", images=images)
    Image.fromarray(images[0]).save(tmp_path / "given.png")
    assert translate(translators, tmp_path / "out.npz", "--images", tmp_path / "given.npz") == 0
    read_store(translators)
    expected = mlflow.pyfunc.load_model("models:/abcd-translator@champion").predict(
        to_float(torch.from_numpy(images[:, None])).numpy()
    )
    arrays = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(arrays["images"], (expected[:, 0] * 255).round(), atol=1)
    np.testing.assert_array_equal(arrays["inputs"], images[:, None])
    named = ("--model", "abcd-translator", "--version", 1, "--images", tmp_path / "given.png")
    assert translate(translators, tmp_path / "out", *named) == 0
    (file,) = (tmp_path / "out").iterdir()
    np.testing.assert_allclose(np.asarray(Image.open(file)).astype(int), arrays["images"][0].astype(int), atol=1)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--images", "small.png"], "28x28"),
        (["--images", "floats.npz"], "uint8"),
        (["--images", "missing.png"], "missing.png"),
        (["--model", "abcd-translator"], "--images"),
    ],
)
def test_images_that_cannot_be_translated(
    translators: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    rule: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save("small.png")
    np.savez("floats.npz", images=np.zeros((2, 28, 28)))
    assert translate(translators, tmp_path / "out.png", *arguments) == 2
    errors = capsys.readouterr().err
    assert rule in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out.png").exists()


@pytest.mark.slow
def test_a_tiny_study_registers_the_best_translator(studies: Studies, letters: Path) -> None:
    given = ("smoke", "--data", letters, "--stages", "translation", "--translation.images", "32")
    done = studies.run(*given, "--translation.task", "rotate")
    assert "abcd-translator v1" in done.table
    assert len(studies.trials("translation")) == 12 + 2
    (parent,) = studies.parents("translation")
    figures = {Path(each.path).stem for each in studies.client.list_artifacts(parent.info.run_id, "figures")}
    assert figures == {"matrix", "error_against_steps"}
