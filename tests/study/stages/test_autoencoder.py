"""The autoencoder study: which trial is chosen, and what the others are compared by."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.config import AutoencoderConfig
from study.data.dataset import Dataset, Split
from study.engine.search import Result
from study.measures.consequences import JudgedDistance, consequences
from study.stages.autoencoder.choice import by_size, champions_cost, choose, knees
from study.stages.autoencoder.consequences import agreement, claims, consequences_figure, necessity
from study.stages.autoencoder.stage import AUTOENCODER, plan
from study.stages.autoencoder.trial import IMAGES_SHOWN, Comparison
from study.training.autoencoder import knee_distance
from tracking.errors import StoreError


def test_the_knee_is_the_point_nearest_to_the_ideal_corner() -> None:
    # Losses and correlations of the reference's five sizes after four epochs; three components lose 0.052.
    sizes, losses, correlations = (
        (3, 10, 15, 20, 100),
        (0.032, 0.0117, 0.008, 0.0062, 0.0034),
        (0.04, 0.36, 0.36, 0.41, 0.66),
    )
    distances = [knee_distance(loss, 0.052, pcc) for loss, pcc in zip(losses, correlations, strict=True)]
    tried = [
        Result(n, "", {"latent_dim": size, "architecture": "conv"}, (0.0, 0.0), str(n)) for n, size in enumerate(sizes)
    ]
    measured = {str(n): {"latent/knee_distance": distance} for n, distance in enumerate(distances)}
    found = choose(tried, measured, None)
    assert (found.best.params["latent_dim"], found.metric) == (15, "latent/knee_distance")


def test_a_given_latent_size_takes_the_least_loss_of_that_size() -> None:
    tried = [
        Result(n, "", {"latent_dim": size}, (loss, 0.5), "")
        for n, (size, loss) in enumerate([(15, 3.0), (15, 2.0), (3, 1.0)])
    ]
    assert (choose(tried, {}, 15).best.number, choose(tried, {}, 15).metric) == (1, "val/loss")
    with pytest.raises(StoreError, match="no trial of latent size 16 is complete"):
        choose(tried, {}, 16)


def test_a_given_latent_size_is_tried_too() -> None:
    config = AutoencoderConfig(latent_dims=(20, 3), latent_dim=7)
    assert config.sizes == [3, 7, 20]
    assert "latent sizes 3, 7, 20" in plan(config)


def trials(*made: tuple[int, int, float, float, float]) -> tuple[list[Result], dict[str, dict[str, float]]]:
    """Trainings of these sizes, repeats, FDs, accuracies with few labels, and knee distances."""
    results, measured = [], {}
    for number, (size, repeat, distance, accuracy, knee) in enumerate(made):
        params = {"latent_dim": size, "architecture": "conv", "repeat": repeat}
        results.append(Result(number, f"trial {number}", params, (1 / size, 0.3), str(number)))
        measured[str(number)] = {
            "val/loss": 1 / size,
            "baseline/pca_val_loss": 3 / size,
            "latent/knee_distance": knee,
            "mixture/fd": distance,
            "few_labels/accuracy": accuracy,
            "mixture/two_sample_accuracy": 0.6,
            "consequences/cost": (distance * (1 - accuracy)) ** 0.5,
            "latent/max_abs_pcc": 0.4,
            "latent/max_abs_pcc_rotated": 0.05,
            "latent/pcc_noise_floor": 0.04,
        }
    return results, measured


# Costs: 0.5 and 0.7 at size 10, 0.4 and 0.9 at 15, 0.6 and 0.6 at 20. Knees: 15 and 20.
TWO_SEEDS = (
    *((10, 0, 2.5, 0.9, 0.5), (15, 0, 1.6, 0.9, 0.3), (20, 0, 3.6, 0.9, 0.4)),
    *((10, 1, 4.9, 0.9, 0.5), (15, 1, 8.1, 0.9, 0.4), (20, 1, 3.6, 0.9, 0.3)),
)


def test_the_size_with_the_least_mean_cost_is_chosen_and_of_its_trainings_the_best() -> None:
    results, measured = trials(*TWO_SEEDS)
    found = choose(results, measured, None)
    assert found.metric == "consequences/cost"
    assert found.best.params == {"latent_dim": 10, "architecture": "conv", "repeat": 0}, (
        "of two sizes at 0.6 the smaller"
    )
    assert choose(results, measured, 15).best.params["latent_dim"] == 15, "what is asked for is taken"
    assert [size for size, _ in by_size(results)] == [10, 15, 20]


def test_a_training_without_a_cost_is_not_chosen() -> None:
    results, measured = trials(*TWO_SEEDS)
    del measured["0"]["consequences/cost"]  # size 10 keeps that of its second seed, 0.7: 20 is the least now
    assert choose(results, measured, None).best.params["latent_dim"] == 20
    del measured["2"]["consequences/cost"]
    assert choose(results, measured, None).best.number == 5


def test_the_references_knee_is_looked_up_seed_by_seed_and_among_the_grid_only() -> None:
    results, measured = trials(*TWO_SEEDS, (50, 0, 1.0, 0.9, 0.0))
    results[-1] = replace(results[-1], slot="free 0")
    assert knees(results, measured) == [15, 20]


def test_what_the_claims_come_to() -> None:
    assert [agreement(picked) for picked in ([15], [15, 15], [15, 15, 15], [15, 20], [15, 15, 20])] == [
        *("undecided", "undecided", "held", "did not hold", "did not hold"),
    ]
    found = [necessity(ratios) for ratios in ([0.9, 1.5], [0.9, 1.6], [1.6, 2.0])]
    assert found == ["did not hold", "undecided", "held"]
    results, measured = trials(*TWO_SEEDS)
    knee, size, at_15, pcc = claims(results, measured, reference=True)
    assert (knee.ours, knee.reference, knee.verdict) == ("15, 20", "15", "did not hold")
    assert (size.ours, size.reference) == ("10, conv", "15")
    assert (at_15.ours, at_15.baseline) == ("0.650 ± 0.354", "size 10, conv 0.600 ± 0.141")
    assert at_15.verdict == "undecided"
    assert (pcc.ours, pcc.baseline, pcc.verdict) == ("1.2 to 1.2", "as trained 10.0 to 10.0", "did not hold")


def test_a_size_that_costs_clearly_more_denies_the_references_choice() -> None:
    clear = [(15, 0, 9.0, 0.9, 0.1), (15, 1, 9.1, 0.9, 0.1), (20, 0, 1.0, 0.9, 0.2), (20, 1, 1.1, 0.9, 0.2)]
    verdicts = [row.verdict for row in claims(*trials(*clear), reference=True)]
    assert verdicts == ["undecided", None, "did not hold", "did not hold"]
    elsewhere = claims(*trials(*clear), reference=False)
    assert all(row.reference is None for row in elsewhere)
    assert len(elsewhere) == 3, "no other data have a reference's size"


def test_the_figure_has_every_measure_of_every_size() -> None:
    results, measured = trials(*TWO_SEEDS)
    pca = {size: 3 / size for size in (10, 15, 20)}
    drawn = consequences_figure(results, measured, results[0], "least cost", pca)
    assert len(drawn.axes) == 5
    assert {ax.get_xscale() for ax in drawn.axes} == {"log"}
    columns, rows = drawn.values  # type: ignore[attr-defined]
    values = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert values["10"]["FD of a Gaussian mixture's images, conv"] == "3.7 ± 1.697"
    assert values["20"]["error with 10 labels a class, %, conv"] == "10"
    assert values["15"]["validation MSE per pixel, PCA"] == "0.2"
    without = {run: {name: one[name] for name in one if "fd" not in name} for run, one in measured.items()}
    assert len(consequences_figure(results, without, results[0], "knee", pca).axes) == 3, "no judges, no classes"


def test_a_champion_of_other_judges_is_measured_again_by_todays(tiny: Dataset) -> None:
    model = Autoencoder(3, "conv", (1, 28, 28), channels=(2, 4)).eval()
    judged = JudgedDistance([Judge("mlp", image_shape=(1, 28, 28), classes=10, width=1).eval()], tiny.val.images)
    tags = {"input.judge.weights": "a", "input.second-judge.weights": "b"}
    champion = SimpleNamespace(tags=tags, rebuild=lambda _: model)

    def context(second: str) -> SimpleNamespace:
        inputs = {"judge": SimpleNamespace(weights_digest="a"), "second-judge": SimpleNamespace(weights_digest=second)}
        return SimpleNamespace(inputs=inputs, dataset=tiny, device=torch.device("cpu"))

    assert champions_cost(champion, context("b"), judged) is None, "its own figure holds"  # type: ignore[arg-type]
    again = champions_cost(champion, context("c"), judged)  # type: ignore[arg-type]
    assert again == consequences(model, tiny, judged)["consequences/cost"]


def test_the_judges_that_select_are_inputs_where_there_are_classes(tiny: Dataset) -> None:
    assert AUTOENCODER.on(tiny).inputs == ("judge", "second-judge")
    assert AUTOENCODER.on(replace(tiny, classes=())).inputs == ()
    assert AUTOENCODER.recipe == 2


def test_shown_are_the_first_image_of_each_class_and_without_classes_the_first_ones(tiny: Dataset) -> None:
    shown = Comparison(tiny).shown
    for label, image in enumerate(shown):
        first = (tiny.val.labels == label).nonzero()[0, 0]
        assert torch.equal(image, tiny.val.images[first])
    few = replace(tiny, val=Split(tiny.val.images[:4], tiny.val.labels[:4]), classes=())
    assert torch.equal(Comparison(few).shown, tiny.val.images[:4])
    assert len(Comparison(replace(tiny, classes=())).shown) == IMAGES_SHOWN


def test_principal_components_are_compared_with_at_every_size(tiny: Dataset) -> None:
    val, test = Comparison(tiny).pca
    assert len(val) == len(test) == 100
    assert list(val) == sorted(val, reverse=True)
