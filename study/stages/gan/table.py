"""The GAN stages' rows of the final table, and the table of all generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.engine.search import Result
from study.engine.stage import Context, Row
from study.engine.table import verdict, with_spread
from study.measures.interpolation import Interpolation
from study.measures.judges import PARTS
from study.stages.gan.cells import Cells, distance_sentence, judge_name, weak_judges
from study.stages.gan.collapse import KINDS, collapsed, collapsed_alone, paired_verdict, share_verdict
from study.stages.gan.comparisons import Found
from study.stages.gan.settings import (
    BEST,
    FEW_STEPS,
    KERNEL_DENSITY,
    PAPER_SETTINGS,
    REAL,
    REFERENCE_SETTINGS,
    SMOTE,
    TRAIN_RECONSTRUCTIONS,
    VANILLA_GAN,
)
from tracking.runs import Measured

REPORTED = (
    *("fd", "intra_fd", "precision", "recall", "density", "coverage", "diversity"),
    *("modes", "class_kl", "low_confidence", "nearest"),
)
LATENT = ("two_sample_accuracy", "sliced_wasserstein", "nearest")
KEY_MEASURES = (*(f"{part}/fd" for part in PARTS), f"{PARTS[-1]}/recall", f"{PARTS[-1]}/low_confidence")
COPYING = 0.95
"""The least distance to the nearest training latent, as a share of test latents', that counts as no copying."""


def generator_table(groups: Mapping[str, Sequence[Result]], measured: Measured) -> dict[str, list[str]]:
    """Every measure of every generator and baseline, mean ± standard deviation over seeds, by all judges."""
    table: dict[str, list[str]] = {"generator": [], "seeds": [], "generator steps": []}
    columns = [(part, measure) for part in PARTS for measure in REPORTED] + [("latent", name) for name in LATENT]
    for name, results in groups.items():
        if not results:
            continue
        runs = [measured[result.run_id] for result in results]
        table["generator"].append(name)
        table["seeds"].append(str(len(results)))
        table["generator steps"].append(f"{runs[0]['generator/steps']:.0f}" if "generator/steps" in runs[0] else "-")
        for part, measure in columns:
            form = "{:.0f}" if measure == "modes" else "{:.4f}" if measure == "class_kl" else "{:.3f}"
            cell = with_spread([run[f"{part}/{measure}"] for run in runs], form)
            table.setdefault(f"{part}/{measure}", []).append(cell)
    return table


def rows(context: Context, found: Found, measured: Measured, paths: Mapping[str, Interpolation]) -> tuple[Row, ...]:
    """The best settings by every judge, each beside the floor, the ceiling and the baselines; the claims."""
    cells, rival = Cells(found.groups, measured), found.rival
    held_against = [REAL, TRAIN_RECONSTRUCTIONS, *found.mixtures, KERNEL_DENSITY, SMOTE]

    def quality(figure: str, measure: str, form: str = "{:.3f}", **claim: Any) -> Row:
        ours, reference = cells.cell(BEST, measure, form), cells.cell(REFERENCE_SETTINGS, measure, form)
        its = f"{reference} (its settings)" if reference else None
        key = measure if measure in KEY_MEASURES else None
        return Row(figure, ours or "failed", its, cells.baselines(held_against, measure, form), metric=key, **claim)

    def against_rival(sentence: str, measure: str, form: str = "{:.3f}", **rule: Any) -> dict[str, str]:
        return cells.against(sentence, measure, rival, form, **rule)

    found_rows = weak_judges(context)
    for number, part in enumerate(PARTS):
        judge = judge_name(number)
        sentence = f"The WGAN comes nearer to the test images than {{rival}}, by {judge}"
        found_rows += [
            quality(f"FD, {judge}", f"{part}/fd", **against_rival(sentence, f"{part}/fd")),
            quality(
                f"recall, {judge}",
                f"{part}/recall",
                **against_rival(
                    f"Its recall is at least 0.97 of {{rival}}'s, by {judge}",
                    f"{part}/recall",
                    better="more",
                    factor=0.97,
                ),
            ),
            quality(
                f"low confidence, {judge}",
                f"{part}/low_confidence",
                "{:.1%}",
                **against_rival(
                    f"Fewer of its images than of {{rival}}'s are of no class, by {judge}",
                    f"{part}/low_confidence",
                    "{:.1%}",
                ),
            ),
        ]
    last = PARTS[-1]
    kept = cells.values(BEST, "latent/nearest")
    return (
        *found_rows,
        quality(
            f"FD within a class, {judge_name(len(PARTS) - 1)}",
            f"{last}/intra_fd",
            found=distance_sentence(context, cells, [rival, REAL]),
        ),
        quality(f"diversity within a class, {judge_name(len(PARTS) - 1)}", f"{last}/diversity"),
        quality(
            "latents: two-sample accuracy (50% is perfect)",
            "latent/two_sample_accuracy",
            "{:.1%}",
            **against_rival(
                "Its latents are harder to tell from real ones than {rival}'s",
                "latent/two_sample_accuracy",
                "{:.1%}",
            ),
        ),
        quality("latents: sliced Wasserstein distance (training latents 1)", "latent/sliced_wasserstein"),
        quality(
            "latents: distance to the nearest training latent (test latents 1)",
            "latent/nearest",
            claim=f"In the mean its latents are no nearer to training latents than unseen ones (at least {COPYING})",
            verdict=verdict(kept, COPYING, better="more"),
            rival=f"goal {COPYING}",
        ),
        *_settings_rows(context, cells),
        *_collapse_rows(context, found, measured),
        *_interpolation_rows(context, paths),
    )


