"""`RiemannianODESolver`: fixed steps of a velocity model on a manifold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.common.display import displayed
from fastgen.common.transforms import functional
from fastgen.common.unwritten import check_unwritten, version
from fastgen.integrations.common.tensors import check_state
from fastgen.integrations.flow_matching.solver.fixed import METHODS, grid_of, times_of
from fastgen.integrations.flow_matching.solver.solver import Solver
from fastgen.integrations.flow_matching.utils.manifolds import Manifold, geodesic
from fastgen.model.output import check_output

TABLEAUS = {name: METHODS[name] for name in ("euler", "midpoint", "rk4")}


@displayed
class RiemannianODESolver(Solver):
    """dx/dt = velocity_model(x=x, t=t, **extras) on a manifold.

    A step is the method's in the surrounding space. Every point is projected to the manifold, and
    every velocity to the tangent space where it was evaluated, which keeps the method's order
    (Hairer, Lubich and Wanner 2006, Geometric Numerical Integration, IV.4).

    Args:
        manifold: where the points are.
        velocity_model: called with x [B, D] and t without axes.
    """

    def __init__(self, manifold: Manifold, velocity_model: Callable[..., Tensor]) -> None:
        super().__init__()
        self.manifold, self.velocity_model = manifold, velocity_model

    def sample(  # type: ignore[override]
        self,
        x_init: Tensor,
        step_size: float | None,
        projx: bool = True,
        proju: bool = True,
        method: str = "euler",
        time_grid: Tensor | Sequence[float] = (0.0, 1.0),
        return_intermediates: bool = False,
        verbose: bool = False,
        enable_grad: bool = False,
        **model_extras: Any,
    ) -> Tensor:
        """Integrate from the first to the last time of the grid.

        Args:
            x_init: [B, D] at the first time.
            step_size: of the steps from the first time to the last, the last of which may be
                shorter; None steps from time to time.
            projx: whether points are projected.
            proju: whether velocities are.
            method: "euler", "midpoint" or "rk4" (the 3/8 rule).
            time_grid: T times that only rise or only fall, which flow_matching would sort.
            return_intermediates: return the points at all these times, [T, B, D]; between steps
                they lie on the geodesic from one to the next.
            verbose: show a progress bar (needs tqdm).
            enable_grad: whether the result is differentiable.
            **model_extras: passed to the model.

        Raises:
            ValueError: naming the argument that is out of range.
        """
        check_choice("method", method, TABLEAUS)
        tableau, times = TABLEAUS[method], times_of(time_grid)
        check_state("x_init", x_init)
        grid = grid_of(times, step_size)  # raises before the first evaluation
        if times[-1] < times[0]:
            warnings.warn(
                "time_grid falls: integrated downwards, where flow_matching sorts the grid",
                stacklevel=2,
            )
        to_point = self.manifold.projx if projx else lambda x: x
        to_tangent = self.manifold.proju if proju else lambda x, u: u
        bar = None
        if verbose:
            from tqdm.auto import tqdm

            bar = tqdm(total=len(grid) - 1)
        x = x_init.clone()  # the model is never handed the caller's own tensor
        points = [x]
        with torch.set_grad_enabled(enable_grad or functional()):
            for s, t in pairwise(grid):
                h = t - s
                slopes: list[Tensor] = []
                for node, row in zip(tableau.c, tableau.a, strict=True):
                    point = x
                    if slopes:
                        point = to_point(x + h * _weighted(row, slopes))
                    at = torch.tensor(s + node * h, dtype=x.dtype, device=x.device)
                    written = version(point)
                    u = self.velocity_model(x=point, t=at, **model_extras)
                    check_unwritten("velocity_model", point, written)
                    check_output(
                        u,
                        x.shape,
                        x.device,
                        "velocity_model",
                        call="velocity_model(x=, t=, **extras)",
                    )
                    slopes.append(to_tangent(point, u))
                before, x = x, to_point(x + h * _weighted(tableau.b, slopes))
                while return_intermediates and len(points) < len(times):
                    share = (times[len(points)] - s) / h
                    if share > 1:  # in a later step
                        break
                    points.append(x if share == 1 else self._between(before, x, share))
                if bar is not None:
                    bar.update()
            if bar is not None:
                bar.close()
            return torch.stack(points) if return_intermediates else x

    def _between(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        path = geodesic(self.manifold, start, end)
        return path(torch.tensor(share, dtype=start.dtype, device=start.device))


def _weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    terms = [w * v for w, v in zip(weights, values, strict=True) if w]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
