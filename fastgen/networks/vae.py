"""A small variational autoencoder of signals and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgen.common.checks import check_at_least
from fastgen.common.display import displayed
from fastgen.networks.unet import CONVOLUTIONS, GROUPS


@displayed
class Posterior(NamedTuple):
    """q(z | x) = N(mean, exp(log_variance)), both [B, ...]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + exp(log_variance / 2) noise, differentiable in both."""
        return self.mean + (self.log_variance / 2).exp() * noise


@displayed
class Reconstruction(NamedTuple):
    """What a VAE makes of x: the decoder's mean [B, ...], the posterior, and the latent drawn."""

    output: Tensor
    posterior: Posterior
    latent: Tensor


class VAE(nn.Module):
    """Convolutions down to [B, latent, ...] and back, a Gaussian posterior between them.

    Kingma and Welling 2014 (arXiv 1312.6114); as the first stage of a latent model, Rombach et al.
    2022 (2112.10752).

    channels: of the data. latent: channels of the latent. width: channels at full resolution.
    multipliers: of the width, one for each resolution; every one after the first has half the
    lengths of the one before. dims: 1 for signals [B, C, L], 2 for images [B, C, H, W].
    """

    def __init__(
        self,
        channels: int = 1,
        latent: int = 4,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise ValueError(f"dims={dims!r}: expected 1 or 2")
        check_at_least("latent", latent, 1)
        check_at_least("width", width, 1)
        if not multipliers:
            raise ValueError("multipliers: expected at least one")
        self.config: dict[str, Any] = {
            "channels": channels,
            "latent": latent,
            "width": width,
            "multipliers": list(multipliers),
            "dims": dims,
        }
        self.dims, self.factor = dims, 2 ** (len(multipliers) - 1)
        convolution = CONVOLUTIONS[dims]
        widths = [width * m for m in multipliers]
        down: list[nn.Module] = [convolution(channels, widths[0], 3, 1, 1)]
        up: list[nn.Module] = [convolution(latent, widths[-1], 3, 1, 1)]
        for a, b in pairwise(widths):
            down += [_Block(dims, a), convolution(a, b, 3, 2, 1)]
        for a, b in pairwise(reversed(widths)):
            up += [_Block(dims, a), nn.Upsample(scale_factor=2.0), convolution(a, b, 3, 1, 1)]
        down += [_Block(dims, widths[-1]), nn.SiLU(), convolution(widths[-1], 2 * latent, 1)]
        up += [_Block(dims, widths[0]), nn.SiLU(), convolution(widths[0], channels, 3, 1, 1)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)

    def encode(self, x: Tensor) -> Posterior:
        """q(z | x) of x [B, channels, ...]; its log variances lie in (-20, 10).

        Raises:
            ValueError: for lengths that cannot be halved so often.
        """
        if x.ndim != 2 + self.dims or any(n % self.factor for n in x.shape[2:]):
            raise ValueError(
                f"x: expected [B, C, {self.dims} lengths that are multiples of {self.factor}], got "
                f"{tuple(x.shape)}"
            )
        mean, raw = self.encoder(x).chunk(2, 1)
        return Posterior(mean, 15 * torch.tanh(raw / 15) - 5)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), [B, channels, ...], of z [B, latent, ...]."""
        output: Tensor = self.decoder(z)
        return output

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """The reconstruction of x through a drawn latent (its mean for noise=None)."""
        posterior = self.encode(x)
        latent = posterior.mean if noise is None else posterior.sample(noise)
        return Reconstruction(self.decode(latent), posterior, latent)

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """That of one sample's latent, for one sample's shape (channels, ...)."""
        return (int(self.config["latent"]), *(n // self.factor for n in shape[1:]))


class _Block(nn.Module):
    """Two convolutions, added to the input."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        convolution, groups = CONVOLUTIONS[dims], math.gcd(GROUPS, channels)
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            convolution(channels, channels, 3, 1, 1),
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            convolution(channels, channels, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, ...]."""
        result: Tensor = x + self.layers(x)
        return result
