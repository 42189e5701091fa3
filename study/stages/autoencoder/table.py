"""The autoencoder study's rows of the final table."""

from __future__ import annotations

from models.autoencoder import ARCHITECTURES
from study.config import REFERENCE_SIZE
from study.engine.stage import Context, Row
from study.engine.table import with_spread
from study.measures.consequences import FD, FEW_LABELS, TOLD_APART
from study.stages.autoencoder.consequences import claims
from study.stages.autoencoder.figures import REFERENCE_LOSS, Trained

FOLLOWS = {
    FD: ("FD of a mixture on its latents (validation)", "{:.2f}"),
    TOLD_APART: ("that mixture told from real latents", "{:.1%}"),
    FEW_LABELS: ("accuracy with 10 labels a class (validation)", "{:.1%}"),
}
"""What the table says of the measures of what follows, with their formats."""


def rows(context: Context, trained: Trained) -> tuple[Row, ...]:
    """Test loss of each size and architecture, the best trial's measures, and what became of the claims."""
    references = context.references(REFERENCE_LOSS)
    groups, measured = trained.groups, trained.measured
    found = []
    for size in context.config.sizes:
        for kind in ARCHITECTURES:
            runs = [measured[result.run_id] for result in groups[kind].get(size, [])]
            if runs:
                reference = references.get(kind) if size == REFERENCE_SIZE else None
                found.append(
                    Row(
                        f"test MSE, latent {size}, {kind}",
                        with_spread([run["test/loss"] for run in runs], "{:.4f}"),
                        None if reference is None else f"{reference:.2f}",
                        f"PCA {runs[0]['baseline/pca_loss']:.4f}",
                    )
                )
    for result in trained.penalised:
        run = measured[result.run_id]
        found.append(
            Row(
                f"test MSE, covariance penalty {result.params['covariance_weight']:g}",
                f"{run['test/loss']:.4f}",
                None,
                f"max |PCC| {run['latent/max_abs_pcc']:.3f}, rank {run['latent/effective_rank']:.1f}",
            )
        )
    best = measured[trained.best.run_id]
    pcc = f"rotated {best['latent/max_abs_pcc_rotated']:.3f}, floor {best['latent/pcc_noise_floor']:.3f}"
    return (
        *found,
        Row(
            "the chosen one, test MSE",
            f"{best['test/loss']:.4f}",
            None,
            f"PCA {best['baseline/pca_loss']:.4f}",
            metric="test/loss",
            found=f"{trained.best.params['latent_dim']} numbers describe an image up to an error (MSE per pixel) of "
            f"{best['test/loss']:.4f}; as many principal components up to {best['baseline/pca_loss']:.4f}",
        ),
        Row("the chosen one, max |PCC|", f"{best['latent/max_abs_pcc']:.3f}", None, pcc, metric="latent/max_abs_pcc"),
        Row("the chosen one, effective rank", f"{best['latent/effective_rank']:.1f}"),
        *(
            Row(f"the chosen one, {what}", form.format(best[name]), metric=name)
            for name, (what, form) in FOLLOWS.items()
            if name in best
        ),
        *claims(trained.results, measured, reference=context.has_reference),
    )
