"""The attention stage: the exact copy of the encoder, attention that learns a convolution, and what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.attention import AttentionAutoencoder, LearnedAttention, PositionalAttention, conv_as_attention, positions
from models.autoencoder import Autoencoder
from models.classifier import Judge
from study import plots
from study.data.dataset import to_float, to_pixels
from study.engine.stage import Context
from study.engine.trial import Trial
from study.measures import attention as measures
from study.measures.latents import max_abs_pcc
from study.results import MSE_MARGIN, Row, Table, compared
from study.training.attention import imitate, imitation_of
from study.training.loops import apply, eval_mode
from tracking.models import kept_model
from tracking.runs import Run

OBJECTIVE = "val/error"
HEADS = LEARNED, FIXED = "learned", "fixed"  # whether a trial trains where its heads look, or their values alone
TYPES = {"float32": torch.float32, "float64": torch.float64}
SHOWN, TEST_IMAGES = 10, 1000
ALPHAS = (1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 46)
DRAWS = 5  # random layers and noise images
GOALS = {"float32": 1e-5, "float64": 1e-10}
LOSS_GOAL = 1e-6  # relative
MOST_SHARED = 0.01  # of the squared weights of an FC layer
SMALLEST = 1e-20  # what a logarithmic axis shows of an error of 0
MAP_SIDE = 28  # pixels of a head's map, at most


def copy_encoder(trial: Trial, *, context: Context) -> tuple[float]:
    """Make, measure and log the autoencoder with self-attention as its encoder. Return `val/loss`."""
    data, alpha, version = context.dataset, trial.params["alpha"], context.inputs["autoencoder"]
    original, module = context.module("autoencoder", Autoencoder), version.config()["module"]
    copy = AttentionAutoencoder(original, alpha=alpha, **module).eval()
    judge = context.module("judge", Judge) if "judge" in context.inputs else None
    metrics = {"val/loss": measures.compare(original, copy, data.val.images, dtype=torch.float32)["copy_loss"]}
    for name, dtype in TYPES.items():
        found = measures.compare(original, copy, data.test.images, dtype=dtype, judge=judge)
        loss, copy_loss = found.pop("loss"), found.pop("copy_loss")
        metrics |= {f"test/{measure}_{name}": value for measure, value in found.items()}
        metrics[f"test/loss_change_{name}"] = abs(copy_loss - loss) / loss
        if name == "float32":
            metrics |= {"test/loss": copy_loss, "test/loss_of_original": loss}
    with eval_mode(copy):
        latents = apply(copy.encoder, data.val.images)
        samples = copy(to_float(data.val.images[:SHOWN]))
    trial.log({**metrics, "latent/max_abs_pcc": max_abs_pcc(latents)})
    pairs = torch.cat([to_float(data.val.images[:SHOWN]), samples])
    trial.log_image("samples", plots.grid(to_pixels(pairs), SHOWN), step=0)
    trial.log_model(copy, to_float(data.val.images[:2]), {"module": {**module, "alpha": alpha}, "copy_of": version.uri})
    return (metrics["val/loss"],)


def first_convolution(model: Autoencoder) -> nn.Conv2d:
    """Return the encoder's first convolution, which is not trained."""
    return next(layer for layer in model.encoder if isinstance(layer, nn.Conv2d)).requires_grad_(False)


def learn_convolution(trial: Trial, *, context: Context, conv: nn.Conv2d) -> tuple[float]:
    """Train and log attention that imitates the convolution (Cordonnier et al. 2020, section 3). Return `val/error`.

    The rival's heads stay where they begin to look; only their values are trained.
    """
    settings, data = context.settings, context.dataset
    module = imitation_of(conv, data.image_shape[1:], learn_positions=trial.params["heads"] == LEARNED)
    layer = LearnedAttention(**module).to(context.device)
    imitate(layer, conv, data.train.images[: settings.images], settings.epochs, trial.report)
    noise = measures.noise_like(data.test.images, context.seed_for(0))
    images = {"val": data.val.images[:TEST_IMAGES], "test": data.test.images[:TEST_IMAGES], "noise": noise}
    found = {f"{name}/error": measures.relative_error(layer, conv, part) for name, part in images.items()}
    trial.log({**found, "head/centre_distance": measures.centre_distance(layer, conv)})
    trial.log_model(layer, to_float(data.val.images[:2]), {"module": module})
    return (found[OBJECTIVE],)


