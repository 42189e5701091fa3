"""Figures of the attention stage, on its parent run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from models.attention import Places, offsets
from models.attention_forms import conv_as_attention
from models.autoencoder import Autoencoder
from study import plots
from study.data.dataset import to_pixels
from study.engine.search import Result
from study.engine.study import Study
from study.measures.attention import tail
from study.stages.attention.exact import FOUND, Found, first_convolution
from study.stages.attention.searches import (
    ALL,
    ATTENTION,
    CONVOLUTION,
    CONVOLUTIONS,
    HEADS,
    LINEAR,
    MAIN,
    MIRROR,
    RESTRICTED,
    Main,
)
from study.stages.attention.trial import MAPS, OUTPUTS, SHOWN, maps_of
from tracking.runs import Measured, Run

QUERY, LOOKED_AT = (0, 114, 178), (213, 94, 0)  # blue, vermilion: of the query, and of what its head looks at
NEAR, ENLARGED = 7, 2  # pixels around the query that are shown, and how much larger
SMALLEST = 1e-20  # what a logarithmic axis shows of an error of 0
Learned = Mapping[str, Sequence[Result]]


def kept(study: Study, result: Result, name: str) -> Found:
    """What a trial has kept under this name."""
    return Run(result.run_id, study.parent.experiment_id, study.parent.study).read_json(name)


def of_main(results: Sequence[Result], main: Main, window: str | None = None) -> list[Result]:
    """The repeats of a main layer, in order; Optuna's own trials are not among them."""
    wanted: dict[str, object] = {"encoding": main.encoding, "content": main.content, "heads": HEADS[-1]}
    wanted |= {} if window is None else {"window": window}
    fixed = [result for result in results if not result.slot.startswith("free ")]
    found = [each for each in fixed if wanted.items() <= each.params.items()]
    return sorted(found, key=lambda result: result.params["repeat"])


def of_learner(results: Sequence[Result], learner: str) -> list[Result]:
    return sorted((r for r in results if r.params["learner"] == learner), key=lambda result: result.params["repeat"])


def log_figures(study: Study, exact: Result, learned: Learned, measured: Measured) -> None:
    """Log all figures: of the exact forms, then of what is learned."""
    found = kept(study, exact, FOUND)
    _log_alpha(study, found)
    _log_first_layer(study)
    _log_learned(study, learned[CONVOLUTION], measured)
    _log_heads(study, learned[CONVOLUTION])
    _log_mirror(study, learned[MIRROR])
    _log_linear(study, learned[LINEAR], measured)


def _log_alpha(study: Study, found: Found) -> None:
    alphas = found["alphas"]
    series = {
        f"largest error, {name}": (alphas, [max(error, SMALLEST) for error in errors])
        for name, errors in found["alpha_errors"].items()
    }
    series["predicted: 4 exp(-alpha)"] = (alphas, list(map(tail, alphas)))
    title = "A random 3x3 convolution as self-attention of 9 heads:\nits error falls with the sharpness alpha"
    figure = plots.curves(series, "sharpness alpha", "largest error of an output", title, log_y=True, markers=True)
    caption = (
        "Each head looks at one offset of the kernel; what it sees beside that pixel fades as alpha grows, until only "
        "rounding is left. Inputs and outputs have variance 1. An error of 0 is drawn at 1e-20."
    )
    study.parent.log_figure("sharpness", figure, caption)


def _log_first_layer(study: Study) -> None:
    """Where the heads of the encoder's first layer look on one image."""
    context = study.context
    conv = first_convolution(context.module("autoencoder", Autoencoder)).cpu()
    image = context.dataset.test.images[0].cpu()
    layer = conv_as_attention(conv, image.shape[1:])
    queries = Places.of_conv(conv, image.shape[1:]).queries
    query = _bright_query(image, queries)
    with torch.no_grad():
        weights = layer.weights()[:, query, : image[0].numel()].view(-1, *image.shape[1:]).numpy()
    grey = to_pixels(image[None])[0]
    picture = grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, 2)
    row, column = queries[query].tolist()
    sheet = np.repeat(picture[None], len(weights), 0)
    sheet[:, row, column] = QUERY
    seen = weights[..., None]
    sheet = (sheet * (1 - seen) + np.array(LOOKED_AT) * seen).round().astype(np.uint8)
    top, left = max(0, row - NEAR), max(0, column - NEAR)
    sheet = sheet[:, top : top + 2 * NEAR, left : left + 2 * NEAR].repeat(ENLARGED, 1).repeat(ENLARGED, 2)
    captions = [f"({down:+d}, {right:+d})" for down, right in offsets(conv).tolist()]
    side = conv.kernel_size[0]
    rows = [f"{down:+d} rows" for down in offsets(conv)[::side, 0].tolist()]
    title = f"The encoder's first convolution as {len(sheet)} heads: where each looks (orange) from one pixel (blue)"
    caption = (
        "The heads of one layer on a part of a test image, in the order of the kernel's weights. Blue: the pixel that "
        "asks; orange: the one that has the head's attention, at this offset (rows, columns); at (0, 0) it covers the "
        "blue. Together the heads see what the convolution's kernel sees."
    )
    study.parent.log_figure("first_layer", plots.labelled_grid(sheet, rows, title, captions), caption)


