"""The reductions, on the implementation that fits the tensors' device."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.kernels import dispatch
from fastgen.kernels.pairwise.contract import (
    NOWHERE,
    RANGES,
    Kept,
    Keys,
    check_keys,
    check_pairs,
    check_values,
)


def _backend(x: Tensor, backend: str | None) -> str:
    """The one that runs on the tensor: float64 is not for Triton."""
    chosen = dispatch.choose(x.device, backend)
    return "reference" if chosen == "triton" and x.dtype != torch.float32 else chosen


def _find(operation: str, x: Tensor, backend: str | None) -> Callable[..., Any]:
    found = dispatch.load(f"pairwise_{operation}", _backend(x, backend))
    assert found is not None  # all backends have all but the sweep
    return found


def _fitting(
    x: Tensor, y: Tensor, bias: Tensor, scale: float, more: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, y and values in a dtype whose range has all products; a ValueError where none has.

    Which column is the best cannot be said of scores that are NaN or overflow. Not on GPUs, where
    to look would be to wait.
    """
    if not x.is_cpu or x.shape[0] == 0:
        return x, y, more
    sizes = []
    for name, points in (("x", x), ("y", y)):
        size = torch.linalg.vector_norm(points.detach(), math.inf).item()
        if not size < math.inf:
            raise ValueError(f"{name}: expected finite numbers")
        sizes.append(size)
    low, high = (b.item() for b in bias.detach().aminmax())
    if not high < math.inf or (low < NOWHERE and (bias[bias < NOWHERE] > -math.inf).any()):
        raise ValueError(
            f"bias: expected numbers above {NOWHERE:g}, or -infinity, got {low:g} to {high:g}"
        )
    largest = max(abs(scale), 1.0) * x.shape[1] * sizes[0] * sizes[1] / math.log(2)
    if not largest < RANGES[torch.float64]:
        raise ValueError(
            f"x, y, scale: scores may be as large as {largest:g}, beyond the range of numbers; "
            "scale the points down"
        )
    if x.dtype == torch.float32 and not largest < RANGES[torch.float32]:
        return x.double(), y.double(), None if more is None else more.double()
    return x, y, more


def log_sum(
    x: Tensor, y: Tensor, bias: Tensor, scale: float, *, backend: str | None = None
) -> Tensor:
    """log sum_j exp(scale <x_i, y_j> + bias_j), float64 [rows]; nothing of [rows, columns] exists.

    Args:
        x: [rows, dims], float32 or float64, which is the arithmetic's dtype.
        y: [columns, dims], of the same dtype.
        bias: float64 [columns], finite or -infinity.
        scale: a number.
        backend: as for `fastgen.kernels.dispatch.choose`. float64 runs on the reference on GPUs.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_pairs(x, y, bias)
    result: Tensor = _find("log_sum", x, backend)(x, y, bias, scale)
    return result


def can_sweep(x: Tensor, backend: str | None = None) -> bool:
    """Whether `sweep` is there for the tensor: on CPUs."""
    return dispatch.load("pairwise_sweep", _backend(x, backend)) is not None


def sweep(
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: float,
    weights: Tensor,
    before: Tensor,
    omega: float,
    kept: Kept | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both half steps of a Sinkhorn sweep in one pass: `log_sum`, and masses of the columns.

    With p_i = softmax(s_i), fitted_j = sum_i weights_i p_ij and
    relaxed_j = sum_i weights_i exp((1 - omega) (before_i + log_sum_i)) p_ij, float64 [columns].
    Some rows' terms are there at a time, so that memory is O(columns); with `kept` all of them.

    Args:
        weights: float64 [rows], >= 0.
        before: float64 [rows].
        omega: a number; with 1 both results are equal.
        kept: terms for later sweeps over the same x and y, which then differ by rounding.

    Raises:
        ValueError: naming the argument that does not fit.
        NotImplementedError: see `can_sweep`.
    """
    check_pairs(x, y, bias)
    for name, values in (("weights", weights), ("before", before)):
        if values.dtype != torch.float64 or values.shape != x.shape[:1]:
            raise ValueError(
                f"{name}: expected float64 [{x.shape[0]}], got {values.dtype} {list(values.shape)}"
            )
    kernel = dispatch.load("pairwise_sweep", _backend(x, backend))
    if kernel is None:
        raise NotImplementedError(f"sweep: not on {x.device}; use log_sum twice")
    result: tuple[Tensor, Tensor, Tensor]
    result = kernel(x, y, bias, scale, weights, before, omega, kept)
    return result


def mean(
    x: Tensor, y: Tensor, bias: Tensor, scale: float, values: Tensor, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """`log_sum` and sum_j softmax(s_i)_j values_j, [rows, features], in one pass.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_pairs(x, y, bias)
    check_values(values, y)
    a, b, c = _fitting(x, y, bias, scale, values)
    sums, means = _find("mean", a, backend)(a, b, bias, scale, c)
    return sums, means.to(x.dtype)


def best(
    x: Tensor, y: Tensor, bias: Tensor, scale: float, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """max_j s_ij, float64 [rows], and the lowest column that has it, int64 [rows].

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_pairs(x, y, bias)
    x, y, _ = _fitting(x, y, bias, scale)
    result: tuple[Tensor, Tensor] = _find("best", x, backend)(x, y, bias, scale)
    return result


def sample(
    x: Tensor, y: Tensor, bias: Tensor, scale: float, keys: Keys, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """`log_sum`, and for each row one column drawn from softmax(s_i), int64 [rows], in one pass.

    A reservoir over tiles: with L_t the tile's log-sum and L_1..t that of all so far, the column
    in hand is replaced with probability exp(L_t - L_1..t) by one drawn inside tile t. The result
    is a function of the scores, seed, sample id and draw, not of batch, threads or device (but
    for the scores' rounding).

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_pairs(x, y, bias)
    check_keys(keys, x)
    x, y, _ = _fitting(x, y, bias, scale)
    result: tuple[Tensor, Tensor] = _find("sample", x, backend)(x, y, bias, scale, keys)
    return result
