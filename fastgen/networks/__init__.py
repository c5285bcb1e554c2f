"""Networks small enough to read, called as net(x, t, labels=...)."""

from fastgen.networks.dit import DiT
from fastgen.networks.embedding import Embedding
from fastgen.networks.mlp import MLP, ModulatedMLP
from fastgen.networks.network import (
    Network,
    from_config,
    is_registered,
    names,
    register,
    to_config,
)
from fastgen.networks.score_vae import ScoreVAE
from fastgen.networks.unet import UNet
from fastgen.networks.vae import VAE, Posterior

__all__ = [
    "MLP",
    "VAE",
    "DiT",
    "Embedding",
    "ModulatedMLP",
    "Network",
    "Posterior",
    "ScoreVAE",
    "UNet",
    "from_config",
    "is_registered",
    "names",
    "register",
    "to_config",
]
