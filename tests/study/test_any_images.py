"""The whole study on images that are no handwritten digits: colours, other sizes and class counts, few images."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
from commands import Call
from conftest import Command, squares
from pictures import LETTERS, SHAPES, arrays_of_letters, folder_of_shapes, write_images
from PIL import Image
from studies import Studies

from study.stages import all_stages
from tracking.registry import require_version
from tracking.store import read_store

pytestmark = pytest.mark.slow
STAGES = {stage.name: stage.outputs for stage in all_stages()}
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
    counts: str
    stages: tuple[str, ...]
    kinds: list[str]


@pytest.fixture(scope="module", params=["folder of colour images", "arrays of grey images"])
def own(request: pytest.FixtureRequest, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Own:
    """All stages on three classes in colour; those that depend on the number of classes on 26."""
    place = tmp_path_factory.mktemp("own")
    if request.param == "folder of colour images":
        data = folder_of_shapes(place / "my shapes", {"train": 50, "test": 16})
        about = ("my-shapes", SHAPES, (3, 32, 32), "135 training, 15 validation and 48 test", tuple(STAGES))
        flags = ("--colour", "--image-size", "32")
    else:
        data = arrays_of_letters(place / "letters.npz", 24, 6)
        stages = ("judge", "autoencoder", "transfer", "latent-gan", "conditional-gan")
        about = ("letters", LETTERS, (1, 28, 28), "572 training, 52 validation and 156 test", stages)
        flags = ("--stages", *stages)
    done = command("study.run", "smoke", "--data", data, "--table", "--store", place / "store", *flags, *SMALL)
    assert done.returncode == 0, done.stderr
    kinds = [kind for stage in about[-1] for kind in STAGES[stage]]
    return Own(data, place / "store", done.stdout, done.stderr, *about, kinds)


def test_every_stage_runs_on_them_and_few_images_are_warned_of(own: Own) -> None:
    assert set(own.stages) <= {line.partition(":")[0] for line in own.output.splitlines()}
    assert all(f"{own.name}-{kind} v1" in own.output for kind in own.kinds)
    assert ("nan" in own.output.split(f"\n\n{own.name}, preset")[0], "Warning" in own.warnings) == (False, False)
    assert f"{own.name} has only {own.counts} images" in own.warnings
    read_store(own.store)
    assert require_version(f"{own.name}-judge").metrics["test/accuracy"] > 0.9


def test_every_registered_model_loads_by_name_and_gives_the_right_shapes(own: Own) -> None:
    read_store(own.store)
    images = np.random.default_rng(0).random((5, *own.shape), dtype=np.float32)
    registered = {model.name for model in mlflow.MlflowClient().search_registered_models()}
    assert registered == {f"{own.name}-{kind}" for kind in own.kinds}
    for kind in own.kinds:
        model = mlflow.pyfunc.load_model(f"models:/{own.name}-{kind}@champion")
        takes = model.metadata.signature.inputs.inputs[0].shape
        if kind.endswith("gan"):
            made = model.predict(np.random.default_rng(0).standard_normal((5, takes[1])).astype(np.float32))
            assert (made.shape, 0 <= made.min() < made.max() <= 1) == ((5, *own.shape), True)
        else:
            assert tuple(takes[1:]) == own.shape
            like_images = kind.endswith("autoencoder") or kind == "translator"
            assert model.predict(images).shape == (images.shape if like_images else (5, len(own.classes)))
        assert model.metadata.metadata["classes"] == list(own.classes)


def test_samples_predictions_and_the_report_know_their_classes(own: Own, tmp_path: Path, called: Call) -> None:
    given, few, page = ("--data", own.data, "--store", own.store), tmp_path / "few", tmp_path / "report.html"
    assert called("sample", *given, "--count", 6, "--label", own.classes[1], "--out", few).code == 0
    assert len(list(few.iterdir())) == 6
    for file in few.iterdir():
        with Image.open(file) as image:
            assert (image.size, image.mode) == (own.shape[:0:-1], "RGB" if own.shape[0] == 3 else "L")
    assert called("sample", *given, "--interpolate", own.classes[0], 2, "--out", tmp_path / "a.png").code == 0
    refused = called("sample", *given, "--label", "nothing", "--out", tmp_path / "b.png").error
    assert f"the label must be one of {own.classes[0]}, " in refused
    asked = ("--inputs", few, "--out", tmp_path / "classes.csv", "--store", own.store)
    assert called("predict", f"{own.name}-judge", *asked).code == 0
    header, first, *_ = (tmp_path / "classes.csv").read_text(encoding="utf-8").splitlines()
    assert (header, first[:9]) == (",".join(["file", "class", *own.classes]), "0000.png,")
    assert called("report", *given, "--out", page, "--pictures", tmp_path / "pictures").code == 0
    assert all(f'id="{stage}"' in page.read_text() for stage in own.stages)
    assert any((tmp_path / "pictures").iterdir())


def test_without_labels_the_autoencoder_runs_and_the_other_stages_are_named(fresh: Studies, tmp_path: Path) -> None:
    data = write_images(tmp_path / "no labels", squares((3, 32, 32), 3, 20, 0).images)
    refused = fresh.call("smoke", "--data", data, "--stages", "judge")
    assert "no-labels has no labels, but these stages need class folders: judge" in refused.error
    done = fresh.run("smoke", "--data", data)
    rest = "judge, transfer, latent-gan, conditional-gan, translation"
    assert f"these stages need class folders: {rest}; they are left out" in done.errors
    assert "no-labels-attention-autoencoder v1" in done.table
    trials = len(fresh.trials())
    assert trials == len(fresh.trials("autoencoder")) + len(fresh.trials("attention"))
    fresh.run("smoke", "--data", data, "--stages", "autoencoder")
    assert len(fresh.trials()) == trials
