"""What couplings ask of the points and the weights that they are given."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.checks import (
    check_dense,
    check_finite,
    check_floating,
    check_real_device,
    check_shape,
)


def check_batch(name: str, x: Tensor, batched: bool = False) -> None:
    """Raise an error that names the argument unless it is a batch of real points, not empty.

    Args:
        name: of the argument.
        x: [n, ...], or [N, n, ...] if ``batched``, of any dtype but complex.
        batched: whether an axis of problems comes before that of the points.

    Raises:
        TypeError: for something else than a tensor, and for complex numbers.
        ValueError: for an empty tensor, or one of too few axes.
    """
    check_dense(name, x)
    check_real_device(name, x)
    if x.is_complex():
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    if x.ndim < 1 + batched or x.numel() == 0:
        shape = "[N, n, ...]" if batched else "[n, ...]"
        raise ValueError(f"{name}: expected shape {shape}, not empty, got {tuple(x.shape)}")


def equal_batches(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of as many points, [n, d] each and without gradients.

    Raises:
        TypeError, ValueError: naming the argument, also for NaN and infinite numbers.
    """
    check_batch("x0", x0)
    check_batch("x1", x1)
    flat0, flat1 = x0.detach().reshape(len(x0), -1), x1.detach().reshape(len(x1), -1)
    check_shape("x1", flat1, flat0.shape, like="x0")
    check_finite("x0", flat0)
    check_finite("x1", flat1)
    return flat0, flat1


def check_cloud(name: str, x: Tensor) -> None:
    """Raise an error that names the argument unless it is a finite cloud [n, ...] of floats."""
    check_floating(name, x, "[points, coordinates ...]", axes=2)
    check_real_device(name, x)
    if x.numel() == 0:
        raise ValueError(
            f"{name}: expected [points, coordinates ...] with neither zero, got {list(x.shape)}"
        )
    finite = x.isfinite()
    if not finite.all():
        at = (~finite.flatten(1)).any(1).nonzero()[0].item()
        raise ValueError(f"{name}: point {at} has a coordinate that is NaN or infinite")


def check_clouds(x0: Tensor, x1: Tensor) -> None:
    """Raise an error that names the argument unless these are finite clouds in one space."""
    check_cloud("x0", x0)
    check_cloud("x1", x1)
    if x0.shape[1:] != x1.shape[1:]:
        raise ValueError(
            f"x1: expected points of shape {list(x0.shape[1:])} like x0's, got {list(x1.shape[1:])}"
        )
    check_same_device("x1", x1, x0)


def check_same_device(name: str, x: Tensor, like: Tensor) -> None:
    """Raise a ValueError unless a tensor is on the device of another."""
    if x.device != like.device:
        raise ValueError(f"{name}: expected device {like.device}, got {x.device}")


def weights_of(name: str, weights: Tensor | None, x: Tensor) -> Tensor:
    """The weights of points x as float64 [n], uniform by default.

    Raises:
        ValueError: naming the argument, unless each point has a finite number >= 0, and one of
            them more than 0.
    """
    n = len(x)
    if weights is None:
        return torch.full((n,), 1 / n, dtype=torch.float64, device=x.device)
    if weights.shape != (n,):
        raise ValueError(f"{name}: expected [{n}], one for each point, got {list(weights.shape)}")
    check_same_device(name, weights, x)
    weights = weights.double()
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(f"{name}: expected finite numbers >= 0 that are not all 0")
    return weights
