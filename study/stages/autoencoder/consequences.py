"""What follows from the latents, against their number: one figure, and what became of the claims about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from study import plots
from study.config import REFERENCE_SIZE
from study.engine.stage import Row, Verdict
from study.engine.table import spread, verdict, with_spread
from study.measures.consequences import COST, FD, FEW_LABELS, TOLD_APART, least_cost
from study.stages.autoencoder.choice import Metrics, by_size, knees

if TYPE_CHECKING:
    from study.engine.search import Result

AS_TRAINED, ROTATED, FLOOR = "latent/max_abs_pcc", "latent/max_abs_pcc_rotated", "latent/pcc_noise_floor"
NEAR_FLOOR = 1.5  # times the noise floor, up to which a largest correlation counts as none
SEEDS = 3  # from which on it counts that all agree
PLOT_INCHES = 3.5  # width of each plot of the figure
TOLD, CHOSEN = "mixture told from real latents, %", "chosen"


def consequences_figure(
    results: Sequence[Result], measured: Metrics, best: Result, rule: str, pca: Mapping[int, float]
) -> plots.Figure:
    """Each measure against the latent size, a curve an architecture; without classes those that need no judge.

    Args:
        results: The trials that may become the champion.
        best: The one that was chosen, by this rule.
        pca: Validation loss of as many principal components, by latent size.
    """
    groups = by_size(results)
    kinds = sorted({kind for _, kind in groups})
    sizes = sorted(pca)

    def curves(metric: str, name: str = "{}", factor: float = 1.0, shift: float = 0.0) -> plots.Series:
        found: dict[str, tuple[Sequence[float], ...]] = {}
        for kind in kinds:
            runs = {size: group for (size, each), group in groups.items() if each == kind}
            spreads = [
                spread([shift + factor * measured[one.run_id][metric] for one in group]) for group in runs.values()
            ]
            found[name.format(kind)] = (list(runs), [middle for middle, _ in spreads], [width for _, width in spreads])
        return found

    def chosen(metric: str, factor: float = 1.0, shift: float = 0.0) -> plots.Series:
        return {CHOSEN: ([best.params["latent_dim"]], [shift + factor * measured[best.run_id][metric]])}

    components = {"PCA": (sizes, [pca[size] for size in sizes])}
    panels: dict[str, plots.Series] = {
        "validation MSE per pixel": {**curves("val/loss"), **components, **chosen("val/loss")}
    }
    judged = all(FD in measured[result.run_id] for result in results)
    if judged:
        panels["FD of a Gaussian mixture's images"] = {**curves(FD), **chosen(FD)}
    panels[TOLD] = {**curves(TOLD_APART, factor=100), **chosen(TOLD_APART, 100)}
    if judged:
        panels["error with 10 labels a class, %"] = {
            **curves(FEW_LABELS, factor=-100, shift=100),
            **chosen(FEW_LABELS, -100, 100),
        }
    panels["largest |PCC| of two latents"] = {
        **curves(AS_TRAINED),
        **curves(ROTATED, "{}, rotated"),
        **chosen(AS_TRAINED),
    }
    title = f"What follows from the latent size (lower is better throughout). Chosen: {rule}"
    figure = plots.side_by_side(panels, "latent size", title, references={TOLD: {"cannot be told apart": 50.0}})
    _mark(figure, sizes)
    return figure


def _mark(figure: plots.Figure, sizes: Sequence[int]) -> None:
    """Put the sizes on a log axis, a marker at each, a ring around the chosen one; narrower, for larger letters."""
    shown = plots.apart(sizes)
    figure.set_size_inches(PLOT_INCHES * len(figure.axes), figure.get_figheight())
    for ax in figure.axes:
        ax.set_xscale("log")
        ax.set_xticks(shown, [str(size) for size in shown])
        ax.minorticks_off()
        ax.tick_params(axis="x", labelsize="x-small")
        ax.set_ylim(bottom=48 if ax.get_ylabel() == TOLD else 0)
        legend = ax.get_legend()
        for line in [*ax.lines, *(legend.get_lines() if legend else [])]:
            if line.get_label() == CHOSEN:
                line.set(marker="o", markersize=11, markerfacecolor="none", markeredgecolor="black", linestyle="none")
            elif line.get_marker() in ("", "None") and not str(line.get_label()).startswith("_"):
                line.set_marker("o")


def claims(results: Sequence[Result], measured: Metrics, *, reference: bool) -> list[Row]:
    """The rows of the claims about the latent size.

    Args:
        reference: Whether the reference has a latent size for these data.
    """
    picked = knees(results, measured)
    groups = by_size(results)
    rows = [
        Row(
            f"size at the knee of loss and largest |PCC|, {len(picked)} seed{'s' * (len(picked) > 1)}",
            ", ".join(map(str, picked)),
            str(REFERENCE_SIZE) if reference else None,
            claim="The knee of loss and largest correlation is at the same latent size with every seed",
            verdict=agreement(picked),
        )
    ]
    costs = {
        key: [measured[one.run_id][COST] for one in group if COST in measured[one.run_id]]
        for key, group in groups.items()
    }
    costs = {key: found for key, found in costs.items() if found}
    if costs:
        size, kind = least_cost(costs)
        at_reference = {key: found for key, found in costs.items() if key[0] == REFERENCE_SIZE}
        others = {key: found for key, found in costs.items() if key[0] != REFERENCE_SIZE}
        rows.append(
            Row(
                "size with the least cost, root of mixture's FD x few-label error",
                f"{size}, {kind}",
                str(REFERENCE_SIZE) if reference else None,
            )
        )
        if reference and at_reference and others:
            ours, rival = least_cost(at_reference), least_cost(others)
            rows.append(
                Row(
                    f"that cost, size {REFERENCE_SIZE}, {ours[1]}",
                    with_spread(costs[ours], "{:.3f}"),
                    None,
                    f"size {rival[0]}, {rival[1]} {with_spread(costs[rival], '{:.3f}')}",
                    claim=f"No latent size that was tried costs less than {REFERENCE_SIZE}",
                    verdict=verdict(costs[ours], costs[rival]),
                )
            )
    ratios = {
        metric: [measured[one.run_id][metric] / measured[one.run_id][FLOOR] for one in results]
        for metric in (AS_TRAINED, ROTATED)
    }
    rows.append(
        Row(
            "max |PCC| rotated, over the noise floor, all sizes",
            _range(ratios[ROTATED]),
            None,
            f"as trained {_range(ratios[AS_TRAINED])}",
            claim="The more latents there are, the more they have to correlate",
            verdict=necessity(ratios[ROTATED]),
        )
    )
    return rows


def agreement(picked: Sequence[int]) -> Verdict:
    """Whether all seeds pick the same size: it takes three to say so, and two that differ to deny it."""
    if len(set(picked)) > 1:
        return "did not hold"
    return "held" if len(picked) >= SEEDS else "undecided"


def necessity(ratios: Sequence[float]) -> Verdict:
    """Whether latents have to correlate: not if a rotation, which changes no reconstruction, frees all of them of it;
    they do if it frees none.

    Args:
        ratios: The largest correlation of each model, rotated, over what independent latents have by chance.
    """
    if min(ratios) > NEAR_FLOOR:
        return "held"
    return "did not hold" if max(ratios) <= NEAR_FLOOR else "undecided"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"