class Check(NamedTuple):
    """An identity or a bound that must hold: the largest error that was found, and the largest that is allowed."""

    identity: str
    error: float
    goal: float

    @property
    def exact(self) -> bool:
        return self.error <= self.goal  # not if it is nan


def log_outcome(parent: Run, context: Context, conv: nn.Conv2d, table: Table) -> list[Row]:
    """Measure the exact forms, log tables and figures, and return the rows."""
    images, first = context.dataset.test.images, context.seed_for(0)
    noises = {seed: measures.noise_like(images, seed) for seed in range(first, first + DRAWS)}
    draws = [{**measures.border_errors(conv, noise), **measures.linear_errors(seed)} for seed, noise in noises.items()]
    (copy,) = (trial.metrics for trial in table.where(part="exact"))
    checks = identities(copy, draws)
    errors, goals = [f"{each.error:.1e}" for each in checks], [f"{each.goal:.0e}" for each in checks]
    parent.log_table("exact", {"identity": [each.identity for each in checks], "largest error": errors, "goal": goals})
    _log_sharpness(parent, {name: measures.alpha_errors(ALPHAS, dtype, first) for name, dtype in TYPES.items()})
    _log_heads(parent, context, conv, table)
    return rows(checks, copy, table, draws, shared_of(context.module("autoencoder", Autoencoder).encoder))


def identities(copy: Mapping[str, float], draws: Sequence[Mapping[str, float]]) -> list[Check]:
    """Return the checks of the encoder as attention, and of single layers over all draws."""
    found = []
    for name, goal in GOALS.items():
        found.append(Check(f"encoder: same reconstructions, {name}", copy[f"test/difference_{name}"], goal))
        found.append(Check(f"encoder: same test MSE, {name}", copy[f"test/loss_change_{name}"], LOSS_GOAL))
        if f"test/decisions_{name}" in copy:
            found.append(Check(f"encoder: classes seen otherwise, {name}", copy[f"test/decisions_{name}"], 0))
    single, double = GOALS.values()
    layers = {
        "inside": ("convolution, inside the image", single),
        "ring": ("zero-padded convolution, with a ring of zeros", single),
        "by_pixel": ("FC 784 -> 10, one head per pixel", double),
        "by_rank": ("FC 784 -> 10, rank + 1 heads", double),
        "to_image": ("FC 784 -> 784, two heads and a zero-valued token", double),
        "constant": ("without that token a constant image stays constant", double),
        "shared": ("squared weights of an FC layer that window 0 holds", MOST_SHARED),
    }
    for key, (identity, goal) in layers.items():
        found.append(Check(identity, float(np.max([each[key] for each in draws])), goal))
    return found


@torch.no_grad()
def shared_of(encoder: nn.Sequential) -> dict[str, float]:
    """Return the fraction of each FC layer's squared weights that a 1x1 convolution with a sum holds, by shape.

    The layer's input is one channel, as the reference has it. A convolution as large as its input counts as FC.
    """
    layers = [layer for layer in encoder if isinstance(layer, (nn.Linear, nn.Conv2d))]
    full = [layer for layer in layers if isinstance(layer, nn.Linear) or layer.stride == (1, 1)]
    weights = [layer.weight.flatten(1) for layer in full]
    return {f"{weight.shape[1]} -> {len(weight)}": measures.shared_fraction(weight[:, None]) for weight in weights}


