"""Two weighted clouds in the coordinates in which an entropic problem is solved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clouds:
    """Both clouds centred, each by itself, and divided by one length.

    With x_i, y_j as stored, the squared distance of the given points is

        unit (rows_i + columns_j - 2 <x_i, y_j>),

    so centring loses nothing but the digits that the centres would have cost, and any units of the
    data come to numbers near 1.

    x: [n, d]; y: [m, d], the arithmetic's dtype. rows: float64 [n]; columns: float64 [m]. shift:
    float64 [d], the difference of the centres in units of the length. log_a, log_b: float64 [n],
    [m], logarithms of the weights.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    columns: Tensor
    shift: Tensor
    unit: float
    log_a: Tensor
    log_b: Tensor

    @property
    def mean_cost(self) -> float:
        """The mean of the squared distances under the product of the weights."""
        a, b = self.log_a.softmax(0), self.log_b.softmax(0)
        inner = (a @ self.x.double()) @ (b @ self.y.double())
        return self.unit * (a @ self.rows + b @ self.columns - 2 * inner).item()


def prepare(x0: Tensor, x1: Tensor, weights0: Tensor, weights1: Tensor) -> Clouds:
    """Clouds of checked points and weights; float64 arithmetic if either cloud is float64."""
    dtype = torch.float64 if torch.float64 in (x0.dtype, x1.dtype) else torch.float32
    u, v = (z.detach().flatten(1).double() for z in (x0, x1))
    # Coordinates near the largest numbers have finite means and squares in this unit only.
    largest = max(u.abs().max().item(), v.abs().max().item()) or 1.0
    u, v = u / largest, v / largest
    means = u.mean(0), v.mean(0)
    u, v = u - means[0], v - means[1]
    shift = means[0] - means[1]
    spread = u.square().sum(1).mean() + v.square().sum(1).mean() + shift.square().sum()
    length = math.sqrt(spread.item()) or 1.0
    shift = shift / length
    x, y = (u / length).to(dtype), (v / length).to(dtype)
    u, v = x.double(), y.double()
    # |x + shift - y|^2 = (|x|^2 + 2 <x, shift>) + (|y|^2 - 2 <y, shift> + |shift|^2) - 2 <x, y>
    rows = u.square().sum(1) + 2 * (u @ shift)
    columns = v.square().sum(1) - 2 * (v @ shift) + shift.square().sum()
    unit = (largest * length) ** 2
    if not 0 < unit < math.inf:
        raise ValueError(
            f"x0, x1: the squares of lengths like {largest * length:g} do not fit in float64; "
            "rescale the points"
        )
    return Clouds(
        x, y, rows, columns, shift, unit, weights0.detach().log(), weights1.detach().log()
    )