def _settings_rows(context: Context, cells: Cells) -> list[Row]:
    """Other settings, by the judge that chose none of them, with the steps that their generators took."""
    measure = f"{PARTS[-1]}/fd"
    names = [FEW_STEPS, REFERENCE_SETTINGS, PAPER_SETTINGS, VANILLA_GAN]
    names += [name for name in cells.groups if name.startswith("best settings, ")]

    def described(name: str) -> str:
        steps = cells.values(name, "generator/steps")
        return f"{cells.cell(name, measure)} ({steps[0]:,.0f} generator steps)" if steps else "failed"

    found = [
        Row(f"FD, judge 3, {name}", described(name), None, f"best settings {described(BEST)}")
        for name in names
        if name in cells.groups and (cells.groups[name] or name == PAPER_SETTINGS)
    ]
    if context.has_reference and cells.values(PAPER_SETTINGS, measure):
        decided = verdict(cells.values(REFERENCE_SETTINGS, measure), cells.values(PAPER_SETTINGS, measure))
        claim = "The reference's settings of the WGAN are better than the WGAN paper's"
        cell = f"paper {cells.cell(PAPER_SETTINGS, measure)}"
        ours = cells.cell(REFERENCE_SETTINGS, measure) or "failed"
        found.append(Row("the reference's settings against the paper's", ours, "better", cell, claim, decided))
    return found


def _collapse_rows(context: Context, found: Found, measured: Measured) -> list[Row]:
    """How many vanilla GANs collapse, of one recipe with several seeds and of random recipes; the WGANs beside them."""
    vanillas, wgans = found.groups.get(VANILLA_GAN, []), found.groups.get(BEST, [])
    asked, rows = context.config.vanilla_seeds, []
    if asked:
        ours, theirs = collapsed(measured, vanillas, asked), collapsed(measured, wgans, context.config.repeats)
        rows.append(Row("collapsed: vanilla GAN, one recipe, several seeds", str(ours), None, f"WGAN {theirs}"))
    if found.recipes:
        by_kind = {kind: [r for r in found.recipes if r.params["kind"] == kind] for kind in KINDS}
        ours, theirs = (collapsed(measured, by_kind[kind]) for kind in KINDS)
        alone = collapsed_alone(found.recipes, measured)
        reference = "collapses" if context.has_reference else None
        figure, ended = "collapsed: vanilla GANs of random recipes", share_verdict(ours, 0.5)
        most, oftener = (
            "Most vanilla GANs collapse, whatever the recipe",
            "A vanilla GAN collapses more often than a WGAN of the same recipe",
        )
        only = [f"{count} recipe{'s' * (count != 1)} with which only they do" for count in alone]
        rows += [
            Row(f"{figure}, most of them", str(ours), reference, f"WGANs {theirs}", most, ended),
            Row(
                f"{figure}, against WGANs",
                f"{ours.k} of {ours.n}; {only[0]}",
                reference,
                f"WGANs {theirs.k} of {theirs.n}; {only[1]}",
                oftener,
                paired_verdict(*alone),
            ),
        ]
    return rows


def _interpolation_rows(context: Context, paths: Mapping[str, Interpolation]) -> list[Row]:
    """A path that jumps has few images of no class: the smoothness and the third classes tell it from a good one."""
    digit = "digit" if context.has_reference else "class"
    ours, arc, latents = (paths[name].measures for name in ("noise linear", "noise spherical", "latents linear"))
    figures = {
        f"interpolation, images that are no {digit}": ("no_class", "{:.1%}"),
        f"interpolation, paths through a third {digit}": ("third_class", "{:.0%}"),
        "interpolation, smoothness (1: equal steps)": ("smoothness", "{:.2f}"),
    }
    found = [
        Row(
            figure,
            f"{form.format(ours[key])} (spherical {form.format(arc[key])})",
            None,
            f"latents {form.format(latents[key])}",
        )
        for figure, (key, form) in figures.items()
    ]
    through_noise, through_latents = (
        paths[name].of_paths["no_class"].tolist() for name in ("noise linear", "latents linear")
    )
    claim = f"On the way through the noise fewer images are no {digit} than on the way through the latents"
    decided = verdict(through_noise, through_latents)
    first = found[0]
    return [Row(first.figure, first.ours, first.reference, first.baseline, claim, decided), *found[1:]]
