"""The continuous adjoint: gradients by a second solve, backwards in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.derivatives import check_recorded, elsewhere
from fastgen.common.display import displayed
from fastgen.common.once import differentiable_once
from fastgen.common.step_size import Controller, StepSize
from fastgen.common.tableau import Tableau
from fastgen.kernels.runge_kutta.contract import Control, Count, Status, Workspace
from fastgen.ode import tableaus
from fastgen.ode.engine import integrate
from fastgen.ode.problem import Field, StateLayout, tolerance
from fastgen.ode.solution import check


@displayed
@dataclass(frozen=True)
class Adjoint:
    """Gradients by the continuous adjoint, in memory that does not grow with the steps.

    Chen et al. 2018 (arXiv 1806.07366).

    Args:
        parameters: what f depends on, a module or tensors; None finds those of a module f.
        rtol, atol: tolerances of the way back, a number or one for each sample; None is the same.
        method: of the way back, one of varying steps; None is the same.
        seminorm: leave the parameters' gradients out of the error norm (Kidger et al. 2021, arXiv
            2009.09457). Per-sample steps cannot do otherwise.
    """

    parameters: Iterable[Tensor] | nn.Module | None = None
    rtol: float | Tensor | None = None
    atol: float | Tensor | None = None
    method: str | None = None
    seminorm: bool = True

    def resolved(
        self,
        tableau: Tableau,
        tolerances: tuple[Tensor, Tensor],
        controller: Controller,
        max_steps: int,
        state: StateLayout,
    ) -> WayBack:
        """The way back in numbers, from those of the way there.

        Raises:
            ValueError: for a method of fixed steps, a tolerance out of range, or the full norm
                with per-sample steps.
        """
        back = tableau if self.method is None else tableaus.find(self.method)
        if back is None or not back.adaptive:
            raise ValueError(f"Adjoint: method={self.method!r}: expected one of varying steps")
        if not self.seminorm and not state.joint:
            raise ValueError(
                "Adjoint: seminorm=False: parameters have one gradient for all samples, which "
                "samples' own steps cannot control; use step='joint'"
            )
        rtol, atol = tolerances
        if self.rtol is not None:
            rtol = tolerance("Adjoint: rtol", self.rtol, state)
        if self.atol is not None:
            atol = tolerance("Adjoint: atol", self.atol, state)
        return WayBack(back, rtol, atol, controller.step_size(back.order, max_steps), self.seminorm)


@dataclass(frozen=True)
class WayBack:
    """How to solve backwards; tolerances are [R]."""

    tableau: Tableau
    rtol: Tensor
    atol: Tensor
    step_size: StepSize
    seminorm: bool


def solve_adjoint(
    field: Field,
    y: Tensor,
    times: Tensor,
    ys: Tensor,
    parameters: tuple[Tensor, ...],
    way: WayBack,
    backend: str | None,
) -> Tensor:
    """ys [T, R, N] with gradients for y, times and the parameters.

    With a = dL/dy(t): da/dt = -a^T df/dy, dL/dtheta = int a^T df/dtheta dt (Pontryagin et al.
    1962; Chen et al. 2018, arXiv 1806.07366). y is solved backwards with a and set right at every
    output. The integral is summed by the weights of the accepted steps of each sample, or with
    joint steps and the full norm is part of the state. Not differentiable twice.
    """
    apply: Callable[..., Tensor] = _Adjoint.apply
    return apply(field, way, backend, ys, times, y, *parameters)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        field: Field,
        way: WayBack,
        backend: str | None,
        ys: Tensor,
        times: Tensor,
        y: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.field, ctx.way, ctx.backend = field, way, backend
        ctx.save_for_backward(ys, times, y, *parameters)
        return ys.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ys, times, _, *parameters = ctx.saved_tensors
        _, _, _, _, want_times, *_ = ctx.needs_input_grad
        solve = _BackwardSolve(ctx.field, ctx.way, ctx.backend, tuple(parameters), want_times)
        y_grad, time_grad, parameter_grads = solve(ys, times, gradients[0])
        return None, None, None, None, time_grad, y_grad, *parameter_grads


class _BackwardSolve:
    """Solves for [y, a] in rows of 2 N elements, or with parameters [y, a, g] in the one row."""

    def __init__(
        self,
        field: Field,
        way: WayBack,
        backend: str | None,
        parameters: tuple[Tensor, ...],
        want_times: bool,
    ) -> None:
        self.field, self.way, self.backend = field, way, backend
        self.parameters, self.want_times = parameters, want_times
        self.looked = False  # whether f's value is one that autograd knows
        # The parameters' gradients are a sum over steps, or else a part of the state.
        self.summed = way.seminorm and bool(parameters)
        self.totals = [torch.zeros_like(p) for p in parameters]
        # Of the stages of the step under way: value, its (stage state, parameters), cotangent.
        self.graphs: list[tuple[Tensor, Tensor]] = []
        # k_0 and the samples that it is of; None if it is not of one evaluation.
        self.head: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        self.begins = False

    def __call__(
        self, ys: Tensor, times: Tensor, gradients: Tensor
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        rows, size = ys.shape[1:]
        way = self.way
        own = times.expand(rows, -1)
        a = gradients[-1].clone()
        time_grad = torch.zeros(own.shape, dtype=torch.float64, device=ys.device)
        extra = 0 if self.summed else sum(p.numel() for p in self.parameters)
        proposal: Tensor | None = None
        for j in range(own.shape[1] - 1, 0, -1):
            y = ys[j]
            if self.want_times:
                time_grad[:, j] = self._rate(own[:, j], y, gradients[j])
            parts = [y, a]
            if extra:
                parts.append(torch.cat([g.reshape(1, -1) for g in self.totals], 1).to(y.dtype))
            state = torch.cat(parts, 1)
            layout = self._layout(state, size, extra)
            back = Field(self._slope, layout, None)
            back.told, back.compact = not layout.joint, self.field.compact
            self.graphs, self.head, self.begins = [], None, True
            first = None if proposal is None else proposal.clamp(min=1e-300)
            outcome = integrate(
                back,
                state,
                own[:, [j, j - 1]],
                way.tableau,
                way.rtol,
                way.atol,
                way.step_size,
                first,
                self.backend,
                self if self.summed else None,
            )
            check(outcome, way.step_size.max_steps)
            moved = outcome.accepted > 0
            if bool(moved.all()):
                proposal = outcome.proposal
            a = outcome.y[:, size : 2 * size] + gradients[j - 1]
            if extra:
                sizes = [p.numel() for p in self.parameters]
                pieces = torch.split(outcome.y[0, 2 * size :], sizes)
                self.totals = [
                    x.reshape(p.shape) for x, p in zip(pieces, self.parameters, strict=True)
                ]
        if not self.want_times:
            return a, None, self.totals
        # The start's rate has all of a but what came at the start itself.
        time_grad[:, 0] = -self._rate(own[:, 0], ys[0], a - gradients[0])
        found = time_grad if times.ndim == 2 else time_grad.sum(0)
        return a, found, self.totals

    def _layout(self, state: Tensor, size: int, extra: int) -> StateLayout:
        joint = self.field.state.joint
        layout = StateLayout(state, joint=False)
        layout.joint = joint
        if joint:
            layout.shapes = [state.shape]
        ends = self.field.state.segment_ends
        layout.segment_ends = torch.cat([ends, ends + size])
        if extra:
            layout.segment_ends = torch.cat(
                [layout.segment_ends, torch.tensor([2 * size + extra], device="cpu")]
            )
        live = self.field.state.live
        if live is not None:
            rest = live.new_full((len(live), 1 if extra else 0), extra)
            layout.live = torch.cat([live, live, rest], 1)
        return layout

    def _rate(self, t: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """a^T f at outputs: how L changes with their times."""
        slope = self._value(t.to(y.dtype), y, torch.arange(len(y), device=y.device))
        return (slope * a).sum(1).double()

    def _value(self, t: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
        return self.field.call(t, y, rows)

    def _slope(self, t: Tensor, state: Tensor, rows: Tensor | None = None) -> Tensor:
        size = self.field.state.segment_ends[-1]
        state = state.reshape(-1, state.shape[-1])
        y, a = state[:, :size].detach(), state[:, size : 2 * size].clone()
        times = t.reshape(1) if t.ndim == 0 else t
        with torch.enable_grad():
            y = y.clone().requires_grad_()
            value = self._value(times, y, rows)
            inputs = [y] if self.summed else [y, *self.parameters]
            found: tuple[Tensor | None, ...] = (None,) * len(inputs)
            if not self.looked:
                check_recorded("f", value, lambda: self._value(times, elsewhere(y), rows), "y")
                self.looked = True
            if value.requires_grad:
                found = torch.autograd.grad(
                    value, inputs, a, retain_graph=self.summed, allow_unused=True
                )
        if self.summed:
            self.graphs.append((value, a))
        pieces = [
            torch.zeros_like(p) if g is None else g for p, g in zip(inputs, found, strict=True)
        ]
        flat = [value.detach(), -pieces[0], *(-g.reshape(1, -1).to(a.dtype) for g in pieces[1:])]
        return torch.cat(flat, 1)

    def decided(self, w: Workspace, rows: int) -> None:
        """Add h sum_i b_i a_i^T df/dtheta of the accepted rows."""
        count, control = w.count[:, :rows], w.control[:, :rows]
        taken = (count[Count.TAKEN] != 0) & (count[Count.STATUS] == Status.RUNNING)
        weights = self.way.tableau.weights
        # The first step's size took evaluations that belong to no stage: the last ones count.
        graphs = self.graphs[-(len(weights) - 1) :]
        sample = count[Count.ROW].clone()
        if self.begins:  # the first evaluation of all is that of k_0
            self.head, self.begins = (sample, self.graphs[0]), False
        if bool(taken.any()):
            h = torch.where(taken, control[Control.STEP], 0.0)
            for weight, (value, a) in zip(weights, [self._first(w, sample), *graphs], strict=True):
                if weight and value.requires_grad:
                    scaled = a * (-h * weight).to(a.dtype)[:, None]
                    found = torch.autograd.grad(value, self.parameters, scaled, allow_unused=True)
                    for total, g in zip(self.totals, found, strict=True):
                        if g is not None:
                            total.add_(g)
            # The last stage is the next step's first for all rows that still move, or for some.
            every = bool((taken | (count[Count.STATUS] != Status.RUNNING)).all())
            self.head = (sample, graphs[-1]) if every else None
        self.graphs = []

    def _first(self, w: Workspace, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Value and cotangent of k_0, evaluated again if it is of different steps of the rows."""
        if self.head is not None and torch.equal(self.head[0], sample):
            return self.head[1]
        kept, self.graphs = self.graphs, []
        state = w.y[: len(sample)]
        time = w.control[Control.TIME, : len(sample)].to(state.dtype)
        self._slope(time[0] if self.field.state.joint else time, state, sample)
        (found,), self.graphs = self.graphs, kept
        return found

    def moved(self, w: Workspace, rows: int) -> None:
        """Nothing is left to do."""
