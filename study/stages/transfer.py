"""The transfer stage: what a trained encoder is worth with few labels, frozen, fine-tuned, or not trained at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import torch
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.classifier import TransferClassifier
from study import metrics
from study.data import Split, to_float, to_pixels
from study.search import Result, Search, Trial, choice, integer
from study.stage import Context, Outcome, Row, settings_of
from study.training import apply, eval_mode, train_classifier
from tracking import figures
from tracking.runs import trial_metrics

MODES = ("frozen", "fine-tuned", "from scratch")
REFERENCE_ACCURACY = {"frozen": 0.40, "fine-tuned": 0.80}
LEARNING_RATES = {"frozen": 5e-3, "fine-tuned": 3e-3, "from scratch": 5e-3}  # peaks of the one-cycle schedule
BATCH_SIZE = 20
EVALUATE_EVERY = 10  # epochs
SHOWN = 40


def run(context: Context) -> Outcome:
    """Train an MLP on the encoder with a few labels of each class; figures are means over the draws of these labels.

    The recipe is fixed. Of the draws and modes, the classifier with the best validation accuracy is registered.
    """
    config, data = context.config.transfer, context.dataset
    version = context.input("autoencoder")
    module = version.config()["module"] | {"hidden": config.hidden}
    trained_encoder = context.rebuild(version, Autoencoder).encoder.state_dict()
    description = "Encoder and a small MLP on a few labels: the encoder frozen, fine-tuned, or trained from scratch."

    def objective(trial: Trial) -> tuple[float, ...]:
        mode = trial.params["mode"]
        recipe = {"learning_rate": LEARNING_RATES[mode], "batch_size": BATCH_SIZE}
        trial.run.log_params(settings_of(config, "draws") | recipe)
        labelled = draw_labelled(data.train, config.labels_per_class, context.config.seed + trial.params["draw"])
        classifier = TransferClassifier(**module).to(context.device)
        encoder = classifier.encoder
        if mode != "from scratch":
            encoder.load_state_dict(trained_encoder)
        # A trained encoder keeps its BatchNorm statistics, which are those of all the training images.
        classifier.train(mode == "from scratch")
        frozen = mode == "frozen"
        encoder.requires_grad_(not frozen)

        def report(epoch: int, losses: Mapping[str, float]) -> None:
            if epoch % EVALUATE_EVERY == 0 or epoch == config.epochs:
                losses = {**losses, **_measure(classifier, data.val, "val")}
            trial.report(epoch, losses)

        train_classifier(
            classifier,
            classifier.head if frozen else classifier,
            labelled,
            config.epochs,
            BATCH_SIZE,
            LEARNING_RATES[mode],
            not frozen,  # jitter gains nothing with a frozen encoder, see docs/log.md
            report,
        )
        with eval_mode(encoder):
            latents = apply(encoder, data.val.images)
        final = _measure(classifier, data.test, "test")
        final |= {"latent/max_abs_pcc": float(metrics.off_diagonal(metrics.pcc_matrix(latents)).abs().max())}
        if frozen:
            final["baseline/raw_pixels_accuracy"] = raw_pixels_accuracy(labelled, data.test)
        trial.run.log(final, step=config.epochs)
        _log_pictures(trial, classifier, data.test, mode)
        study.log_model(
            classifier,
            to_float(data.val.images[:2]),
            {"module": module, "mode": mode, "draw": trial.params["draw"]},
        )
        return (trial.history["val/accuracy"][1][-1],)

    search = Search(
        {"val/accuracy": "maximize"},
        {"mode": choice(*MODES), "draw": integer(0, config.draws - 1)},
        fixed=[{"mode": mode, "draw": draw} for draw in range(config.draws) for mode in MODES],
    )
    settings = settings_of(config, "draws") | {"learning_rates": LEARNING_RATES, "batch_size": BATCH_SIZE}
    with context.study("transfer", description, settings, {"autoencoder": version}) as study:
        results = [r for r in study.search(search, objective) if r.params["draw"] < config.draws]
        encoders = [result for result in results if result.params["mode"] != "from scratch"]
        best = max(encoders, key=lambda result: result.values[0])
        champion = study.promote(best, "classifier", "val/accuracy", "maximize", description).champion
        rows = _rows(results, trial_metrics(study.parent), context.references(REFERENCE_ACCURACY))
    return Outcome("transfer", champion, rows)


def draw_labelled(train: Split, per_class: int, seed: int) -> Split:
    """`per_class` images of each class, drawn at random.

    Raises:
        ValueError: A class has fewer images than that.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).to(train.labels.device)
    chosen = [order[train.labels[order] == digit][:per_class] for digit in range(10)]
    if min(map(len, chosen)) < per_class:
        raise ValueError(f"`labels_per_class <= images of each class` must hold, but got {per_class}")
    index = torch.cat(chosen)
    return Split(train.images[index], train.labels[index])


def raw_pixels_accuracy(labelled: Split, test: Split) -> float:
    """Test accuracy of scikit-learn's RBF support vector machine on the pixels: what these labels give without us."""
    from sklearn.svm import SVC

    pixels = [to_float(split.images).flatten(1).cpu().numpy() for split in (labelled, test)]
    machine = SVC(C=10.0).fit(pixels[0], labelled.labels.cpu().numpy())
    return float(machine.score(pixels[1], test.labels.cpu().numpy()))


def _measure(classifier: TransferClassifier, split: Split, name: str) -> dict[str, float]:
    with eval_mode(classifier):
        logits = apply(classifier, split.images)
    return {
        f"{name}/loss": float(F.cross_entropy(logits, split.labels)),
        f"{name}/accuracy": float((logits.argmax(1) == split.labels).float().mean()),
    }


def _log_pictures(trial: Trial, classifier: TransferClassifier, test: Split, mode: str) -> None:
    for quantity, label in (("loss", "cross entropy"), ("accuracy", "accuracy")):
        series = {name: trial.history[f"{name}/{quantity}"] for name in ("train", "val")}
        title = f"Transfer, encoder {mode}, draw {trial.params['draw']}"
        trial.run.log_figure(quantity, figures.curves(series, "epoch", label, title))
    images = test.images[:SHOWN]
    with eval_mode(classifier):
        guesses = classifier(to_float(images)).argmax(1)
    captions = [
        f"{guess}" if guess == label else f"{guess}, not {label}"
        for guess, label in zip(guesses.tolist(), test.labels[:SHOWN].tolist(), strict=True)
    ]
    pixels = to_pixels(images)
    title = f"Test images and the classifier's guesses, encoder {mode}"
    trial.run.log_figure("guesses", figures.labelled_grid(pixels, [""] * (SHOWN // 10), title, captions))
    trial.run.log_image("guesses", figures.grid(pixels, 10), step=0)


def _rows(
    results: Sequence[Result], measured: Mapping[str, Mapping[str, float]], references: Mapping[str, float]
) -> tuple[Row, ...]:
    def spread(metric: str, mode: str) -> str:
        runs = [measured[result.run_id] for result in results if result.params["mode"] == mode]
        values = [run[metric] for run in runs]
        return f"{mean(values):.1%} ± {stdev(values):.1%}" if len(values) > 1 else f"{values[0]:.1%}"

    raw = f"raw pixels, SVM {spread('baseline/raw_pixels_accuracy', 'frozen')}"
    return tuple(
        Row(
            f"test accuracy, encoder {mode}",
            spread("test/accuracy", mode),
            f"{references[mode]:.0%}" if mode in references else None,
            raw if mode == "frozen" else None,
        )
        for mode in MODES
    )
