"""What a `cascade` is: sums on the rows of one workspace, formed one after another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.kernels.contract import Noise, check_noise

# Entries of a line of `Sums.lines`.
TARGET, BEGIN, END, CLIPPED = range(4)


@dataclass(frozen=True, eq=False)
class Sums:
    """Which sums there are, all but their coefficients; on the host.

    lines: int64 [sums, 4]: the row of the workspace that is written, the first and the last
    (exclusive) of its terms, and whether it is clipped. sources: int64 [terms]: a row of the
    workspace, or -1 - k for draw k.
    """

    lines: Tensor
    sources: Tensor


def check_cascade(
    work: Tensor,
    coefficients: Tensor,
    sums: Sums,
    clip: tuple[float, float] | None,
    noise: Noise | None,
) -> None:
    """Raise a ValueError that names the argument where a `cascade` is malformed."""
    if work.ndim < 2 or work.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"work: expected float32 or float64 [rows, B, ...], got {work.dtype} {list(work.shape)}"
        )
    batch, device = work.shape[1], work.device
    lines, sources = sums.lines, sums.sources
    if lines.dtype != torch.int64 or lines.ndim != 2 or lines.shape[1] != 4 or not lines.is_cpu:
        raise ValueError(f"sums.lines: expected int64 [sums, 4] on the host, got {lines.dtype}")
    if sources.dtype != torch.int64 or sources.ndim != 1 or not sources.is_cpu:
        raise ValueError(f"sums.sources: expected int64 [terms] on the host, got {sources.dtype}")
    for name, tensor in (("work", work), ("coefficients", coefficients)):
        if not tensor.is_contiguous() or tensor.device != device:
            raise ValueError(f"{name}: expected a contiguous tensor on {device}")
    terms = sources.numel()
    if (
        coefficients.dtype != torch.float64
        or coefficients.ndim != 2
        or coefficients.shape[0] not in (1, batch)
        or coefficients.shape[1] != terms
    ):
        raise ValueError(
            f"coefficients: expected float64 [1 or {batch}, {terms}], got {coefficients.dtype} "
            f"{list(coefficients.shape)}"
        )
    if noise is not None:
        check_noise(noise, batch, device, noise.noises)
    draws = 0 if noise is None else noise.noises
    _check_range("sums.sources", sources, -draws, len(work))
    _check_range("sums.lines", lines[:, TARGET], 0, len(work))
    _check_range("sums.lines", lines[:, BEGIN : END + 1], 0, terms + 1)
    _check_range("sums.lines", lines[:, CLIPPED], 0, 1 if clip is None else 2)
    if bool((lines[:, BEGIN] > lines[:, END]).any()):
        raise ValueError("sums.lines: a sum whose terms end before they begin")
    if clip is not None and not clip[0] <= clip[1]:
        raise ValueError(f"clip: expected low <= high, got {clip}")


def check_part(first: int, last: int, sums: Sums) -> None:
    """Raise a ValueError for a part of the sums that there is not."""
    if not 0 <= first <= last <= len(sums.lines):
        raise ValueError(
            f"first={first}, last={last}: expected 0 <= first <= last <= {len(sums.lines)}"
        )


def _check_range(name: str, values: Tensor, low: int, high: int) -> None:
    if values.numel() and not (low <= int(values.min()) and int(values.max()) < high):
        raise ValueError(f"{name}: expected numbers from {low} to {high - 1}")
