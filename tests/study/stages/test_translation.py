"""The translation stage: its trials, the rules of its claims, a tiny study from end to end, and images by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import Command
from pictures import arrays_of_letters
from PIL import Image

from study import sample
from study.checks import UsageError
from study.config import TRANSLATION_PRESETS as PRESETS
from study.config import TranslationConfig
from study.data.dataset import Dataset
from study.engine.search import Result
from study.stages.translation import table
from study.stages.translation.cells import Cells
from study.stages.translation.recipes import OURS, cell_search, matrix_trials, settings_of
from study.stages.translation.stage import TRANSLATION
from study.stages.translation.verdicts import every, none_of, slower, steps_to
from study.training.translation_settings import CONDITIONAL_GAN, CYCLE_GAN, GAN, L1, MATRIX, METHODS
from tracking.store import read_store

PAIRED, LOOSE, UNPAIRED = MATRIX


def ours(cell: tuple) -> object:
    return OURS[cell[1]]


def test_the_matrix_is_every_model_on_every_pairing() -> None:
    trials = matrix_trials(TranslationConfig(repeats=2), ours)
    assert len(trials) == len(METHODS) * 3 * 2
    assert {(trial["method"], trial["pairing"]) for trial in trials} == {(m, p) for m in METHODS for p in MATRIX}
    assert {trial["level"] for trial in trials if trial["pairing"] == LOOSE} == {3}
    assert {trial["level"] for trial in trials if trial["pairing"] != LOOSE} == {0}
    assert all(settings_of(trial) == OURS[trial["method"]] for trial in trials)


def test_levels_and_pairings_add_trials_and_change_none() -> None:
    few = matrix_trials(TranslationConfig(), ours)
    many = matrix_trials(TranslationConfig(levels=(1, 5), pairings=("class", "shifted")), ours)
    assert many[: len(few)] == few
    added = {(trial["pairing"], trial["level"]) for trial in many[len(few) :]}
    assert added == {(LOOSE, 1), (LOOSE, 5), ("class", 0), ("shifted", 0)}
    full = matrix_trials(PRESETS["full"], ours)
    assert len({str(trial) for trial in full}) == len(full) == 3 * 3 * (3 + 4 + 2) * len(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_each_model_is_searched_with_the_same_number_of_trials(method: str) -> None:
    search = cell_search(method, 7)
    assert len(search.slots) == 9
    searched = {
        GAN: {"learning_rate", "discriminator_rate"},
        CYCLE_GAN: {"learning_rate", "discriminator_rate", "weight", "identity"},
        CONDITIONAL_GAN: {"learning_rate", "discriminator_rate", "weight"},
        L1: {"learning_rate"},
    }
    assert search.space.keys() == searched[method]
    assert all(settings.keys() == search.space.keys() for settings in search.fixed.values())


def test_halves_that_fill_no_batch_are_refused(tiny: Dataset) -> None:
    assert TRANSLATION.check is not None
    TRANSLATION.check(TranslationConfig(batch_size=320), tiny)
    message = r"`translation.batch_size <= 320`, half of the training images, must hold, but got 321"
    with pytest.raises(UsageError, match=message):
        TRANSLATION.check(TranslationConfig(batch_size=321), tiny)


@pytest.mark.parametrize("level", [0, 6])
def test_levels_outside_1_to_5_are_refused(level: int) -> None:
    with pytest.raises(ValueError, match=f"`1 <= level <= 5` must hold, but got {level}"):
        TranslationConfig(levels=(1, level))


def test_claims_of_several_parts() -> None:
    assert every("held", "held") == "held"
    assert every("held", "undecided") == "undecided"
    assert every("undecided", "did not hold") == "did not hold"
    assert every() == "undecided"
    assert none_of("did not hold", "did not hold") == "held"
    assert none_of("did not hold", "held") == "did not hold"
    assert none_of("did not hold", "undecided") == "undecided"


def test_steps_to_a_goal_lie_between_two_measurements() -> None:
    steps, errors = [0.0, 100.0, 200.0, 300.0], [0.4, 0.3, 0.1, 0.2]
    assert steps_to(0.2, steps, errors) == pytest.approx(150)
    assert steps_to(0.5, steps, errors) == 0
    assert steps_to(0.05, steps, errors) == math.inf


@pytest.mark.parametrize(
    ("ours", "against", "expected"),
    [
        ([200.0, 210.0, 205.0], [100.0, 110.0, 105.0], "held"),
        ([50.0, 52.0, 51.0], [100.0, 110.0, 105.0], "did not hold"),
        ([100.0, 120.0, 110.0], [100.0, 110.0, 105.0], "undecided"),
        ([200.0], [100.0], "undecided"),  # one seed has no spread
        ([math.inf] * 3, [100.0, 110.0, 105.0], "held"),  # more than all the steps that were made
        ([100.0, 110.0, 105.0], [math.inf] * 3, "did not hold"),
        ([math.inf] * 3, [math.inf] * 3, "undecided"),
        ([100.0, 101.0, math.inf], [250.0, 251.0, 252.0], "undecided"),
        # With as many steps as they may have needed, these could be on the other side.
        ([290.0, 291.0, 292.0], [200.0, 201.0, math.inf], "undecided"),
        ([298.0, 298.1, math.inf], [299.9, 299.9, 299.9], "undecided"),
        ([], [100.0], "undecided"),
    ],
)
def test_what_never_gets_there_takes_more_than_all_steps(
    ours: list[float], against: list[float], expected: str
) -> None:
    assert slower(ours, against, 300) == expected


class Planted(Cells):
    """Cells of three repeats with planted figures."""

    curves: dict[str, float]

    def curve(self, result: Result) -> tuple[list[float], list[float]]:
        reach = self.measured[result.run_id]["reach"]
        return [0.0, 300.0], [0.4, 0.4 - 0.3 * 300 / reach]


def claims(**changes: dict[str, float]) -> dict[str, str]:
    """The verdicts of the nine claims by their first words, if all is as the reference says but for these cells."""
    good = {"mae": 0.02, "lost": 0.02, "reach": 100.0, "recall": 0.8}
    bad = {"mae": 0.18, "lost": 0.6, "reach": 1e9, "recall": 0.02}
    figures = {(GAN, pairing): bad for pairing in MATRIX} | {(GAN, PAIRED): {**bad, "mae": 0.15}}
    figures |= {(CYCLE_GAN, pairing): good for pairing in MATRIX} | {(CYCLE_GAN, LOOSE): {**good, "reach": 200.0}}
    figures |= {(CONDITIONAL_GAN, PAIRED): good, (CONDITIONAL_GAN, LOOSE): {**good, "mae": 0.04}}
    figures |= {(CONDITIONAL_GAN, UNPAIRED): bad, (L1, PAIRED): good, (L1, LOOSE): good, (L1, UNPAIRED): bad}
    results, measured = [], {}
    for (method, pairing), usual in figures.items():
        found = {**usual, **changes.get(f"{method}, {pairing}", {})}
        for repeat in range(3):
            run = f"{method} {pairing} {repeat}"
            params = {"task": "outline", "method": method, "pairing": pairing, "repeat": repeat}
            params["level"] = 3 if pairing == LOOSE else 0
            results.append(Result(0, run, params, (0.0,), run))
            kept = 1 - found["lost"] - 0.001 * repeat
            measured[run] = {
                "test/mae": found["mae"] * (1 + 0.01 * repeat),
                "reach": found["reach"] * (1 + 0.01 * repeat),
                "sample/kept": kept,
                "second/kept": kept,
                "test/dependence": 0.5,
                "sample/recall": found["recall"] + 0.001 * repeat,
                "sample/coverage": 0.9,
            }
    baselines = [
        Result(0, source, {"source": source, "task": "outline"}, (0.0,), source) for source in ("identity", "truth")
    ]
    measured |= {"identity": {"test/mae": 0.2, "val/mae": 0.4}, "truth": {"test/mae": 0.0}}
    cells = Planted(results, baselines, measured)
    context = type("Context", (), {"has_reference": True})
    rows = table._claims(context, cells, "outline")
    assert len(rows) == 9
    assert all(row.reference and row.claim and row.ours and "failed" not in row.ours for row in rows)
    return {row.figure: row.verdict for row in rows}


NONE, COLLAPSE, LEAST, WORKS, SLOWER, BEST, GOOD, HARDER, UNFIT = CLAIMS = (
    "A plain GAN suits none of the pairings",
    "A plain GAN collapses on every pairing",
    "A plain GAN is least bad on paired images",
    "CycleGAN works on paired and on loosely paired images",
    "CycleGAN is slower on loosely paired than on paired images",
    "CycleGAN is the best on unpaired images",
    "A conditional GAN is good on paired and on loosely paired images",
    "A conditional GAN has it harder as the pairing loosens",
    "A conditional GAN is unfit for unpaired images",
)


def test_all_claims_hold_if_all_is_as_the_reference_says() -> None:
    assert claims() == dict.fromkeys(CLAIMS, "held")


@pytest.mark.parametrize(
    ("cell", "change", "refuted"),
    [
        (f"{GAN}, {UNPAIRED}", {"mae": 0.16, "lost": 0.05}, set()),  # its class is kept, but its error is too large
        (f"{GAN}, {UNPAIRED}", {"mae": 0.01, "lost": 0.01}, {NONE, LEAST, BEST}),
        (f"{L1}, {UNPAIRED}", {"mae": 0.01, "lost": 0.01}, {BEST}),
        (f"{GAN}, {UNPAIRED}", {"recall": 0.5}, {COLLAPSE}),
        (f"{GAN}, {LOOSE}", {"mae": 0.12}, {LEAST}),
        (f"{CYCLE_GAN}, {LOOSE}", {"mae": 0.15}, {WORKS}),
        (f"{CYCLE_GAN}, {PAIRED}", {"lost": 0.2}, {WORKS}),
        (f"{CYCLE_GAN}, {LOOSE}", {"reach": 50.0}, {SLOWER}),
        (f"{CYCLE_GAN}, {UNPAIRED}", {"lost": 0.7}, {BEST}),
        (f"{CYCLE_GAN}, {UNPAIRED}", {"mae": 0.19}, {BEST}),
        (f"{CONDITIONAL_GAN}, {LOOSE}", {"lost": 0.3}, {GOOD}),
        (f"{CONDITIONAL_GAN}, {LOOSE}", {"mae": 0.01}, {HARDER}),
        (f"{CONDITIONAL_GAN}, {UNPAIRED}", {"mae": 0.05, "lost": 0.03}, {UNFIT}),
    ],
)
def test_each_claim_can_be_refuted(cell: str, change: dict[str, float], refuted: set[str]) -> None:
    found = claims(**{cell: change})
    assert {claim for claim, decided in found.items() if decided == "did not hold"} == refuted


@pytest.fixture(scope="module")
def store(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a tiny study on letters has run."""
    folder = tmp_path_factory.mktemp("translation")
    data = arrays_of_letters(folder / "abcd.npz", 30, 10, "ABCD")
    given = ["smoke", "--data", data, "--store", folder / "store", "--stages", "judge", "translation"]
    given += ["--judge.batch-size", "32", "--translation.images", "32", "--translation.levels", "1"]
    done = command("study.run", *given, "--translation.tasks", "rotate")
    assert done.returncode == 0, done.stderr
    (folder / "store" / "output.txt").write_text(done.stdout)
    return folder / "store"


