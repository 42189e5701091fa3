"""The attention stage's rows of the final table: the reference's claims, each with what decides it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from study.engine.search import Result
from study.engine.stage import Row, Verdict
from study.engine.study import Study
from study.engine.table import verdict, with_spread
from study.stages.attention.exact import FOUND, Found
from study.stages.attention.figures import Learned, kept, of_learner, of_main
from study.stages.attention.searches import (
    ALL,
    ATTENTION,
    CONVOLUTION,
    CONVOLUTIONS,
    LINEAR,
    MAIN,
    MIRROR,
    RESTRICTED,
)
from tracking.runs import Measured

GOALS = {"float32": 1e-5, "float64": 1e-10}
LOSS_GOAL = 1e-6  # relative
FOUND_GOAL = 0.01  # relative error of a layer that counts as found
WHOLE = 0.99  # share of the squared weights that counts as all


def at_most(figure: str, ours: Sequence[float], goal: float, claim: str) -> Row:
    """A claim that the largest errors, one a draw or a batch, stay below a goal; the largest of them is shown."""
    largest = f"{max(ours):.1e}" if max(ours) else "0"
    return Row(figure, largest, None, f"goal {goal:.0e}", claim, all_within(ours, goal))


def all_within(ours: Sequence[float], goal: float) -> Verdict:
    """Of a claim about every single value: one that is larger refutes it. Undecided if one is NaN, or there is none."""
    if not ours or any(map(isnan, ours)):
        return "undecided"
    return "held" if max(ours) <= goal else "did not hold"


def rows(study: Study, exact: Result, learned: Learned, measured: Measured) -> tuple[Row, ...]:
    """What attention is exactly, what it is not, and what it learns."""
    found = kept(study, exact, FOUND)
    return (
        *_copy(found, len(study.context.dataset.test)),
        *_paddings(found),
        *_linear(found),
        *_more(found, learned[MIRROR], measured),
        *_learned_convolution(learned[CONVOLUTION], measured),
        *_learned_linear(learned[LINEAR], measured),
    )


def _copy(found: Found, images: int) -> list[Row]:
    compared, made = found["compared"], []
    for name, goal in GOALS.items():
        claim = (
            f"Self-attention in place of every convolution and FC layer of the encoder gives the same images ({name})"
        )
        differences = compared[name]["differences"]
        made.append(at_most(f"largest difference of reconstructions, {name}", differences, goal, claim))
    losses = [(each["loss"], each["copy_loss"]) for each in compared.values()]
    relative = [abs(copy - loss) / loss for loss, copy in losses]
    figure = f"test MSE (float32), attention against autoencoder {losses[0][0]:.6g}"
    same = "The test MSE is the same to a millionth of it"
    decided = all_within(relative, LOSS_GOAL)
    cells = (f"{losses[0][1]:.6g}", None, f"{losses[0][0]:.6g}")
    made.append(Row(figure, *cells, same, decided, metric="test/loss"))
    if found["judged"]:
        decisions = [each["decisions"] for each in compared.values()]
        claim = "The classifier sees the same class in every reconstruction"
        figure = f"of {images:,} reconstructions, seen as another class"
        made.append(Row(figure, f"{max(decisions)}", None, "goal 0", claim, all_within(decisions, 0)))
    return made


def _paddings(found: Found) -> list[Row]:
    inside, border, ring = ([each[name] for each in found["borders"]] for name in ("inside", "border", "with_ring"))
    goal, layer = GOALS["float32"], "first convolution as attention"
    return [
        at_most(f"{layer}: largest error inside", inside, goal, "Attention can be a convolution: inside the image"),
        at_most(
            f"{layer}: at the borders", border, goal, "... at its borders too, where the convolution pads with zeros"
        ),
        at_most(
            f"{layer}: with a ring of zeros",
            ring,
            goal,
            "... everywhere, if the keys have a ring of zero-valued tokens",
        ),
    ]


def _linear(found: Found) -> list[Row]:
    linear, goal = found["linear"], GOALS["float64"]
    ours = "; ".join(f"our {name}: {share:.2%}" for name, share in found["shared"].items())
    shared, even, uneven = linear["shared"], linear["even"], linear["uneven"]
    return [
        Row(
            f"squared weights of a random FC layer that it holds ({ours})",
            with_spread(shared, "{:.2%}"),
            None,
            f"goal {WHOLE:.0%}",
            "A fully connected layer is a 1x1 convolution with window 0 and a sum",
            verdict(shared, WHOLE, better="more"),
        ),
        at_most(
            "FC 784 -> 10, one head a pixel: largest error",
            linear["by_pixel"],
            goal,
            "Attention is a fully connected layer with one head a pixel, at one read-out token",
        ),
        at_most(
            f"FC 784 -> 10, {linear['heads']} heads: largest error",
            linear["by_rank"],
            goal,
            "... with as many heads as the rank of the weights and one more",
        ),
        at_most(
            "FC 784 -> 784, two heads and a zero-valued token: largest error",
            linear["to_image"],
            goal,
            "... image to image, with two heads and a zero-valued token",
        ),
        Row(
            "spread of the outputs for a constant image, no zero-valued token",
            f"{max(even):.1e}",
            None,
            f"FC layer {with_spread(uneven, '{:.2f}')}",
            "... image to image, without that token",
            verdict(even, uneven, better="more", factor=WHOLE),
        ),
    ]


def _more(found: Found, results: Sequence[Result], measured: Measured) -> list[Row]:
    claim = "Attention does what no convolution does: each pixel takes the value of its mirror image"
    made = [at_most("mirror image, given weights: largest error", found["mirror"], GOALS["float32"], claim)]
    ours, convolutions = (_values(of_learner(results, each), measured) for each in (ATTENTION, CONVOLUTIONS))
    if ours and convolutions:
        claim = "Attention learns to mirror better than a stack of convolutions with as many parameters"
        made.append(_against("mirror image, learned: relative error", ours, ("convolutions", convolutions), claim))
        noises = [_values(of_learner(results, each), measured, "noise/error") for each in (ATTENTION, CONVOLUTIONS)]
        made.append(_plain("... on noise", noises[0], f"convolutions {with_spread(noises[1], '{:.1%}')}"))
    return made


def _learned_convolution(results: Sequence[Result], measured: Measured) -> list[Row]:
    made = []
    for main in MAIN:
        whole, restricted = (of_main(results, main, window) for window in (ALL, RESTRICTED))
        if not whole or not restricted:
            continue
        error, narrow = _values(whole, measured), _values(restricted, measured)
        title = f"first convolution, {main.title}"
        made.append(
            _against(
                f"{title}: relative error",
                error,
                (f"goal {FOUND_GOAL:.0%}", FOUND_GOAL),
                f"Attention finds a convolution by training ({main.title})",
            )
        )
        made.append(
            _against(
                f"{title}, window 5: relative error",
                narrow,
                ("all pixels", error),
                f"Restricted attention is more like a convolution ({main.title})",
            )
        )
        made += [
            _plain(f"... {name}", _values(restricted, measured, metric), _beside(whole, measured, metric, form), form)
            for name, metric, form in (
                ("inside, on test images", "test/error_inside", "{:.1%}"),
                ("borders, on noise", "noise/error_border", "{:.1%}"),
                ("inside, on noise", "noise/error_inside", "{:.1%}"),
                ("attention inside the kernel", "head/kernel_mass", "{:.1%}"),
                ("heads to a one-to-one grid of offsets, pixels", "head/centre_distance", "{:.2f}"),
            )
        ]
    return made + _picked(results, measured, "first convolution")


def _learned_linear(results: Sequence[Result], measured: Measured) -> list[Row]:
    made = []
    for main in MAIN:
        found = of_main(results, main)
        if found:
            title = f"FC layer, {main.title}: relative error"
            claim = f"Attention finds a fully connected layer by training ({main.title})"
            goal = (f"goal {FOUND_GOAL:.0%}", FOUND_GOAL)
            made.append(_against(title, _values(found, measured), goal, claim))
            made.append(_plain("... on noise", _values(found, measured, "noise/error"), None))
    return made + _picked(results, measured, "FC layer")


def _picked(results: Sequence[Result], measured: Measured, title: str) -> list[Row]:
    """The best of Optuna's own trials."""
    free = [result for result in results if result.slot.startswith("free ")]
    if not free:
        return []
    best = min(free, key=lambda result: result.values[0])
    chosen = {name: value for name, value in best.params.items() if name != "repeat"}
    shown = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return [_plain(f"{title}, best of {len(free)} that Optuna picked ({shown})", _values([best], measured), None)]


def _values(results: Sequence[Result], measured: Measured, metric: str = "test/error") -> list[float]:
    return [measured[result.run_id][metric] for result in results]


def _beside(results: Sequence[Result], measured: Measured, metric: str, form: str) -> str:
    return f"all pixels {with_spread(_values(results, measured, metric), form)}"


def _plain(figure: str, ours: Sequence[float], baseline: str | None, form: str = "{:.1%}") -> Row:
    return Row(figure, with_spread(ours, form), None, baseline)


def _against(figure: str, ours: Sequence[float], rival: tuple[str, Sequence[float] | float], claim: str) -> Row:
    """A claim that the mean of relative errors is on the better side of the rival's, or below a goal."""
    name, against = rival
    beside = name if isinstance(against, float) else f"{name} {with_spread(against, '{:.1%}')}"
    return Row(figure, with_spread(ours, "{:.1%}"), None, beside, claim, verdict(ours, against))
