"""Measures of latents: correlation and effective rank; and the latents that a GAN is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder
from study.data.dataset import Split
from study.training.loops import apply, eval_mode


def pcc_matrix(latents: Tensor) -> Tensor:
    """Pearson correlation coefficients [D, D] of the columns of latents [N, D].

    Raises:
        FloatingPointError: A column is constant or not finite, so that its correlation is undefined.
    """
    centred = (latents - latents.mean(0)).double()
    norms = centred.norm(dim=0)
    bad = (~(norms > 1e-9 * len(latents) ** 0.5)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"PCC is undefined: latent coordinates {bad} are constant or not finite")
    unit = centred / norms
    return (unit.T @ unit).clamp(-1, 1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """The entries of a square matrix [D, D] off its diagonal, [D * (D - 1)]."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


def pcc_noise_floor(count: int, dims: int, draws: int = 5, seed: int = 0) -> float:
    """Mean of max |PCC| of `count` samples of `dims` independent N(0, 1) columns: what sampling alone gives."""
    generator = torch.Generator().manual_seed(seed)
    samples = (torch.randn(count, dims, generator=generator) for _ in range(draws))
    return sum(max_abs_pcc(sample) for sample in samples) / draws


def principal_axes(latents: Tensor) -> Tensor:
    """Orthonormal columns [D, D]: the eigenvectors of the covariance of latents [N, D]."""
    return torch.linalg.eigh(torch.atleast_2d(torch.cov(latents.double().T))).eigenvectors


def effective_rank(latents: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred latents [N, D]; 1 to D.

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", eq. 4.
    """
    singular = torch.linalg.svdvals((latents - latents.mean(0)).double())
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def max_abs_pcc(latents: Tensor) -> float:
    """The largest absolute correlation of two columns of latents [N, D]; 0 if there is one column only.

    Raises:
        FloatingPointError: A column is constant or not finite.
    """
    found = off_diagonal(pcc_matrix(latents)).abs()
    return float(found.max()) if len(found) else 0.0


def latent_measures(latents: Tensor, rotated: Tensor) -> dict[str, float]:
    """The correlation measures of held-out latents [N, D], by their names in MLflow.

    Args:
        latents: As the encoder gives them.
        rotated: The same in the principal axes of the training latents.

    Raises:
        FloatingPointError: A column is constant or not finite.
    """
    return {
        "latent/max_abs_pcc": max_abs_pcc(latents),
        "latent/max_abs_pcc_rotated": max_abs_pcc(rotated),
        "latent/mean_abs_pcc": float(off_diagonal(pcc_matrix(latents)).abs().mean()),
        "latent/pcc_noise_floor": pcc_noise_floor(*latents.shape),
        "latent/effective_rank": effective_rank(latents),
    }


@dataclass(frozen=True)
class EncodedImages:
    """The latents of a split as a GAN is trained on them, with what turns them back."""

    vectors: Tensor  # [N, latent_dim]; standardised: mean 0 and standard deviation 1 in each coordinate
    mean: Tensor  # [latent_dim]
    std: Tensor  # [latent_dim]
    labels: Tensor  # [N]

    @classmethod
    def encode(cls, autoencoder: Autoencoder, split: Split) -> EncodedImages:
        """Standardised latents."""
        with eval_mode(autoencoder):
            latents = apply(autoencoder.encoder, split.images)
        mean, std = latents.mean(0), latents.std(0)
        return cls((latents - mean) / std, mean, std, split.labels)

    @property
    def latents(self) -> Tensor:
        """[N, latent_dim], in the autoencoder's own scale."""
        return self.vectors * self.std + self.mean

    def raw(self, autoencoder: Autoencoder) -> EncodedImages:
        """The same latents in the scale that they have before the encoder's last BatchNorm, not standardised."""
        norm = autoencoder.encoder[-1]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).sqrt()
        vectors = self.latents * scale + norm.running_mean
        return EncodedImages(vectors, -norm.running_mean / scale, 1 / scale, self.labels)