def runs(store: Path) -> list:
    read_store(store)
    client = mlflow.MlflowClient()
    return client.search_runs(
        [client.get_experiment_by_name("abcd/translation").experiment_id], order_by=["attributes.start_time ASC"]
    )


def test_a_tiny_study_has_the_matrix_its_figures_and_nine_verdicts(store: Path) -> None:
    parent, *trials = runs(store)
    trained = [trial for trial in trials if "method" in trial.data.params]
    assert len(trained) == 16
    assert len(trials) == len(trained) + 2 + 2, "the judges of domain B, the floor and the ceiling"
    for trial in trained:
        found = trial.data.metrics
        assert trial.info.status == "FINISHED"
        wanted = {"val/mae", "test/mae", "test/psnr", "test/dependence", "sample/recall", "generator/loss"}
        assert wanted | {"sample/kept", "second/kept", "sample/permuted", "sample/fd"} <= found.keys()
        assert all(np.isfinite(list(found.values())))
        is_cycle = trial.data.params["method"] == CYCLE_GAN
        assert ("cycle/error_rounded" in found) == is_cycle
        assert ("discriminator/loss" in found) == (trial.data.params["method"] != L1)
    client = mlflow.MlflowClient()
    figures = {Path(each.path).stem for each in client.list_artifacts(parent.info.run_id, "figures")}
    assert figures == {"matrix", "error_against_level", "error_against_steps"}
    rows = json.loads(Path(client.download_artifacts(parent.info.run_id, "outcome.json")).read_text())["rows"]
    assert sum("(rotate)" in (row["claim"] or "") for row in rows) == 9
    output = (store / "output.txt").read_text()
    assert "  translation: The best translator of paired images (rotate), " in output
    assert "abcd-translator v1" in output
    assert "nan" not in output


