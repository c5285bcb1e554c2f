"""Networks, schedules and data that the cases share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastgen
from fastgen import schedules

SHAPE = (3, 2, 5)
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
SCHEDULES = {
    "cosine": schedules.CosineVP(),
    "linear": schedules.LinearVP(),
    "rectified": schedules.Rectified(),
    "shifted": schedules.Rectified(3.0),
    "ve": schedules.VE(),
    "edm": schedules.EDM(),
    "subvp": schedules.SubVP(),
    "trig": schedules.Trig(),
    "discrete": schedules.DiscreteVP.scaled_linear(100),
    "squared_cosine": schedules.DiscreteVP.squared_cosine(20),
    "user": schedules.UserSchedule(lambda t: 1 - t * t, lambda t: t * (2 - t)),
}
PREDICTS = ("noise", "data", "velocity", "v", "score", "edm")


def squash(y: Tensor) -> Tensor:
    """A smooth bounded function of sums, products, quotients and square roots."""
    return y / (1 + y * y).sqrt()


def rows(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def network(x: Tensor, t: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Elementwise; ``shift`` is a number, or one for each row."""
    shift = rows(shift, x) if isinstance(shift, Tensor) else shift
    return 0.8 * squash(1.5 * x + rows(t, x) + shift) + 0.1 * x


def two_times(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return network(x, t) - 0.3 * squash(rows(s, x) * x)


def learned(x: Tensor, t: Tensor) -> Tensor:
    """A prediction and the raw logarithm of a variance, [B, 2 C, ...]."""
    y = network(x, t)
    return torch.cat([y, squash(y + 0.3)], 1)


def velocity_and_score(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return network(x, t), -network(x, 1 - t)


class Module(nn.Module):
    """The network with parameters."""

    def __init__(self, dtype: torch.dtype = F32) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5, dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(0.25, dtype=dtype))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        y = self.gain * x + rows(t, x) + self.bias
        if labels is not None:
            y = y + 0.1 * rows(labels, x)
        return 0.8 * squash(y) + 0.1 * x


def model(schedule: str, predicts: str, net=network, **options) -> fastgen.Model:
    return fastgen.Model(net, SCHEDULES[schedule], predicts, **options)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F32) -> Tensor:
    """Independent of the package's own noise, which is tested too."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)


def clouds(n: int, m: int, d: int, dtype: torch.dtype = F32, seed: int = 0) -> tuple[Tensor, ...]:
    return normal(n, d, seed=seed, dtype=dtype), 2 * normal(m, d, seed=seed + 1, dtype=dtype) + 1
