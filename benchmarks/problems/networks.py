"""Networks of the kinds that samplers meet, and those of the 2-D experiments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastgen.networks import MLP, DiT, UNet

Sized = tuple[Callable[[], nn.Module], tuple[int, ...]]
# With a shape to run each at: what two cores can do, and what a GPU can.
ON_CPU: dict[str, Sized] = {
    "MLP 2-64": (lambda: MLP((2,)), (256, 2)),
    "MLP 14-256": (lambda: MLP((14,), (256,) * 3), (1, 14)),
    "MLP 784-1024": (lambda: MLP((784,), (1024,) * 3), (64, 784)),
    "U-Net 1-D 64": (lambda: UNet(14, 64, dims=1), (1, 14, 16)),
    "U-Net 32": (lambda: UNet(3, 32), (16, 3, 32, 32)),
    "DiT 128": (lambda: DiT(4, 32), (4, 4, 32, 32)),
}
ON_GPU: dict[str, Sized] = {
    "MLP 256": (lambda: MLP((2,)), (256, 2)),
    "MLP 65536": (lambda: MLP((2,)), (65536, 2)),
    "policy": (lambda: UNet(14, 64, dims=1), (1, 14, 16)),
    "U-Net": (lambda: UNet(3, 64), (64, 3, 32, 32)),
    "transformer": (lambda: DiT(4, 32, width=192, heads=3), (16, 4, 32, 32)),
}


class Outputs:
    """A network that costs nothing: it hands out tensors made beforehand, in turn.

    count: how many; solvers may hold on to some of them.
    """

    def __init__(self, shape: tuple[int, ...], count: int = 8) -> None:
        self.pool = [torch.randn(shape) for _ in range(count)]

    def __call__(self) -> Callable[..., Tensor]:
        """A function of anything that hands them out from the first."""
        outputs = itertools.cycle(self.pool)
        return lambda *_, **__: next(outputs)


class Velocity(nn.Module):
    """A network [64, 64, 64] on the plane, time as a third input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(),
            nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity at x [B, 2], t [B]."""
        found: Tensor = self.layers(torch.cat([x, t[:, None]], 1))
        return found


def trained() -> Velocity:
    """A flow from 8 gaussians to noise after a short training: its trajectories bend."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = Velocity()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(400):
        angle = torch.randint(8, (512,), generator=generator) * (math.pi / 4)
        data = 2 * torch.stack([angle.cos(), angle.sin()], 1)
        data = data + 0.2 * torch.randn(512, 2, generator=generator)
        noise, t = torch.randn(512, 2, generator=generator), torch.rand(512, generator=generator)
        state = (1 - t[:, None]) * data + t[:, None] * noise
        loss = (net(state, t) - (noise - data)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.requires_grad_(False)
