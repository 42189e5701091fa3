"""Which trial becomes the champion: by what follows from its latents; and what the reference's rule would choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.engine.search import Result
from study.engine.stage import Context
from study.measures.consequences import COST, JudgedDistance, consequences, least_cost
from tracking.errors import StoreError
from tracking.registry import Version

Metrics = Mapping[str, Mapping[str, float]]
"""The metrics of every trial, by run id."""
JUDGES = ("judge", "second-judge")  # the kinds of model that measure what follows, where the images have classes
KNEE, KNEE_RULE = "latent/knee_distance", "knee, (loss / loss of 3-PCA, max |PCC|) nearest to (0, 0)"
COST_RULE = "least cost, the root of (FD of the mixture x error with 10 labels a class)"


@dataclass(frozen=True)
class Choice:
    """The trial that was chosen, by the least of which metric, and the rule in words."""

    best: Result
    metric: str
    rule: str


def choose(results: Sequence[Result], measured: Metrics, latent_dim: int | None) -> Choice:
    """The champion.

    By what follows from the latents: the latent size and architecture with the least mean `consequences/cost` over its
    trainings, of equal ones the smaller size, and of these trainings the one with the least cost. Where the images have
    no classes, there is no cost: the least knee distance, which lies on the Pareto front. With a latent size given,
    the least validation loss of that size.

    Raises:
        StoreError: No trial of the size that was asked for is complete.
    """
    if latent_dim is not None:
        of_size = [result for result in results if result.params["latent_dim"] == latent_dim]
        if not of_size:
            raise StoreError(f"no trial of latent size {latent_dim} is complete: it failed, see its run")
        best = min(of_size, key=lambda result: result.values[0])
        return Choice(best, "val/loss", f"least loss of size {latent_dim}, as asked for")
    grouped = by_size(results)
    costs = {key: [measured[result.run_id].get(COST) for result in group] for key, group in grouped.items()}
    known = {key: [each for each in found if each is not None] for key, found in costs.items()}
    if not any(known.values()):
        return Choice(min(results, key=lambda result: measured[result.run_id][KNEE]), KNEE, KNEE_RULE)
    group = grouped[least_cost({key: found for key, found in known.items() if found})]
    best = min((each for each in group if COST in measured[each.run_id]), key=lambda each: measured[each.run_id][COST])
    return Choice(best, COST, COST_RULE)


def by_size(results: Sequence[Result]) -> dict[tuple[int, str], list[Result]]:
    """The trainings of each latent size and architecture, the smallest size first."""
    grouped: dict[tuple[int, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: (result.params["latent_dim"], result.params["architecture"])):
        grouped.setdefault((result.params["latent_dim"], result.params["architecture"]), []).append(result)
    return grouped


def knees(results: Sequence[Result], measured: Metrics) -> list[int]:
    """The latent size at the knee of each repeat of the grid: what the reference's rule chooses, seed by seed."""
    repeats: dict[int, list[Result]] = {}
    for result in results:
        if not result.slot.startswith("free"):
            repeats.setdefault(result.params.get("repeat", 0), []).append(result)
    found = [min(group, key=lambda each: measured[each.run_id][KNEE]) for _, group in sorted(repeats.items())]
    return [result.params["latent_dim"] for result in found]


def judges(context: Context) -> Sequence[Judge]:
    """The judges that select; none where the images have no classes."""
    return [context.module(kind, Judge) for kind in JUDGES if kind in context.inputs]


def champions_cost(version: Version, context: Context, distance: JudgedDistance | None) -> float | None:
    """The champion's cost by today's judges, if others measured it; None: its run's figure holds."""
    ours = {kind: context.inputs[kind].weights_digest for kind in JUDGES}
    if all(version.tags.get(f"input.{kind}.weights") == digest for kind, digest in ours.items()):
        return None
    champion = version.rebuild(Autoencoder).to(context.device)
    return consequences(champion, context.dataset, distance).get(COST)
