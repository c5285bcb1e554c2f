"""Score matching without noising: explicit, implicit and sliced."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_choice, check_floating, check_shape, rows_of
from fastgen.common.derivatives import Pullback, outside_inference_mode
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.kernels import Stream
from fastgen.noise.normals import randn
from fastgen.training.losses.reduction import reduced, sum_square

Score = Callable[[Tensor], Tensor]


def explicit(score: Tensor, truth: Tensor, *, reduction: str = "mean") -> Tensor:
    """|s(x) - grad log p(x)|^2 / 2, summed over elements, where the score is known."""
    check_shape("score", score, truth.shape)
    return reduced(sum_square(score - truth) / 2, None, reduction)


@outside_inference_mode
@untransformed(BACKWARD)
def implicit(
    score: Score,
    x: Tensor,
    *,
    trace: str = "exact",
    probes: int = 1,
    seed: int | Tensor = 0,
    step: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """tr grad s(x) + |s(x)|^2 / 2: `explicit` up to a constant, from samples alone.

    Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching".

    Args:
        score: s, a function of x [B, ...] that treats rows apart.
        x: samples [B, ...].
        trace: "exact", one backward pass for each element of a sample, or "hutchinson", the mean of
            v . grad s v over ``probes`` Gaussian v from the noise contract (draws ``probes`` step
            + k of the stream of probes).
        probes, seed, step: see ``trace``.
        reduction: "mean", or "none" for [B].
    """
    check_choice("trace", trace, ("exact", "hutchinson"))
    pull, s = _evaluated(score, x)
    if trace == "exact":
        flat = s.flatten(1)
        total = torch.zeros_like(flat[:, 0])
        for e in range(flat.shape[1]):
            one = torch.zeros_like(flat)
            one[:, e] = 1
            total = total + pull.one(one.reshape(s.shape)).flatten(1)[:, e]
    else:
        total = torch.stack([_quadratic(pull, v) for v in _probes(x, probes, seed, step)]).mean(0)
    return reduced(total + sum_square(s) / 2, None, reduction)


@outside_inference_mode
@untransformed(BACKWARD)
def sliced(
    score: Score,
    x: Tensor,
    *,
    variance_reduction: bool = True,
    probes: int = 1,
    seed: int | Tensor = 0,
    step: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """v . grad s v + (v . s)^2 / 2 over random directions v ~ N(0, 1).

    variance_reduction: |s|^2 / 2, its expectation, in place of (v . s)^2 / 2.
    Song et al. 2019, "Sliced score matching" (arXiv 1905.07088). Arguments as in `implicit`.
    """
    pull, s = _evaluated(score, x)
    terms = []
    for v in _probes(x, probes, seed, step):
        norm = sum_square(s) if variance_reduction else rows_of(v * s).sum(1).square()
        terms.append(_quadratic(pull, v) + norm / 2)
    return reduced(torch.stack(terms).mean(0), None, reduction)


def _evaluated(score: Score, x: Tensor) -> tuple[Pullback, Tensor]:
    """The score at x, whose derivatives are differentiable: the loss is trained on."""
    if not callable(score):
        raise TypeError(f"score={score!r}: expected a function of x [B, ...]")
    pull = Pullback(score, check_floating("x", x).detach(), "score")
    check_shape("score", pull.value, x.shape)
    return pull, pull.value


def _probes(x: Tensor, probes: int, seed: int | Tensor, step: int) -> list[Tensor]:
    check_at_least("probes", probes, 1)
    return [
        randn(
            x.shape,
            seed=seed,
            draw=probes * step + k,
            stream=Stream.PROBE,
            dtype=x.dtype,
            device=x.device,
        )
        for k in range(probes)
    ]


def _quadratic(pull: Pullback, v: Tensor) -> Tensor:
    return rows_of(pull.one(v) * v).sum(1)
