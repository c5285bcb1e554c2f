"""Networks small enough to read, called as net(x, t, labels=...)."""

from fastgen.networks.dit import DiT
from fastgen.networks.embedding import Embedding, Network, from_config, names, register, to_config
from fastgen.networks.mlp import MLP, ModulatedMLP
from fastgen.networks.unet import UNet

__all__ = [
    "MLP",
    "DiT",
    "Embedding",
    "ModulatedMLP",
    "Network",
    "UNet",
    "from_config",
    "names",
    "register",
    "to_config",
]
