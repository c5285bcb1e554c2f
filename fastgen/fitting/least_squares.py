"""Coefficients by least squares, step after step: closed form, no gradients of the network.

Step k is x_{k+1} = A c + s z with the columns A = [x_k, u_0, ..., u_k] of the run so far. From the
row c_0 of the start, with the teacher's states y and r = y - s z - A c_0, the columns scaled to
unit norms and their Gram matrix G = V diag(l) V^T, the row is

    c = c_0 + V diag(f / l) V^T A^T r,   f = l^2 / (l^2 + ridge^2).

f = 1 is least squares; ridge takes directions back to the start's row in which the columns hardly
differ (Tikhonov, iterated). As 0 <= f <= 1, |y - s z - A c| <= |r| for the states of the fit: no
step's training error exceeds what the start's coefficients would make of the same history. With s
the squared residual is put back as noise, s^2 + mean (r - A (c - c_0))^2: what the history does
not tell of y is noise to it, and x_{k+1} keeps the variance of y.

The rows over a whole history: Shaul et al. 2024, arXiv 2403.01329 (fitted there by gradients);
linear in the coefficients given the states: the local problems of S4S, arXiv 2502.17423.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastgen.fitting.rows import Row, Rows
from fastgen.fitting.study import Batch, Errors, Study


class Followed(NamedTuple):
    """A run along rows beside the teacher's.

    rows: those that were followed, fitted if asked. errors: to the teacher after each step, [nfe].
    before, after: rms of each step, of the rows that were given and of the fitted ones from the
    same states, noise left out, [nfe]. grams: of each step's columns, [k + 2, k + 2], per element.
    """

    rows: Rows
    errors: list[Errors]
    before: list[float]
    after: list[float]
    grams: list[Tensor]


@torch.no_grad()
def follow(
    study: Study,
    batches: Sequence[Batch],
    rows: Rows,
    *,
    fit: bool = False,
    ridge: float = 1e-5,
    tick: Callable[[], object] = lambda: None,
) -> Followed:
    """Run the rows on batches that know the teacher's states, and fit each in its turn if asked.

    Raises:
        FloatingPointError: naming the step that is not finite.
    """
    x = [b.z * study.schedule.sigma(rows.times[0]) for b in batches]
    history: list[list[Tensor]] = [[] for _ in batches]
    found: list[Row] = []
    errors, before, after, grams = list[Errors](), list[float](), list[float](), list[Tensor]()
    elements = sum(state.numel() for state in x)
    for k, row in enumerate(rows.rows):
        t, size = rows.times[k], k + 2
        gram = torch.zeros(size, size, dtype=torch.float64, device=x[0].device)
        against = torch.zeros(size, dtype=torch.float64, device=x[0].device)
        squares = 0.0
        for state, past, batch in zip(x, history, batches, strict=True):
            past.append(study.prediction(rows.quantity, state, t, batch, rows.plan.clip))
            columns = _columns(state, past)
            wanted = batch.targets[k] - row.scale * batch.noise(row.noise)
            r = wanted.double().flatten() - _combined(columns, row.coefficients.tolist())
            gram += columns @ columns.T
            against += columns @ r
            squares += float(r.square().sum())
        if not (torch.isfinite(gram).all() and math.isfinite(squares)):
            raise FloatingPointError(
                f"evaluation {k}, t={t:.6g}: the run is not finite there, or the teacher after it"
            )
        gram, against, residual = gram / elements, against / elements, squares / elements
        before.append(math.sqrt(residual))
        if fit:
            change = ridge_solution(gram, against, ridge)
            residual -= float(2 * change @ against - change @ gram @ change)
            residual = max(residual, 0.0)  # of two that differ by rounding
            scale = math.sqrt(row.scale**2 + residual) if row.scale else 0.0
            row = row.with_coefficients(row.coefficients + change.cpu().numpy(), scale)
        after.append(math.sqrt(residual))
        found.append(row)
        grams.append(gram)
        for i, (past, batch) in enumerate(zip(history, batches, strict=True)):
            new = _combined(_columns(x[i], past), row.coefficients.tolist())
            x[i] = new.to(x[i].dtype).view_as(x[i]) + row.scale * batch.noise(row.noise)
        errors.append(Errors.between(x, [b.targets[k] for b in batches]))
        tick()
    return Followed(rows.with_rows(found), errors, before, after, grams)


def ridge_solution(gram: Tensor, against: Tensor, ridge: float) -> Tensor:
    """The change of a row: see above. Columns that are 0 are left alone."""
    norms = gram.diagonal().sqrt()
    scale = torch.where(norms > 0, 1 / norms.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    values, vectors = torch.linalg.eigh(gram * scale[:, None] * scale)
    # Below it an eigenvalue is rounding of the sums, whatever the ridge.
    values = torch.where(values > len(gram) * 1e-15, values, 0.0)
    weights = torch.where(values > 0, values / (values.square() + ridge**2), 0.0)
    found: Tensor = scale * (vectors @ (weights * (vectors.T @ (scale * against))))
    return found


def _columns(x: Tensor, past: Sequence[Tensor]) -> Tensor:
    return torch.stack([x, *past]).flatten(1).double()


def _combined(columns: Tensor, coefficients: Sequence[float]) -> Tensor:
    return torch.tensor(coefficients, dtype=torch.float64, device=columns.device) @ columns
