"""What the implementations of `bridge` and `times` share: limits, times, and checks of a call."""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from fastgen.common.checks import check_tensor
from fastgen.common.display import displayed
from fastgen.kernels.contract import DTYPE_CODES, Noise, check_noise, rows_of_ids

# The functions of time of which a path's coefficients may be sums: 1, t, r = sqrt(t (1 - t)), its
# derivative (1 - 2 t) / (2 r), and 1 / r.
FEATURES = 5
# Outputs of one `bridge` call; its terms are x0, x1 and a normal.
MAX_TARGETS, TERMS = 6, 3


class Sampling(IntEnum):
    """How the times of one batch hang together.

    INDEPENDENT: every row draws its own. STRATIFIED: row b of B draws from the b-th of B equal
    shares of the probability. ANTITHETIC: rows 2 k and 2 k + 1 take u and 1 - u.
    """

    INDEPENDENT = 0
    STRATIFIED = 1
    ANTITHETIC = 2


@displayed
class Clock(NamedTuple):
    """The distribution of times: quantiles float64 [K + 1], Q(k / K), never falling."""

    quantiles: Tensor
    sampling: int = Sampling.INDEPENDENT


def check_clock(clock: Clock, device: torch.device) -> None:
    """Raise a ValueError that names the field where a distribution of times does not fit."""
    q = check_tensor("quantiles", clock.quantiles)
    if q.dtype != torch.float64 or q.ndim != 1 or q.shape[0] < 2 or q.device != device:
        raise ValueError(
            f"quantiles: expected float64 [at least 2] on {device}, got {q.dtype} {list(q.shape)} "
            f"on {q.device}"
        )
    if clock.sampling not in list(Sampling):
        raise ValueError(f"sampling: expected 0, 1 or 2, got {clock.sampling}")


def check_bridge(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times: Tensor | Clock,
    noise: Noise,
    dtypes: list[torch.dtype],
) -> None:
    """Raise a ValueError that names the argument where a `bridge` call is malformed."""
    check_tensor("x1", x1)
    check_tensor("coefficients", coefficients)
    rows, device = rows_of_ids(noise.sample_ids), x1.device
    check_noise(noise, rows, device, 1)
    if noise.draws.numel() != 1:
        raise ValueError(f"noise.draws: expected 1 draw, got {noise.draws.numel()}")
    for name, x, index in (("0", x0, index0), ("1", x1, index1)):
        if index is not None and (
            index.dtype != torch.int64 or tuple(index.shape) != (rows,) or index.device != device
        ):
            raise ValueError(
                f"index{name}: expected int64 [{rows}] on {device}, got {index.dtype} "
                f"{list(index.shape)} on {index.device}"
            )
        if x is None:
            if index is not None:
                raise ValueError(f"index{name}: x{name} is None, so there is nothing to choose")
            continue
        if x.ndim == 0 or x.shape[1:] != x1.shape[1:] or x.device != device:
            raise ValueError(
                f"x{name}: expected rows of shape {tuple(x1.shape[1:])} on {device}, got "
                f"{tuple(x.shape)} on {x.device}"
            )
        if rows and x.shape[0] == 0:
            raise ValueError(f"x{name}: expected at least one row to choose from, got none")
        if index is None and x.shape[0] != rows:
            raise ValueError(f"x{name}: expected {rows} rows like sample_ids, got {x.shape[0]}")
        if x.dtype not in DTYPE_CODES:
            raise ValueError(f"x{name}: expected one of {list(DTYPE_CODES)}, got {x.dtype}")
    for i, kind in enumerate(dtypes):
        if kind not in DTYPE_CODES:
            raise ValueError(f"dtypes[{i}]: expected one of {list(DTYPE_CODES)}, got {kind}")
    if not 1 <= len(dtypes) <= MAX_TARGETS:
        raise ValueError(f"dtypes: expected 1 to {MAX_TARGETS} outputs, got {len(dtypes)}")
    shapes = [(len(dtypes), TERMS, FEATURES)]
    if not isinstance(times, Clock):
        shapes.append((rows, len(dtypes), TERMS))
    if (
        tuple(coefficients.shape) not in shapes
        or coefficients.dtype != torch.float64
        or coefficients.device != device
    ):
        raise ValueError(
            f"coefficients: expected float64 {' or '.join(map(str, shapes))} on {device}, got "
            f"{coefficients.dtype} {tuple(coefficients.shape)} on {coefficients.device}"
        )
    if isinstance(times, Clock):
        check_clock(times, device)
    elif times.dtype != torch.float64 or tuple(times.shape) != (rows,) or times.device != device:
        raise ValueError(
            f"times: expected float64 [{rows}] on {device}, got {times.dtype} "
            f"{list(times.shape)} on {times.device}"
        )
