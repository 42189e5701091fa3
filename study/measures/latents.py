"""Measures of latents: correlation and effective rank; and the latents that a GAN is trained on."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder
from study.data.dataset import Split
from study.training.loops import apply, eval_mode

NAMED = 3  # coordinates that an error names


def pcc_matrix(latents: Tensor) -> Tensor:
    """Return the Pearson correlations [D, D] of the columns of latents [N, D].

    Raises:
        FloatingPointError: A column is constant or not finite, so that its correlation is undefined.
    """
    centred = (latents - latents.mean(0)).double()
    norms = centred.norm(dim=0)
    bad = (~(norms > 1e-9 * len(latents) ** 0.5)).nonzero().flatten().tolist()
    if bad:
        some = ", ".join(map(str, bad[:NAMED])) + ", ..." * (len(bad) > NAMED)
        raise FloatingPointError(f"PCC is undefined: {len(bad)} latent coordinates ({some}) are constant or not finite")
    unit = centred / norms
    return (unit.T @ unit).clamp(-1, 1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the entries [D * (D - 1)] of a square matrix [D, D] off its diagonal."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


def pcc_noise_floor(count: int, dims: int, draws: int = 5, seed: int = 0) -> float:
    """Return the mean of max |PCC| over draws of `count` samples of `dims` independent N(0, 1) columns."""
    generator = torch.Generator().manual_seed(seed)
    samples = (torch.randn(count, dims, generator=generator) for _ in range(draws))
    return sum(max_abs_pcc(sample) for sample in samples) / draws


def principal_axes(latents: Tensor) -> Tensor:
    """Return the eigenvectors of the covariance of latents [N, D] as orthonormal columns [D, D]."""
    return torch.linalg.eigh(torch.atleast_2d(torch.cov(latents.double().T))).eigenvectors


def rotate_to_principal_axes(model: Autoencoder, images: Tensor) -> Autoencoder:
    """Return a copy of the model with the same reconstructions and uncorrelated latents of these images."""
    rotated = copy.deepcopy(model)
    with eval_mode(rotated):
        rotated.rotate_latents(principal_axes(apply(rotated.encoder, images)))
    return rotated


def effective_rank(latents: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of the centred latents [N, D]: 1 to D.

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", eq. 4.
    """
    singular = torch.linalg.svdvals((latents - latents.mean(0)).double())
    fractions = singular / singular.sum()
    return float(torch.special.entr(fractions).sum().exp())


def max_abs_pcc(latents: Tensor) -> float:
    """Return the largest absolute correlation (`pcc_matrix`) of two columns of latents [N, D]; 0 for one column."""
    found = off_diagonal(pcc_matrix(latents)).abs()
    return float(found.max()) if len(found) else 0.0


def latent_measures(latents: Tensor, rotated: Tensor) -> dict[str, float]:
    """Return the correlation measures of held-out latents [N, D] by name; errors as in `pcc_matrix`.

    Args:
        rotated: The latents in the principal axes of the training latents.
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
    """The latents of a split, standardised for a GAN, and the numbers that restore them."""

    vectors: Tensor  # [N, latent_dim]; standardised: mean 0 and standard deviation 1 in each coordinate
    mean: Tensor  # [latent_dim]
    std: Tensor  # [latent_dim]
    labels: Tensor  # [N]

    @classmethod
    def encode(cls, autoencoder: Autoencoder, split: Split) -> EncodedImages:
        """Return the standardised latents of a split."""
        with eval_mode(autoencoder):
            latents = apply(autoencoder.encoder, split.images)
        mean, std = latents.mean(0), latents.std(0)
        return cls((latents - mean) / std, mean, std, split.labels)

    @property
    def latents(self) -> Tensor:
        """Latents [N, latent_dim] in the autoencoder's own scale."""
        return self.vectors * self.std + self.mean

    def raw(self, autoencoder: Autoencoder) -> EncodedImages:
        """Return the same latents in the scale before the encoder's last BatchNorm, not standardised."""
        norm = autoencoder.encoder[-1]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).sqrt()
        vectors = self.latents * scale + norm.running_mean
        return EncodedImages(vectors, -norm.running_mean / scale, 1 / scale, self.labels)