def rows(
    checks: Sequence[Check],
    copy: Mapping[str, float],
    table: Table,
    draws: Sequence[Mapping[str, float]],
    shared: Mapping[str, float],
) -> list[Row]:
    """Return the rows: the checks, what stands beside them, and the claim about attention that learns.

    Args:
        shared: Of the encoder's FC layers.
    """
    wrong = [f"{each.identity}: {each.error:.1e}" for each in checks if not each.exact]
    exact = f"{len(checks) - len(wrong)} of {len(checks)} exact"
    bare, ring, held = ([each[name] for each in draws] for name in ("border", "ring", "shared"))
    layers = "; ".join(f"our {name}: {fraction:.2%}" for name, fraction in shared.items())
    border = "zero-padded convolution with a ring: largest border error"

    def learned(figure: str, metric: str, form: str = "{:.1%}", text: str = "") -> Row:
        ours, fixed = (table.values(metric, heads=heads) for heads in HEADS)
        return compared(figure, ours, {"fixed heads": fixed}, form, text=text, within=MSE_MARGIN)

    better = "Heads that learn where to look imitate a convolution better than heads that do not"
    original, loss = [copy["test/loss_of_original"]], "test/loss"
    return [
        Row("layers and encoder as attention", exact, None, "; ".join(wrong) or None, found=f"As attention, {exact}"),
        compared(
            "test MSE (float32), encoder as attention", [copy[loss]], {"autoencoder": original}, "{:.6g}", metric=loss
        ),
        compared(border, ring, {"without": bare}, "{:.1e}"),
        compared(f"squared weights of an FC layer, window 0 ({layers})", held, {}, "{:.2%}", goal=MOST_SHARED),
        learned("first convolution, learned: relative error", "test/error", text=better),
        learned("... on noise", "noise/error"),
        learned("... heads to a one-to-one grid of offsets, pixels", "head/centre_distance", "{:.2f}"),
    ]


def _log_sharpness(parent: Run, errors: Mapping[str, Sequence[float]]) -> None:
    series = {f"largest error, {name}": (ALPHAS, np.maximum(each, SMALLEST).tolist()) for name, each in errors.items()}
    series["predicted: 4 exp(-alpha)"] = (ALPHAS, list(map(measures.tail, ALPHAS)))
    title = "A random 3x3 convolution as self-attention of 9 heads:\nits error falls with the sharpness alpha"
    caption = (
        "Each head looks at one offset of the kernel; the attention beside that pixel fades as alpha grows, until only "
        "rounding is left. Inputs and outputs have variance 1. An error of 0 is drawn at 1e-20."
    )
    panel = {"largest error of an output": series}
    figure = plots.curves(panel, "sharpness alpha", title, log_y=True, markers=True)
    parent.log_figure("sharpness", figure, caption)


def _log_heads(parent: Run, context: Context, conv: nn.Conv2d, table: Table) -> None:
    """Draw where heads look: of the convolution itself, and of trained layers, unless they were deleted since."""
    size = context.dataset.image_shape[1:]
    layers: dict[str, PositionalAttention | LearnedAttention] = {"the convolution": conv_as_attention(conv, size)}
    for trial in table.where(heads=HEADS.__contains__, repeat=0):
        stored = kept_model(trial.run_id)
        if stored is None:
            return
        layers[f"{trial.params['heads']} heads"] = stored.rebuild(LearnedAttention).to(context.device)
    queries = positions(conv, size)[0]
    with torch.no_grad():
        sheets = [head_maps(layer.weights().cpu(), queries, size) for layer in layers.values()]
    title = "Where heads look from the middle pixel; the heads of the convolution itself look at single pixels"
    caption = (
        "First row: the exact form. Then the heads of attention after it has learned to imitate the encoder's first "
        "convolution, and of its rival, whose heads look where they looked before training. Each square is the image "
        "with the query in its middle; white is the most attention."
    )
    parent.log_figure("heads", plots.labelled_grid(np.concatenate(sheets), list(layers), title), caption)


def head_maps(weights: Tensor, queries: Tensor, size: Sequence[int]) -> np.ndarray:
    """Return where each head of the query in the middle looks, uint8 [heads, side, side], white at the most attention.

    Args:
        weights: [heads, Q, K], the pixels first.
        queries: Their positions [Q, 2].
        size: Height and width of the image.
    """
    height, width = size
    query = int((queries - queries.new_tensor([height // 2, width // 2])).float().norm(dim=1).argmin())
    maps = weights[:, query, : height * width].view(-1, height, width)
    top, left = (max(0, side // 2 - MAP_SIDE // 2) for side in size)
    maps = maps[:, top : top + MAP_SIDE, left : left + MAP_SIDE]
    return (255 * maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)).round().to(torch.uint8).numpy()