def translate(store: Path, out: Path, *arguments: object) -> int:
    return sample.main([str(part) for part in ("--data", "abcd", "--store", store, "--out", out, *arguments)])


def test_images_are_translated_by_name(store: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "given.npz", images=images)
    Image.fromarray(images[0]).save(tmp_path / "given.png")
    assert translate(store, tmp_path / "out.npz", "--images", tmp_path / "given.npz") == 0
    read_store(store)
    model = mlflow.pyfunc.load_model("models:/abcd-translator@champion")
    expected = model.predict((images[:, None] / 255).astype(np.float32))
    arrays = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(arrays["images"], (expected[:, 0] * 255).round(), atol=1)
    np.testing.assert_array_equal(arrays["inputs"], images[:, None])
    named = ("--model", "abcd-translator", "--version", 1, "--images", tmp_path / "given.png")
    assert translate(store, tmp_path / "out", *named) == 0
    (file,) = (tmp_path / "out").iterdir()
    np.testing.assert_allclose(np.asarray(Image.open(file)).astype(int), arrays["images"][0].astype(int), atol=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "small.png"], "images must be of 28x28 pixels, as the model takes them, but small.png has 30x20"),
        (["--images", "small.npz"], "images must be of 28x28 pixels, as the model takes them, but small.npz has 30x20"),
        (["--images", "other.npz"], "other.npz must be an .npz file with the array `images`"),
        (["--images", "floats.npz"], "must be uint8 [N, H, W] or [N, H, W, 3], but are float64 of shape [2, 28, 28]"),
        (["--images", "missing.png"], "missing.png cannot be read as an image: No such file"),
        (["--images", "text.png"], "text.png cannot be read as an image"),
        (["--images", "small.png", "--label", "A"], "only one of `label` and `images` can be given"),
        (["--images", "small.png", "--model", "abcd-judge"], "--images can be given to a translator only"),
        (["--model", "abcd-translator"], "which takes images: give it some with --images"),
    ],
)
def test_images_that_cannot_be_translated(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    small = np.zeros((2, 20, 30), np.uint8)
    Image.fromarray(small[0]).save("small.png")
    np.savez("small.npz", images=small)
    np.savez("other.npz", pictures=small)
    np.savez("floats.npz", images=np.zeros((2, 28, 28)))
    Path("text.png").write_text("no image")
    try:
        code = translate(store, tmp_path / "out.png", *arguments)
    except SystemExit as done:  # tyro's
        code = int(done.code or 0)
    assert code == 2
    errors = capsys.readouterr().err
    found = " ".join(errors.replace("│", " ").split())
    assert message in found.replace(f"{tmp_path}/", "")
    assert "Traceback" not in errors
    assert not (tmp_path / "out.png").exists()


def test_a_wrong_level_is_one_sentence(command: Command) -> None:
    refused = command("study.run", "smoke", "--translation.levels", "7", "--dry-run")
    assert refused.returncode == 2
    assert "`1 <= level <= 5` must hold, but got 7" in " ".join(refused.stderr.replace("│", " ").split())
    assert "Traceback" not in refused.stderr
