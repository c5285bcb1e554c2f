"""Between two noises, on the sphere where noise lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.common.checks import as_numbers, check_floating, check_number, per_row, rows_of
from fastgen.common.typed import typed

# Angles this near to pi have no plane: rounding would choose the way.
OPPOSITE = math.pi - 1e-4


@typed
def interpolate(
    first: Tensor,
    second: Tensor,
    weights: float | Tensor,
    *,
    correlation: float | None = 0.0,
) -> Tensor:
    """A noise between two noises, from ``first`` at weight 0 to ``second`` at weight 1, [B, ...].

    sin((1 - w) theta) / sin(theta) first + sin(w theta) / sin(theta) second with cos(theta) =
    ``correlation`` (slerp, Shoemake 1985). Of standard normals of that correlation the result is
    standard normal at every w; the straight line between two independent ones has a variance of
    1/2 in its middle. For independent noises, of two draws or seeds of `randn`, theta = pi/2 and
    the weights are cos(w pi/2) and sin(w pi/2). A small w varies a sample a little: its correlation
    with the first is cos(w theta).

    Args:
        first, second: noises of one shape [B, ...]; one row [1, ...] stands for all.
        weights: within [0, 1]: a number, or one per sample, [B].
        correlation: of the elements, within (-1, 1]: 0 of independent noises. None takes each
            row's own, its cosine similarity, for latents of `fastgen.invert`, say: then a row's
            norm is kept where both have the same, and noises are normal up to 1 / sqrt(elements).

    Raises:
        TypeError, ValueError: naming the argument. ValueError also for rows that are opposite or
            zero, if their correlation is measured.

    Example:
        >>> a, b = (fastgen.randn((1, 3), seed=seed) for seed in (1, 2))
        >>> path = fastgen.interpolate(a, b, torch.linspace(0, 1, 5))
        >>> torch.equal(path[:1], a) and torch.equal(path[-1:], b)
        True
    """
    check_floating("first", first)
    check_floating("second", second)
    if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        raise ValueError(
            f"second: expected {first.dtype} {list(first.shape)} like first, got {second.dtype} "
            f"{list(second.shape)}"
        )
    w = as_numbers("weights", weights, first.device)
    counts = {len(first), len(second), w.numel()} - {1}
    if w.ndim > 1 or len(counts) > 1:
        raise ValueError(
            f"weights: expected one number, or one for each sample, got {list(w.shape)} for "
            f"{len(first)} and {len(second)} rows"
        )
    if not bool(((w >= 0) & (w <= 1)).all()):
        raise ValueError(f"weights={weights!r}: expected numbers within [0, 1]")
    angle = _angle(first, second, correlation)
    straight = angle == 0  # the limit: both are one noise
    sine = torch.where(straight, 1.0, angle.sin())
    begin = torch.where(straight, 1 - w, ((1 - w) * angle).sin() / sine)
    end = torch.where(straight, w, (w * angle).sin() / sine)
    kind = first.dtype
    return per_row(begin, first).to(kind) * first + per_row(end, first).to(kind) * second


def _angle(first: Tensor, second: Tensor, correlation: float | None) -> Tensor:
    """theta, float64 [1] or of each row."""
    if correlation is not None:
        if not -1 < check_number("correlation", correlation) <= 1:
            raise ValueError(f"correlation={correlation!r}: expected a number within (-1, 1]")
        return torch.full((1,), math.acos(correlation), dtype=torch.float64, device=first.device)
    a, b = (rows_of(x.detach()).double() for x in (first, second))
    lengths = [x.norm(dim=1) for x in (a, b)]
    if any(bool((length == 0).any()) for length in lengths):
        raise ValueError("first, second: a row of zeros has no direction; give its correlation=")
    a, b = (x / length[:, None] for x, length in zip((a, b), lengths, strict=True))
    # Exact near 0, where the cosine is not.
    angle = 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))
    if bool((angle > OPPOSITE).any()):
        raise ValueError("first, second: rows are opposite, and no way between them is the nearest")
    return angle
