"""Consistency training: neighbouring points of one path have the same end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import (
    check_choice,
    check_floating,
    check_positive,
    check_shape,
    per_row,
)
from fastgen.common.typed import typed
from fastgen.model.model import merged
from fastgen.model.output import called, check_output
from fastgen.noise.keys import training_noise
from fastgen.training.losses.reduction import (
    bridged,
    mean_square,
    padding_of,
    reduced,
    sum_square,
)

METRICS = ("pseudo_huber", "square")


class Boundary(nn.Module):
    """f(x, sigma) = c_skip x + c_out F(c_in x, log(sigma) / 4), which is x at sigma_min.

    c_skip = d^2 / ((sigma - sigma_min)^2 + d^2), c_in = 1 / sqrt(sigma^2 + d^2) and
    c_out = (sigma - sigma_min) d c_in, d = sigma_data: Song et al. 2023 (arXiv 2303.01469). Sample
    with `Model(f, fastgen.schedules.EDM(...), "data", time_input="sigma")`.
    """

    def __init__(self, net: nn.Module, sigma_data: float = 0.5, sigma_min: float = 0.002) -> None:
        super().__init__()
        self.net = net
        self.sigma_data = check_positive("sigma_data", sigma_data)
        self.sigma_min = check_positive("sigma_min", sigma_min)

    def forward(self, x: Tensor, sigma: Tensor, **net_kwargs: Any) -> Tensor:
        """The data [B, ...] at the end of the path through x [B, ...] at sigma [B]."""
        level = per_row(sigma.to(x.dtype), x)
        apart, d = level - self.sigma_min, self.sigma_data
        norm = (level.square() + d**2).sqrt()
        inner: Tensor = self.net(x / norm, sigma.log() / 4, **net_kwargs)
        return d**2 / (apart.square() + d**2) * x + apart * d / norm * inner


@typed
def consistency(
    net: Callable[..., Tensor],
    data: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    teacher: Callable[..., Tensor] | None = None,
    metric: str = "pseudo_huber",
    weight: Tensor | None = None,
    seed: int | Tensor = 0,
    step: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """d(f(x + high z, high), f(x + low z, low)) with the second held constant.

    Song et al. 2023 (arXiv 2303.01469), algorithm 3. The defaults are the improved training of Song
    and Dhariwal 2024 (2310.14189): no teacher, the pseudo-Huber metric sqrt(|e|^2 + c^2) - c with
    c = 0.00054 sqrt(elements), and weights 1 / (high - low).

    Args:
        net: f, called as f(x, sigma, **net_kwargs), the identity at the lowest sigma (`Boundary`).
        data: [B, ...].
        low, high: neighbouring noise levels [B], low < high.
        teacher: an average of f's weights; f itself if None.
        metric: "pseudo_huber" or "square" (the mean over elements).
        weight: [B]; the default is 1 / (high - low) for pseudo_huber, 1 for square.
        seed, step, sample_ids: of the noise.
        reduction: "mean", or "none" for [B].
        mask: for samples of different lengths, as of `denoising`.
        net_kwargs, **kwargs: handed to the network; net_kwargs is a dictionary for names that
            mean something else here, such as seed.
    """
    check_floating("data", data)
    rows, device = len(data), data.device
    check_shape("low", low, (rows,))
    check_shape("high", high, (rows,))
    if device.type == "cpu" and not bool(((low > 0) & (low < high)).all()):
        raise ValueError("low, high: expected 0 < low < high in every row")
    check_choice("metric", metric, METRICS)
    key = training_noise(rows, device, seed, step, sample_ids)
    levels = [low.to(torch.float64), high.to(torch.float64)]
    zero, one = torch.zeros_like(levels[0]), torch.ones_like(levels[0])
    columns = [zero, one, levels[0], zero, one, levels[1]]
    table = torch.stack(columns, -1).reshape(-1, 2, 3)
    padding = padding_of(mask, data)
    _, near, far = bridged(None, data, table, zero, key, padding)
    arguments = merged(net_kwargs, kwargs)
    output = called(net, far, (high.to(far.dtype),), arguments)
    output = check_output(output, far.shape, device).clone()  # the next call may write over it
    with torch.no_grad():
        other = teacher if teacher is not None else net
        end = called(other, near, (low.to(near.dtype),), arguments)
        check_output(end, near.shape, device, "net" if teacher is None else "teacher")
    if metric == "square":
        return reduced(mean_square(output - end, padding), weight, reduction)
    c: float | Tensor = 0.00054 * math.sqrt(data[0].numel())
    total = sum_square(output - end, padding)
    if padding is not None:
        c = (0.00054 * padding.count[:, 0].clamp(min=1).double().sqrt()).to(total.dtype)
    loss = (total + c**2).sqrt() - c
    return reduced(loss, 1 / (high - low) if weight is None else weight, reduction)
