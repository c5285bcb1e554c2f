"""The reductions, on the implementation that fits the tensors' device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.kernels import dispatch
from fastgen.kernels.pairwise.contract import Kept, Keys, check_keys, check_pairs, check_values


def _backend(x: Tensor, backend: str | None) -> str:
    """The one that runs on the tensor: float64 is not for Triton."""
    chosen = dispatch.choose(x.device, backend)
    return "reference" if chosen == "triton" and x.dtype != torch.float32 else chosen


def _find(operation: str, x: Tensor, backend: str | None) -> Callable[..., Any]:
    found = dispatch.load(f"pairwise_{operation}", _backend(x, backend))
    assert found is not None  # all backends have all but the sweep
    return found


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
    result: tuple[Tensor, Tensor] = _find("mean", x, backend)(x, y, bias, scale, values)
    return result


def best(
    x: Tensor, y: Tensor, bias: Tensor, scale: float, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """max_j s_ij, float64 [rows], and the lowest column that has it, int64 [rows].

    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_pairs(x, y, bias)
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
    result: tuple[Tensor, Tensor] = _find("sample", x, backend)(x, y, bias, scale, keys)
    return result
