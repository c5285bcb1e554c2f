"""The networks of the benchmarks, of the kinds that samplers meet, with a shape to run them at."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastgen.networks import MLP, DiT, UNet

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 256": (lambda: MLP((2,)), (256, 2)),
    "MLP 65536": (lambda: MLP((2,)), (65536, 2)),
    "policy": (lambda: UNet(14, 64, dims=1), (1, 14, 16)),
    "U-Net": (lambda: UNet(3, 64), (64, 3, 32, 32)),
    "transformer": (lambda: DiT(4, 32, width=192, heads=3), (16, 4, 32, 32)),
}
