"""The whole run by Gauss-Newton steps: few free numbers, many residuals, no gradients.

With the free numbers v (times and coefficients: tens), r_i(v) the difference of sample i's end
from the teacher's, D elements, and s_i = |r_i|^2 / D, the loss is L = mean f(s_i). Linearise r in
v, J_i = d r_i / d v, and f in s, w_i = f'(s_i). The step d minimises

    sum_i w_i |r_i + J_i d|^2 + damping |d|^2_M,   M = max(diagonal of G, sum_i w_i D),

with G = sum_i w_i J_i^T J_i, which is (G + damping M) d = -sum_i w_i J_i^T r_i (Levenberg 1944,
Marquardt 1963). sum_i w_i D is the diagonal of what moves every end by 1: a direction in which the
columns of a row hardly differ is damped like one that moves the state, as it does so once the
columns have moved themselves. For "norm" and "log" f is concave:
f(s) <= f(s_0) + f'(s_0) (s - s_0), so that a step which lowers the weighted squares lowers L
(iteratively reweighted least squares); right-hand side and gradient of L agree up to a factor for
any f. A step is taken only where L on all the training noise falls; otherwise the damping grows.

J is taken by differences of the run itself, so that any network will do, in the memory of its
outputs. Moving row k leaves all before it as it is, and the last row asks the network nothing: for
n rows a batch costs about n^3 / 6 evaluations for coefficients, and n^2 for times. A difference of
h in the scaled directions of `Moving` errs by h times the curvature and by rounding / h. Where
steps fail because a network rounds more than its dtype says (autocast), wider ones are tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.fitting.moving import Moving
from fastgen.fitting.study import Batch, Study
from fastgen.fitting.whole_run import (
    LOSSES,
    Descent,
    RowLoss,
    Search,
    Values,
    combined,
    row_squares,
)

_WIDEST = 0.1  # difference: a tenth of what moves the state by 1
_TRIES = 8  # dampings in one iteration
_LITTLE = 2e-3  # of what f' promises where errors vanish: two steps that gain less are the last
_PART = 1 << 16  # elements of J that are in float64 at once


class GaussNewton(Search):
    """All the training noise in each iteration."""

    every = 1

    def __init__(
        self, study: Study, moving: Moving, descent: Descent, train: Sequence[Batch]
    ) -> None:
        super().__init__(study, moving, descent, train)
        assert isinstance(descent.loss, str)
        self.of: RowLoss = LOSSES[descent.loss]
        dtypes = study.settings.dtype, study.model.input_dtype(study.settings.dtype)
        # sqrt(eps) weighs both errors alike for one rounding; a run has many.
        self.difference = min(max(torch.finfo(d).eps for d in dtypes) ** 0.4, _WIDEST)
        self.damping, self.little = 1e-2, False

    @torch.no_grad()
    def advance(self) -> bool:
        """One step, or the end of them; False where the run is not finite."""
        gram, slope, old = self.normal_equations()
        weights, before = self.of.slope(old), float(self.of.f(old).mean())
        if not (bool(torch.isfinite(gram).all()) and math.isfinite(before)):
            return False
        self.iteration += 1
        here = torch.cat([p.reshape(-1) for p in self.free])
        elements = self.descent.compared(self.train[0].targets[-1])[0].numel()
        scale = gram.diagonal().clamp(min=float(weights.sum()) * elements)
        for _ in range(_TRIES):
            step, _ = torch.linalg.solve_ex(gram + self.damping * scale.diag(), -slope)
            after = self._loss_at(here + step)
            if after < before:
                little = before - after < _LITTLE * float((weights * old).mean())
                self.settled, self.little = little and self.little, little
                self.damping = max(self.damping / 5, 1e-8)
                return True
            self.damping *= 4
        self._set(here)
        self.settled = self.difference >= _WIDEST
        self.difference = min(8 * self.difference, _WIDEST)
        return True

    @torch.no_grad()
    def normal_equations(self) -> tuple[Tensor, Tensor, Tensor]:
        """G [p, p], sum_i w_i J_i^T r_i [p] of the p free numbers, and s [samples]."""
        values = self.moving.values()
        moved = list(self._other_times())
        size = sum(p.numel() for p in self.free)
        gram = torch.zeros(size, size, dtype=torch.float64, device="cpu")
        slope = torch.zeros(size, dtype=torch.float64, device="cpu")
        found = []
        for batch in self.train:
            ends = self._ends(batch, values, moved)
            end = self.descent.compared(next(ends))
            wanted = self.descent.compared(batch.targets[-1])
            squares = row_squares(end, wanted)
            found.append(squares)
            # The columns J and, last, r, each times sqrt(w).
            weights = self.of.slope(squares).sqrt()[:, None].to(end.dtype)
            columns = [
                (weights * (self.descent.compared(x) - end).flatten(1)).flatten() / self.difference
                for x in ends
            ]
            columns.append((weights * (end - wanted).flatten(1)).flatten())
            for part in torch.split(torch.stack(columns), _PART, 1):
                exact = part.double()
                product = (exact @ exact.T).cpu()
                gram += product[:-1, :-1]
                slope += product[:-1, -1]
        return gram, slope, torch.cat(found)

    def _ends(self, batch: Batch, values: Values, moved: Sequence[Values]) -> Iterator[Tensor]:
        """The ends, and those with each of the free numbers moved by `difference`."""
        start = self.start(batch)
        past: list[Tensor] = []
        states = [start, *self.run.steps(batch, start, values, past)]
        yield states[-1]
        for other in moved:
            *_, x = self.run.steps(batch, start, other, [])
            yield x
        if not self.groups["moves"]:
            return
        for k, directions in enumerate(self.moving.directions):
            for direction in directions.T:
                x = states[k + 1] + self.difference * combined(direction, states[k], past[: k + 1])
                for x in self.run.steps(batch, x, values, past[: k + 1]):  # noqa: B007, B020
                    pass
                yield x

    def _other_times(self) -> Iterator[Values]:
        """The values with each of the gaps moved."""
        for gaps in self.groups["gaps"]:
            for j in range(len(gaps)):
                kept = float(gaps[j])
                gaps[j] = kept + self.difference
                yield self.moving.values()
                gaps[j] = kept

    def _loss_at(self, numbers: Tensor) -> float:
        """With these numbers; infinite where they make no run."""
        if not bool(torch.isfinite(numbers).all()):
            return math.inf
        self._set(numbers)
        try:
            self.moving.values()
        except ValueError:  # times so near each other that they are none
            return math.inf
        return float(self.of.f(self._squares()).mean())

    def _squares(self) -> Tensor:
        """Of every training sample, with the present numbers."""
        pairs = [(self.run(b, self.start(b)), b.targets[-1]) for b in self.train]
        compared = self.descent.compared
        return torch.cat([row_squares(compared(x), compared(y)) for x, y in pairs])

    def _set(self, numbers: Tensor) -> None:
        pieces = torch.split(numbers, [p.numel() for p in self.free])
        self.put([piece.view_as(p) for piece, p in zip(pieces, self.free, strict=True)])

    def state(self) -> dict[str, Any]:
        """What `load` takes, in numbers and tensors."""
        return super().state() | {
            "damping": self.damping,
            "difference": self.difference,
            "little": self.little,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        super().load(state)
        self.damping, self.difference = state["damping"], state["difference"]
        self.little = state["little"]
