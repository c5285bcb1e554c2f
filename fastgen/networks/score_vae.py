"""A VAE and a network of its latents, in one module that a trainer trains."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgen.networks.network import Network, from_config, register, to_config
from fastgen.networks.vae import VAE


@register
class ScoreVAE(Network):
    """A VAE whose prior is a score model: net(z, t, labels=None) is the prior's prediction.

    Vahdat et al. 2021 (LSGM, arXiv 2106.05931).

    Args:
        vae: of the data, or its configuration.
        prior: a network of latents, or its configuration.
    """

    def __init__(self, vae: VAE | dict[str, Any], prior: Network | dict[str, Any]) -> None:
        super().__init__()
        self.vae = VAE(**vae) if isinstance(vae, dict) else vae
        self.prior = from_config(prior) if isinstance(prior, dict) else prior
        self.config = {"vae": dict(self.vae.config), "prior": to_config(self.prior)}
        self.classes = self.prior.classes

    def forward(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prior's prediction at latents z [B, ...] and times t [B]."""
        found: Tensor = self.prior(z, t, labels=labels)
        return found
