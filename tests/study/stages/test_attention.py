"""The attention stage on four letters, from the search to the registered copy, and its claims."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from studies import Studies

from models.attention import Places, grid
from models.attention_forms import AttentionAutoencoder
from models.autoencoder import Autoencoder
from study import data
from study.data import to_float
from study.engine.search import Result
from study.engine.stage import Row
from study.stages.attention import table
from study.stages.attention.searches import ALL, CONVOLUTION, LINEAR, MAIN, MIRROR, RESTRICTED
from study.stages.attention.trial import maps_of
from tracking import load_model, registry

TINY = ("--attention.images", "64", "--attention.epochs", "1", "--attention.draws", "2")


@pytest.fixture
def given(letters: Path) -> tuple[object, ...]:
    return ("smoke", "--data", letters, "--stages", "attention", *TINY)


def test_the_copy_is_registered_and_is_the_autoencoder(
    studies: Studies, letters: Path, given: tuple[object, ...]
) -> None:
    done = studies.run(*given, "--attention.free-trials", "1")
    assert "abcd-attention-autoencoder v1" in done.table
    assert len(studies.trials("attention")) == 1 + 7 + 4 + 2

    version = registry.require_version("abcd-attention-autoencoder", None)
    original = registry.require_version("abcd-autoencoder", None)
    assert "abcd-autoencoder v1" in studies.client.get_model_version(version.name, "1").description
    assert version.config()["copy_of"] == original.uri
    images = to_float(data.load(str(letters)).test.images)
    with torch.no_grad():
        wanted = original.rebuild(Autoencoder)(images)
        loaded = load_model("abcd-attention-autoencoder", store=studies.store)
        torch.testing.assert_close(loaded(images), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(version.rebuild(AttentionAutoencoder)(images), wanted, atol=1e-5, rtol=0)
    loss = float((wanted - images).square().mean())
    assert version.metrics["test/loss"] == pytest.approx(loss, rel=1e-4)
    assert version.metrics["test/decisions_float64"] == 0

    (parent,) = studies.parents("attention")
    figures = {Path(each.path).stem for each in studies.client.list_artifacts(parent.info.run_id, "figures")}
    assert figures == {"sharpness", "first_layer", "learned", "heads", "mirror", "fully_connected"}


def test_maps_are_of_the_query_in_the_middle() -> None:
    pixels = grid(range(6), range(8))
    places = Places(pixels, pixels, (6, 8))
    weights = torch.zeros(2, 48, 48)
    weights[0, 3 * 8 + 4, 5] = 0.5
    weights[1, 3 * 8 + 4, :8] = 0.125
    maps = maps_of(weights, places.queries, (6, 8))
    assert maps.shape == (2, 6, 8)
    assert maps[0].nonzero().tolist() == [[0, 5]]
    assert maps[1, 0].tolist() == [255] * 8


FOUND: dict[str, Any] = {
    "compared": {
        name: {"differences": [error, 2 * error], "loss": 0.005, "copy_loss": 0.005 * (1 + error), "decisions": 0}
        for name, error in (("float32", 1e-7), ("float64", 1e-15))
    },
    "judged": True,
    "borders": [{"inside": 1e-7, "border": 1.9, "with_ring": 1e-7}, {"inside": 2e-7, "border": 2.0, "with_ring": 1e-7}],
    "linear": {
        **{name: [1e-14, 2e-14] for name in ("by_pixel", "by_rank", "to_image", "even")},
        "shared": [0.001, 0.002],
        "uneven": [1.0, 1.1],
        "heads": 11,
    },
    "shared": {"12 -> 3": 0.01},
    "mirror": [0.0, 1e-8],
}


def claims(found: dict[str, Any], errors: dict[str, float]) -> dict[str, str | None]:
    """Verdicts by claim, of three trainings near these errors: by part, or by encoding and window."""
    learned: dict[str, list[Result]] = {CONVOLUTION: [], LINEAR: [], MIRROR: []}
    measured = {}

    def add(part: str, params: dict[str, object], error: float) -> None:
        for repeat in range(3):
            run = f"{part} {params} {repeat}"
            value = error * (1 + 0.01 * repeat)
            learned[part].append(Result(0, run, {**params, "repeat": repeat}, (value,), run))
            names = ("test/error", "noise/error", "test/error_inside", "noise/error_inside", "noise/error_border")
            measured[run] = dict.fromkeys((*names, "head/kernel_mass", "head/centre_distance"), value)

    for main in MAIN:
        kind = {"encoding": main.encoding, "content": main.content, "heads": 16}
        for window in (ALL, RESTRICTED):
            add(CONVOLUTION, {**kind, "window": window}, errors[f"{main.encoding} {window}"])
        add(LINEAR, kind, errors["linear"])
    for learner in ("attention", "convolutions"):
        add(MIRROR, {"learner": learner}, errors[learner])
    study = SimpleNamespace(context=SimpleNamespace(dataset=SimpleNamespace(test=range(100))))
    exact = Result(0, "exact", {}, (0.0,), "exact")
    with patch.object(table, "kept", lambda *_: found):
        rows: tuple[Row, ...] = table.rows(study, exact, learned, measured)  # type: ignore[arg-type]
    return {row.claim: row.verdict for row in rows if row.claim}


ERRORS = {
    "quadratic all": 0.005,
    "quadratic 5": 0.005,
    "separate all": 0.5,
    "separate 5": 0.2,
    "added all": 0.2,
    "added 5": 0.5,
    "linear": 0.5,
    "attention": 0.1,
    "convolutions": 0.3,
}


def test_claims_are_decided_by_the_numbers() -> None:
    found = claims(FOUND, ERRORS)
    assert [verdict for claim, verdict in found.items() if claim and "(float" in claim] == ["held", "held"]
    assert found["Attention can be a convolution: inside the image"] == "held"
    assert found["... at its borders too, where the convolution pads with zeros"] == "did not hold"
    assert found["... everywhere, if the keys have a ring of zero-valued tokens"] == "held"
    assert found["A fully connected layer is a 1x1 convolution with window 0 and a sum"] == "did not hold"
    assert found["... image to image, without that token"] == "did not hold"
    assert found["Attention finds a convolution by training (quadratic)"] == "held"
    assert found["Attention finds a convolution by training (learned places)"] == "did not hold"
    assert found["Restricted attention is more like a convolution (quadratic)"] == "undecided"
    assert found["Restricted attention is more like a convolution (learned places)"] == "held"
    assert found["Restricted attention is more like a convolution (added places)"] == "did not hold"
    assert found["Attention learns to mirror better than a stack of convolutions with as many parameters"] == "held"


def test_claims_of_the_copy_can_fail() -> None:
    wrong = {"differences": [1e-3, 2e-3], "loss": 0.005, "copy_loss": 0.0051, "decisions": 3}
    broken = {**FOUND, "compared": {"float32": wrong, "float64": wrong}, "mirror": [0.1, 0.2]}
    found = claims(broken, {**ERRORS, "attention": 0.4})
    assert found["The test MSE is the same to a millionth of it"] == "did not hold"
    assert found["The classifier sees the same class in every reconstruction"] == "did not hold"
    assert [verdict for claim, verdict in found.items() if claim and "(float" in claim] == ["did not hold"] * 2
    assert (
        found["Attention does what no convolution does: each pixel takes the value of its mirror image"]
        == "did not hold"
    )


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([1e-6] * 10, "held"),
        ([1e-6] * 9 + [2e-5], "did not hold"),  # the mean would be below
        ([0.0], "held"),
        ([float("nan"), 0.0], "undecided"),
        ([], "undecided"),
    ],
)
def test_one_error_refutes_a_claim_about_the_largest(errors: list[float], expected: str) -> None:
    assert table.all_within(errors, 1e-5) == expected


@pytest.mark.parametrize("decisions", [(0, 1), (1, 1), (0, 2)])
def test_one_image_seen_otherwise_refutes_that_none_is(decisions: tuple[int, int]) -> None:
    compared = {
        name: {**FOUND["compared"][name], "decisions": count}
        for name, count in zip(("float32", "float64"), decisions, strict=True)
    }
    found = claims({**FOUND, "compared": compared}, ERRORS)
    assert found["The classifier sees the same class in every reconstruction"] == "did not hold"