def _bright_query(image: torch.Tensor, queries: torch.Tensor) -> int:
    """The query near the middle of the image whose pixel is bright."""
    height, width = image.shape[1:]
    middle = torch.tensor([height / 2, width / 2])
    values = image.float().mean(0)[queries[:, 0], queries[:, 1]]
    return int((values - 2 * (queries - middle).norm(dim=1)).argmax())


def _log_learned(study: Study, results: Sequence[Result], measured: Measured) -> None:
    points = {
        f"{main.title}, {_window(window)}": [
            (measured[r.run_id]["head/kernel_mass"], measured[r.run_id]["test/error"], "")
            for r in of_main(results, main, window)
        ]
        for main in MAIN
        for window in (ALL, RESTRICTED)
    }
    points["picked by Optuna"] = [
        (measured[r.run_id]["head/kernel_mass"], measured[r.run_id]["test/error"], "")
        for r in results
        if r.slot.startswith("free ")
    ]
    title = (
        "Does attention find the encoder's first convolution?\n(a point is a training; the convolution: lower right)"
    )
    x, y = "share of the attention inside the kernel", "relative error on test images"
    figure = plots.scatter(points, x, y, title, log_y=True)
    caption = (
        "The error is relative to the convolution's outputs: 1 is as bad as giving nothing. A window of 5 keeps each "
        "query's attention within 2 pixels."
    )
    study.parent.log_figure("learned", figure, caption)


def _window(window: str) -> str:
    return "all pixels" if window == ALL else f"window {window}"


def _log_heads(study: Study, results: Sequence[Result]) -> None:
    """Where the trained heads look."""
    context = study.context
    conv = first_convolution(context.module("autoencoder", Autoencoder)).cpu()
    size = context.dataset.image_shape[1:]
    queries = Places.of_conv(conv, size).queries
    with torch.no_grad():
        exact = maps_of(conv_as_attention(conv, size).weights(), queries, size)
    sheets, rows = [exact.numpy()], ["the convolution"]
    for main in MAIN:
        for window in (ALL, RESTRICTED):
            for result in of_main(results, main, window)[:1]:
                sheets.append(np.array(kept(study, result, MAPS), np.uint8))
                rows.append(f"{main.title}, {_window(window)}")
    title = "Where trained heads look from the middle pixel; those of the convolution itself are single dots"
    caption = (
        "First row: the exact form. Then the heads of one training of each main kind of layer, after it has learnt to "
        "imitate the encoder's first convolution. Each square is the image, with the query in its middle; white is the "
        "most attention."
    )
    study.parent.log_figure("heads", plots.labelled_grid(np.concatenate(sheets), rows, title), caption)


def _log_mirror(study: Study, results: Sequence[Result]) -> None:
    images = study.context.dataset.test.images[:SHOWN]
    sheets, rows = [to_pixels(images), to_pixels(images.flip(3))], ["image", "wanted"]
    for learner in (ATTENTION, CONVOLUTIONS):
        for result in of_learner(results, learner)[:1]:
            sheets.append(np.array(kept(study, result, OUTPUTS), np.uint8))
            rows.append(f"{learner}, learned")
    title = "Each pixel is to take the value of its mirror image"
    caption = (
        "One layer of attention with one head against six convolutions with as many parameters, trained alike on the "
        "same images. With given weights, attention is exact."
    )
    study.parent.log_figure("mirror", plots.labelled_grid(np.concatenate(sheets), rows, title), caption)


def _log_linear(study: Study, results: Sequence[Result], measured: Measured) -> None:
    values = {
        f"{main.title}, {name}": float(np.mean([measured[r.run_id][metric] for r in found]))
        for main in MAIN
        if (found := of_main(results, main))
        for name, metric in (("test images", "test/error"), ("noise", "noise/error"))
    }
    title = "A random fully connected layer, imitated by 16 heads of one read-out token"
    figure = plots.bars(values, "relative error (1: as bad as giving nothing)", title)
    caption = "Means over seeds. On noise only a layer that has found the weights is right."
    study.parent.log_figure("fully_connected", figure, caption)
