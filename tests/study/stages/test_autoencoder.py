"""The autoencoder study: its objective, its champion, its figures and rows."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from contexts import context_of
from fakes import FakeTrial

from models.autoencoder import ARCHITECTURES
from study.config import AutoencoderConfig
from study.data.dataset import Dataset
from study.results import Result, Row, Table
from study.stages import autoencoder as stage
from study.stages.autoencoder import AUTOENCODER, choose, trial
from study.training.autoencoder import knee_distance
from tracking import registry
from tracking.errors import StoreError


def result(number: int, size: int, loss: float = 0.0, pcc: float = 0.0) -> Result:
    params = {"latent_dim": size, "architecture": "conv", "repeat": 0}
    return Result(number, "", f"trial {number}", params, (loss, pcc), str(number))


def test_a_given_size_takes_the_least_loss_of_that_size_and_without_one_the_knee_decides() -> None:
    # Losses and correlations of the reference's five sizes after four epochs; three components lose 0.052.
    sizes = (3, 10, 15, 20, 100)
    losses, correlations = (0.032, 0.0117, 0.008, 0.0062, 0.0034), (0.04, 0.36, 0.36, 0.41, 0.66)
    pairs = enumerate(zip(losses, correlations, strict=True))
    knees = {str(number): knee_distance(loss, 0.052, pcc) for number, (loss, pcc) in pairs}
    best, metric = choose([result(*each) for each in enumerate(sizes)], knees, None)
    assert (best.params["latent_dim"], metric) == (15, "latent/knee_distance")
    tried = [result(0, 15, 3.0), result(1, 15, 2.0), result(2, 3, 1.0)]
    best, metric = choose(tried, {}, 15)
    assert (best.number, metric) == (1, "val/loss")
    assert AutoencoderConfig(latent_dims=(20, 3), latent_dim=7).sizes == [3, 7, 20], "it is tried too"
    with pytest.raises(StoreError, match="size 16"):
        choose(tried, {}, 16)


def test_a_champion_of_another_size_gives_way(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = SimpleNamespace(metrics={"val/loss": 0.1}, config=lambda: {"module": {"latent_dim": 3}})
    monkeypatch.setattr(registry, "champion_on", lambda *_: champion)
    session = SimpleNamespace(model_name=lambda kind: f"tiny-{kind}")
    assert [stage._differs(context_of(tiny, None, session=session), size) for size in (3, 15)] == [False, True]
    for gone in (SimpleNamespace(metrics={}), None):  # its run was deleted; there is none
        monkeypatch.setattr(registry, "champion_on", lambda *_, gone=gone: gone)
        assert not stage._differs(context_of(tiny, None, session=session), 15)


def test_a_trial_measures_the_model_that_it_logs(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LATENT_DIM_RANGE", (3, 5))  # as many principal components
    torch.manual_seed(0)
    fake = FakeTrial({"latent_dim": 5, "architecture": "conv", "repeat": 0})
    context = context_of(replace(tiny, classes=()), AutoencoderConfig(epochs=2), inputs={})
    values = trial.train(fake, settings=context.settings, comparison=trial.Comparison(context))
    assert values == (fake.metrics["val/loss"], fake.metrics["latent/max_abs_pcc"])
    ((model, _, config),) = fake.models
    assert config["module"] == {"latent_dim": 5, "architecture": "conv", "image_shape": [1, 28, 28]}
    model.eval()
    with torch.no_grad():
        loss = float((model(tiny.test.images / 255) - tiny.test.images / 255).square().mean())
        latents = model.encoder(tiny.val.images / 255).double().numpy()
    assert fake.metrics["test/loss"] == pytest.approx(loss, rel=1e-4)
    largest = (np.abs(np.corrcoef(latents.T)) - np.eye(5)).max()
    assert fake.metrics["latent/max_abs_pcc"] == pytest.approx(largest, abs=1e-4)
    assert fake.metrics["latent/max_abs_pcc_rotated"] < largest
    assert fake.metrics["mixture/two_sample_accuracy"] > 0.4
    assert (AUTOENCODER.on(context.dataset).inputs, "mixture/fd" in fake.metrics) == ((), False), "there are no judges"
    assert 0 < fake.metrics["baseline/pca_loss"] < 0.1
    assert ([step for step, _ in fake.images["reconstructions"]], [*fake.figures]) == ([0, 1, 2], ["reconstructions"])


def measured(repeats: int = 3, sizes: tuple[int, ...] = (3, 15)) -> Table:
    """Trainings whose losses fall and whose correlations grow with the size; FC layers halve the loss."""
    trials = []
    for number, (repeat, size, kind) in enumerate(product(range(repeats), sizes, ARCHITECTURES)):
        loss, pcc = 0.1 / size / (1 + (kind == "conv+fc")) + 0.0001 * repeat, 0.02 * size + 0.001 * repeat
        metrics = {"test/loss": loss, "baseline/pca_loss": 0.2 / size, "mixture/two_sample_accuracy": 0.6}
        latent = {"knee_distance": 1 / size, "max_abs_pcc": pcc, "mean_abs_pcc": pcc / 2, "pcc_noise_floor": 0.04}
        latent |= {"max_abs_pcc_rotated": 0.04 + 0.001 * repeat, "effective_rank": float(size)}
        metrics |= {f"latent/{name}": value for name, value in latent.items()}
        params = {"latent_dim": size, "architecture": kind, "repeat": repeat}
        trials.append(Result(number, "", "", params, (loss, pcc), f"run {number}", metrics))
    return Table(trials)


def rows_of(data: Dataset, table: Table, **options: Any) -> dict[str, Row]:
    given = {"repeats": range(3), "has_reference": True, **options}
    context = context_of(data, AutoencoderConfig(latent_dims=(3, 15)), **given)
    return {row.figure: row for row in trial.rows(context, table, table[-1])}


def test_rows_have_losses_beside_principal_components_and_claims_that_could_fail(tiny: Dataset) -> None:
    found = rows_of(tiny, measured())
    loss = found["test MSE, latent 15, conv+fc"]
    assert (loss.ours, loss.reference, loss.baseline) == ("0.0034 ± 0.0001", "0.01", "conv 0.0068 ± 0.0001, PCA 0.0133")
    assert found["test MSE, latent 3, conv"].reference is None
    assert found["size at the knee of loss and largest |PCC|"].ours == "15"
    verdicts = {row.claim.text.split(",")[0]: row.claim.verdict for row in found.values() if row.claim}
    assert verdicts == {
        "FC layers lower the loss": "supported",
        "The largest correlation grows with the latent size": "supported",
        "Whatever the rotation": "refuted",
    }
    assert found["the champion, test MSE"].ours == "0.0035"
    assert "the champion, FD of a Gaussian mixture on the latents (validation)" not in found, "no judges, no FD"


def test_one_size_and_one_repeat_claim_nothing_certain_and_the_reference_is_cited_on_mnist_alone(tiny: Dataset) -> None:
    found = rows_of(tiny, measured(1, (15,)), has_reference=False)
    assert not any(row.claim for figure, row in found.items() if "FC" in figure or "conv" in figure)
    assert ("max |PCC|, latent 15" in found, {row.reference for row in found.values()}) == (False, {None})
