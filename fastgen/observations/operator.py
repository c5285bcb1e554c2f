"""Linear maps as callables, and whether they are what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_function
from fastgen.common.display import displayed

Map = Callable[[Tensor], Tensor]
# How far <A x, y> and <x, A^T y> may differ, in units of rounding of the larger norm: sums of a
# million float32 numbers in any order stay within it, a wrong operator does not.
_ADJOINT = 2**10


@displayed
@dataclass(frozen=True, eq=False)
class Operator:
    """A linear map A of samples: batches [B, sample...] to batches [B, observed...].

    Args:
        forward: v to A v.
        transpose: w to A^T w; None takes it from autograd.
        pseudo_inverse: w to A^+ w; None solves for it where a method asks.
        name: shown.
    """

    forward: Map
    transpose: Map | None = None
    pseudo_inverse: Map | None = None
    name: str = "operator"

    def __post_init__(self) -> None:
        check_function("A", self.forward)
        for name in ("transpose", "pseudo_inverse"):
            if getattr(self, name) is not None:
                check_function(name, getattr(self, name))

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name}

    def __call__(self, x: Tensor) -> Tensor:
        """A x."""
        return self.forward(x)


def check_adjoint(operator: Operator, y: Tensor) -> None:
    """Raise a ValueError unless <A x, w> = <x, A^T w> for a random w like y [1, ...] and x."""
    assert operator.transpose is not None
    generator = torch.Generator().manual_seed(0)
    w = torch.randn((1, *y.shape[1:]), generator=generator, device="cpu").to(y)
    with torch.no_grad():
        back = operator.transpose(w)
        if not isinstance(back, Tensor) or back.shape[:1] != w.shape[:1]:
            found = list(back.shape) if isinstance(back, Tensor) else type(back).__name__
            raise ValueError(
                f"A_transpose: expected batches [1, sample...] of batches {list(w.shape)}, got "
                f"{found}"
            )
        x = torch.randn(back.shape, generator=generator, device="cpu").to(back)
        there = operator.forward(x)
    if not isinstance(there, Tensor) or there.shape != w.shape:
        found = list(there.shape) if isinstance(there, Tensor) else type(there).__name__
        raise ValueError(
            f"A: expected {list(w.shape)}, the shape of y, from {list(x.shape)}, the shape of what "
            f"A_transpose gives; got {found}"
        )
    left, right = float((there * w).sum(dtype=torch.float64)), float((x * back).double().sum())
    size = max(float(there.norm() * w.norm()), float(x.norm() * back.norm()))
    if not abs(left - right) <= _ADJOINT * torch.finfo(y.dtype).eps * size:
        raise ValueError(
            f"A_transpose: it is not the transpose of A: <A x, w> = {left:.6g} and <x, A_transpose "
            f"w> = {right:.6g} for random x and w; leave it out and autograd finds it"
        )


def check_map(
    name: str, f: Map, y: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise a ValueError where a map of samples gives no observation of y's shape."""
    x = torch.zeros((1, *shape[1:]), dtype=dtype, device=device)
    try:
        with torch.no_grad():
            found = f(x)
    except RuntimeError as error:
        raise ValueError(
            f"{name}: it does not take samples {list(x.shape)}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(found, Tensor) or found.shape != (1, *y.shape[1:]):
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{name}: of samples {list(x.shape)} it gives {got}, y is {list(y.shape)}")


def check_linear(
    operator: Operator, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise a ValueError for a map of samples [B, ...] that is not linear along a random one."""
    x = torch.randn((1, *shape[1:]), generator=torch.Generator().manual_seed(1), device="cpu")
    x = x.to(device=device, dtype=dtype)
    with torch.no_grad():
        once, twice = operator(x), operator(-2 * x)
    unit = torch.finfo(dtype).eps * _ADJOINT * max(float(once.norm()), 1e-30)
    if not float((twice + 2 * once).norm()) <= unit:
        raise ValueError(
            "A: A(-2 x) is not -2 A(x), so it is not linear; give fastgen.observations."
            "Nonlinear(A, y=y)"
        )
