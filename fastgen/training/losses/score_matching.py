"""Score matching without noising: explicit, implicit and sliced."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_choice, check_shape
from fastgen.kernels import Stream
from fastgen.noise.normals import randn
from fastgen.training.losses.reduction import reduced, sum_square

Score = Callable[[Tensor], Tensor]


def explicit(score: Tensor, truth: Tensor, *, reduction: str = "mean") -> Tensor:
    """|s(x) - grad log p(x)|^2 / 2, summed over elements, where the score is known."""
    check_shape("score", score, truth.shape)
    return reduced(sum_square(score - truth) / 2, None, reduction)


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
    x, s = _evaluated(score, x)
    if trace == "exact":
        flat = s.flatten(1)
        total = torch.zeros_like(flat[:, 0])
        for e in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, e].sum(), x, create_graph=True, retain_graph=True)
            total = total + row.flatten(1)[:, e]
    else:
        total = torch.stack([_quadratic(s, x, v) for v in _probes(x, probes, seed, step)]).mean(0)
    return reduced(total + sum_square(s) / 2, None, reduction)


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
    x, s = _evaluated(score, x)
    terms = []
    for v in _probes(x, probes, seed, step):
        norm = sum_square(s) if variance_reduction else (v * s).flatten(1).sum(1).square()
        terms.append(_quadratic(s, x, v) + norm / 2)
    return reduced(torch.stack(terms).mean(0), None, reduction)


def _evaluated(score: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    s = score(x)
    check_shape("score", s, x.shape)
    if not s.requires_grad:
        raise ValueError("score: its value has no gradient with respect to x")
    return x, s


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


def _quadratic(s: Tensor, x: Tensor, v: Tensor) -> Tensor:
    (product,) = torch.autograd.grad((s * v).sum(), x, create_graph=True, retain_graph=True)
    return (product * v).flatten(1).sum(1)
