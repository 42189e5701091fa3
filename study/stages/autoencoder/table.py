"""The autoencoder study's rows of the final table."""

from __future__ import annotations

from models.autoencoder import ARCHITECTURES
from study.harness.stage import Context, Row
from study.harness.table import with_spread
from study.stages.autoencoder.config import REFERENCE_SIZE
from study.stages.autoencoder.figures import REFERENCE_LOSS, Trained


def rows(context: Context, trained: Trained) -> tuple[Row, ...]:
    """Test loss of each size and architecture, and the best trial's correlation."""
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
        Row("the chosen one, test MSE", f"{best['test/loss']:.4f}", None, f"PCA {best['baseline/pca_loss']:.4f}"),
        Row("the chosen one, max |PCC|", f"{best['latent/max_abs_pcc']:.3f}", None, pcc),
        Row("the chosen one, effective rank", f"{best['latent/effective_rank']:.1f}"),
    )
