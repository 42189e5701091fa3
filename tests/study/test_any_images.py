"""The whole study on images that are no handwritten digits: colours, other sizes and class counts, few images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import Command
from pictures import LETTERS, SHAPES, arrays_of_letters, flat_folder, folder_of_shapes
from PIL import Image
from studies import Studies

from study import predict, sample
from study.report import __main__ as report
from tracking.store import read_store

STAGES = ("judge", "autoencoder", "transfer", "latent-gan", "conditional-gan", "attention", "translation")
KINDS = (
    *("judge", "second-judge", "third-judge", "classifier", "autoencoder", "attention-autoencoder"),
    *("translator", "latent-gan", "conditional-gan"),
)
SMALL = ("--judge.epochs", "40", "--autoencoder.epochs", "8")  # as many steps of the judges as few images take


@dataclass(frozen=True)
class Own:
    """A finished smoke study on a data set of somebody's own."""

    data: Path
    store: Path
    output: str
    warnings: str
    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]


@pytest.fixture(scope="module", params=["folder of colour images", "arrays of grey images"])
def own(request: pytest.FixtureRequest, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Own:
    place = tmp_path_factory.mktemp("own")
    if request.param == "folder of colour images":
        data = folder_of_shapes(place / "my shapes", {"train": 50, "test": 16})
        name, classes, shape, flags = "my-shapes", SHAPES, (3, 32, 32), ("--colour", "--image-size", "32")
    else:
        data = arrays_of_letters(place / "letters.npz", 24, 6)
        name, classes, shape, flags = "letters", LETTERS, (1, 28, 28), ()
    store = place / "store"
    done = command("study.run", "smoke", "--data", data, "--store", store, *flags, *SMALL)
    assert done.returncode == 0, done.stderr
    return Own(data, store, done.stdout, done.stderr, name, classes, shape)


@pytest.mark.slow
def test_every_stage_runs_on_them_and_few_images_are_warned_of(own: Own) -> None:
    names = [line.partition(":")[0] for line in own.output.splitlines()]
    assert set(STAGES) <= set(names)
    for kind in KINDS:
        assert f"{own.name}-{kind} v1" in own.output
    assert "nan" not in own.output.split(f"\n\n{own.name}, preset")[0]
    assert "Warning" not in own.warnings
    counts = (
        "135 training, 15 validation and 48 test" if own.shape[0] == 3 else "572 training, 52 validation and 156 test"
    )
    assert f"{own.name} has only {counts} images" in own.warnings
    read_store(own.store)
    version = mlflow.MlflowClient().get_model_version_by_alias(f"{own.name}-judge", "champion")
    assert mlflow.MlflowClient().get_run(version.run_id).data.metrics["test/accuracy"] > 0.9


@pytest.mark.slow
def test_every_registered_model_loads_by_name_and_gives_the_right_shapes(own: Own) -> None:
    read_store(own.store)
    images = np.random.default_rng(0).random((5, *own.shape), dtype=np.float32)
    registered = {model.name for model in mlflow.MlflowClient().search_registered_models()}
    assert registered == {f"{own.name}-{kind}" for kind in KINDS}
    for kind in KINDS:
        model = mlflow.pyfunc.load_model(f"models:/{own.name}-{kind}@champion")
        takes = model.metadata.signature.inputs.inputs[0].shape
        if kind.endswith("gan"):
            made = model.predict(np.random.default_rng(0).standard_normal((5, takes[1])).astype(np.float32))
            assert made.shape == (5, *own.shape)
            assert 0 <= made.min() < made.max() <= 1
        else:
            assert tuple(takes[1:]) == own.shape
            like_images = kind.endswith("autoencoder") or kind == "translator"
            assert model.predict(images).shape == (images.shape if like_images else (5, len(own.classes)))
        assert model.metadata.metadata["classes"] == list(own.classes)


@pytest.mark.slow
def test_samples_predictions_and_the_report_know_their_classes(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(own.data), "--store", str(own.store), "--count", "6"]
    assert sample.main([*given, "--label", own.classes[1], "--out", str(tmp_path / "few")]) == 0
    files = sorted((tmp_path / "few").iterdir())
    assert len(files) == 6
    for file in files:
        with Image.open(file) as image:
            assert (image.size, image.mode) == (own.shape[:0:-1], "RGB" if own.shape[0] == 3 else "L")
    assert sample.main([*given, "--interpolate", own.classes[0], "2", "--out", str(tmp_path / "a.png")]) == 0
    assert sample.main([*given, "--label", "nothing", "--out", str(tmp_path / "b.png")]) == 2
    assert f"error: the label must be one of {own.classes[0]}, " in capsys.readouterr().err
    asked = [f"{own.name}-judge", "--inputs", str(tmp_path / "few"), "--out", str(tmp_path / "classes.csv")]
    assert predict.main([*asked, "--store", str(own.store)]) == 0
    header, first, *_ = (tmp_path / "classes.csv").read_text(encoding="utf-8").splitlines()
    assert header == ",".join(["file", "class", *own.classes])
    assert first.startswith("0000.png,")

    page = tmp_path / "report.html"
    given = ["--data", str(own.data), "--store", str(own.store), "--out", str(page)]
    assert report.main([*given, "--pictures", str(tmp_path / "pictures")]) == 0
    text = page.read_text()
    assert all(f'id="{stage}"' in text for stage in STAGES)
    assert any((tmp_path / "pictures").iterdir())


@pytest.mark.slow
def test_without_labels_the_autoencoder_runs_and_a_sentence_names_the_other_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = flat_folder(tmp_path / "no labels", 60)
    studies = Studies(tmp_path / "store", capsys)
    refused = studies.call("smoke", "--data", data, "--stages", "judge")
    assert "no-labels has no labels, but these stages need class folders: judge" in refused.error
    done = studies.run("smoke", "--data", data)
    rest = "judge, transfer, latent-gan, conditional-gan, translation"
    assert f"these stages need class folders: {rest}; they are left out" in done.errors
    assert "no-labels-attention-autoencoder v1" in done.table
    trials = len(studies.trials())
    assert trials == len(studies.trials("autoencoder")) + len(studies.trials("attention"))
    studies.run("smoke", "--data", data, "--stages", "autoencoder")
    assert len(studies.trials()) == trials
