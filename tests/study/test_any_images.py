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

from study import sample
from study.report import __main__ as report
from tracking.store import read_store

STAGES = ("judge", "autoencoder", "transfer", "latent-gan", "conditional-gan", "attention", "translation")
SMALL = (
    *("--judge.epochs", "8", "--autoencoder.latent-dims", "10"),
    *("--autoencoder.free-trials", "0", "--autoencoder.epochs", "8"),
    *("--transfer.epochs", "2", "--latent-gan.free-trials", "0", "--latent-gan.vanilla-seeds", "0"),
    *("--latent-gan.epochs", "1", "--latent-gan.mixture-components", "--conditional-gan.epochs", "1"),
    *("--attention.images", "64"),
)
"""Of `smoke`: fewer GANs, and as many steps of the judges as few images take."""


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


def test_the_table_has_every_stage(own: Own) -> None:
    names = [line.partition(":")[0] for line in own.output.splitlines()]
    for stage in STAGES:
        assert stage in names
    for kind in ("judge", "autoencoder", "classifier", "latent-gan", "conditional-gan", "translator"):
        assert f"{own.name}-{kind} v1" in own.output
    assert "nan" not in own.output.split(f"\n\n{own.name}, preset")[0]
    assert "digit" not in own.output.replace("a-digit", "")
    assert "Warning" not in own.warnings


def test_two_hundred_images_in_all_are_enough_and_warned_of(own: Own) -> None:
    counts = (
        "135 training, 15 validation and 48 test" if own.shape[0] == 3 else "572 training, 52 validation and 156 test"
    )
    assert f"{own.name} has only {counts} images: differences of less than about " in own.warnings


def test_every_registered_model_loads_by_name_and_gives_the_right_shapes(own: Own) -> None:
    read_store(own.store)
    channels, side, _ = own.shape
    images = np.random.default_rng(0).random((5, channels, side, side), dtype=np.float32)
    registered = {model.name for model in mlflow.MlflowClient().search_registered_models()}
    kinds = (
        *("judge", "second-judge", "third-judge", "classifier", "autoencoder", "attention-autoencoder"),
        *("translator", "latent-gan", "conditional-gan"),
    )
    assert registered == {f"{own.name}-{kind}" for kind in kinds}
    widths = {}
    for kind in kinds:
        model = mlflow.pyfunc.load_model(f"models:/{own.name}-{kind}@champion")
        takes = model.metadata.signature.inputs.inputs[0].shape
        if kind in ("latent-gan", "conditional-gan"):
            widths[kind] = takes[1]
            made = model.predict(np.random.default_rng(0).standard_normal((5, takes[1])).astype(np.float32))
            assert made.shape == (5, *own.shape)
            assert 0 <= made.min() < made.max() <= 1
        else:
            assert tuple(takes[1:]) == own.shape
            made = model.predict(images)
            like_images = kind.endswith("autoencoder") or kind == "translator"
            assert made.shape == (images.shape if like_images else (5, len(own.classes)))
        assert model.metadata.metadata["classes"] == list(own.classes)
    noise_dim = widths["conditional-gan"] - len(own.classes)
    assert noise_dim in (10, 16, 32, 64)


def test_the_judges_learn_them(own: Own) -> None:
    read_store(own.store)
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias(f"{own.name}-judge", "champion")
    assert client.get_run(version.run_id).data.metrics["test/accuracy"] > 0.9


@pytest.mark.parametrize("by", ["name", "number"])
def test_samples_have_the_right_size_and_mode(own: Own, by: str, tmp_path: Path) -> None:
    given = ["--data", own.name, "--store", str(own.store), "--count", "6"]
    label = own.classes[1] if by == "name" else "1"
    assert sample.main([*given, "--label", label, "--out", str(tmp_path / "few")]) == 0
    files = sorted((tmp_path / "few").iterdir())
    assert len(files) == 6
    for file in files:
        with Image.open(file) as image:
            assert image.size == own.shape[:0:-1]
            assert image.mode == ("RGB" if own.shape[0] == 3 else "L")
    assert sample.main([*given, "--label", label, "--out", str(tmp_path / "few.npz")]) == 0
    arrays = np.load(tmp_path / "few.npz")
    assert arrays["images"].shape == (6, *own.shape[1:], *([3] if own.shape[0] == 3 else []))
    assert arrays["labels"].tolist() == [1] * 6
    assert sample.main([*given, "--out", str(tmp_path / "any.png")]) == 0


def test_a_path_is_as_good_as_the_name_and_an_unknown_class_is_refused(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(own.data), "--store", str(own.store), "--out", str(tmp_path / "a.png")]
    assert sample.main([*given, "--interpolate", own.classes[0], own.classes[2]]) == 0
    assert sample.main([*given, "--label", "nothing"]) == 2
    assert f"error: the label must be one of {own.classes[0]}, " in capsys.readouterr().err


def test_the_report_has_the_names_of_the_classes(own: Own, tmp_path: Path) -> None:
    out, pictures = tmp_path / "report.html", tmp_path / "pictures"
    given = ["--data", str(own.data), "--store", str(own.store), "--out", str(out)]
    assert report.main([*given, "--pictures", str(pictures)]) == 0
    page = out.read_text()
    assert f"<title>latent-study: {own.name}</title>" in page
    for stage in STAGES:
        assert f'id="{stage}"' in page
    for name in own.classes:
        assert f"<td>{name}</td>" in page
    assert any(pictures.iterdir())


def test_without_labels_the_autoencoder_runs_and_a_sentence_names_the_other_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = flat_folder(tmp_path / "no labels", 60)
    studies = Studies(tmp_path / "store", capsys)
    refused = studies.call("smoke", "--data", data, "--stages", "judge")
    assert refused.error == "error: no-labels has no labels, but these stages need class folders: judge"
    assert not studies.trials()
    done = studies.run("smoke", "--data", data, *SMALL)
    rest = "judge, transfer, latent-gan, conditional-gan, translation"
    assert f"no-labels has no labels, but these stages need class folders: {rest}; they are left out" in done.errors
    assert "no-labels-attention-autoencoder v1" in done.table
    assert "another class" not in done.table, "there is no judge"
    trials = len(studies.trials())
    assert len(studies.trials("autoencoder")) == 2
    assert trials == 2 + len(studies.trials("attention")) > 2
    studies.run("smoke", "--data", data, "--stages", "autoencoder", *SMALL)
    assert len(studies.trials()) == trials
