"""Runge-Kutta steps of a velocity model on a time grid, as plans: one kernel call per stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from fastgen.common.devices import upload
from fastgen.common.kept import kept
from fastgen.common.layouts import in_channels_last
from fastgen.common.memory import OwnMemory
from fastgen.common.tableau import Tableau
from fastgen.common.tangents import carried
from fastgen.common.transforms import functional, to_list, transforming
from fastgen.common.unwritten import check_unwritten, version
from fastgen.integrations.common.noise import unread_keys
from fastgen.integrations.common.tensors import check_state
from fastgen.model.output import check_output
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans import Builder, Form
from fastgen.plans.forms import Computed, Increment, Value
from fastgen.plans.lowering import lower
from fastgen.sampling.prepared import PreparedProgram
from fastgen.sampling.recorded import RecordedRun
from fastgen.sampling.run import BufferKey, InPlaceRun
from fastgen.schedules import Rectified
from fastgen.solvers.velocity import EULER, HEUN
from fastgen.solvers.velocity_rk import MIDPOINT, THREE_EIGHTHS

HEUN_3 = Tableau((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4))
# torchdiffeq's names; its rk4 is the 3/8 rule
METHODS = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun2": HEUN,
    "heun3": HEUN_3,
    "rk4": THREE_EIGHTHS,
}


class FixedSteps(PreparedProgram):
    """The program of one method on one grid.

    times: of the evaluations; weights: of each in the integral of anything over the grid.
    """

    def __init__(
        self, method: str, grid: tuple[float, ...], outputs: tuple[float, ...], cast: bool
    ) -> None:
        tableau, schedule = METHODS[method], Rectified()
        builder = Builder(schedule)
        x, self.times, self.weights = builder.initial(), list[float](), list[float]()
        for s, t in pairwise(grid):
            h = t - s
            slopes: list[Form] = []
            for node, row in zip(tableau.c, tableau.a, strict=True):
                point = sum((h * a * k for a, k in zip(row, slopes, strict=True)), x)
                slopes.append(builder.velocity(point, s + node * h))
                self.times.append(s + node * h)
            self.weights += [h * b for b in tableau.weights]
            change = sum((h * b * k for b, k in zip(tableau.weights, slopes, strict=True)), x)
            new = builder.let(change)
            low, high = min(s, t), max(s, t)
            for u in outputs:
                if low < u < high or u == t:
                    w = (u - s) / h
                    builder.state(new if u == t else (1 - w) * x + w * new, u)
            x = new
        (register,) = x.terms
        assert isinstance(register, Value)
        program = lower(
            builder.instructions,
            register,
            Parametrisation(schedule, "velocity"),
            cast=cast,
            observe=bool(outputs),
            keep_states=bool(outputs),
        )
        super().__init__(program)
        self._times: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def times_like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The times of the evaluations, tensors without axes in the dtype of x."""
        key = x.device, x.dtype
        if key not in self._times:
            self._times.clear()  # one at a time

        def made() -> Tensor:
            return upload(
                torch.tensor(self.times, dtype=torch.float64, device="cpu").to(x.dtype), x.device
            )

        return kept(self._times, key, made).clone().unbind()  # a model may change its time in place


fixed_steps = lru_cache(maxsize=64)(FixedSteps)


class VelocityCalls:
    """The model's calls in one run (`fastgen.sampling.run.Evaluations`)."""

    def __init__(
        self, field: Callable[[int, Tensor, Tensor], Tensor], times: Sequence[Tensor], x: Tensor
    ) -> None:
        self.field, self.times = field, times
        self.shape, self.device, self._own = x.shape, x.device, OwnMemory()

    def __call__(
        self, k: int, network_input: Tensor, state: Tensor | None, /
    ) -> tuple[Tensor, ...]:
        """The velocity."""
        before = version(network_input)
        velocity = carried(
            "velocity_model", lambda x: self.field(k, x, self.times[k]), network_input
        )
        check_unwritten("velocity_model", network_input, before)
        check_output(
            velocity,
            self.shape,
            self.device,
            "velocity_model",
            call="velocity_model(x=, t=, **extras)",
        )
        return (self._own(velocity),)

    def provide(
        self,
        symbol: Computed | Increment,
        outputs: tuple[Tensor, ...],
        state: Tensor | None,
        dtype: torch.dtype,
        /,
    ) -> Tensor:
        """Nothing: these programs read states and velocities only."""
        raise AssertionError(symbol)


def times_of(time_grid: Tensor | Sequence[float]) -> list[float]:
    """The times [T] of a grid as numbers.

    Raises:
        ValueError: for a tensor of another number of axes.
    """
    if isinstance(time_grid, Tensor) and time_grid.ndim != 1:
        raise ValueError(f"time_grid: expected times [T], got shape {tuple(time_grid.shape)}")
    times = to_list(time_grid) if isinstance(time_grid, Tensor) else time_grid
    return [float(t) for t in times]


def grid_of(times: Sequence[float], step_size: float | None) -> tuple[float, ...]:
    """The times themselves, or steps of that size from the first to the last, which is shorter.

    Raises:
        ValueError: for times that are not in order, or a step size out of range.
    """
    values = [float(t) for t in times]
    signs = {math.copysign(1, t - s) if t != s else 0.0 for s, t in pairwise(values)}
    if len(values) < 2 or len(signs) > 1 or 0 in signs or not all(map(math.isfinite, values)):
        raise ValueError(
            f"time_grid: expected two or more times that only rise or only fall, got {values}"
        )
    if step_size is None:
        return tuple(values)
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size={step_size!r}: expected a positive number")
    start, end = values[0], values[-1]
    count = max(1, math.ceil(abs(end - start) / step_size - 1e-6))
    h = math.copysign(step_size, end - start)
    return (*(start + i * h for i in range(count)), end)


def integrate(
    field: Callable[[int, Tensor, Tensor], Tensor],
    x: Tensor,
    times: Sequence[float],
    step_size: float | None,
    method: str,
    intermediates: bool,
    enable_grad: bool,
    weigh: Callable[[Sequence[float]], None] = lambda weights: None,
) -> Tensor:
    """x at the last time, or at all times [T, ...].

    Args:
        field: called as field(number of the evaluation, x, t without axes) -> velocity.
        x: the state at the first time.
        times: in order, up or down.
        step_size: of the steps; None goes from time to time.
        method: one of ``METHODS``.
        intermediates: whether all times are wanted; between steps they are interpolated linearly.
        enable_grad: record the run for autograd.
        weigh: told the weights of the evaluations before the run.
    """
    check_state("x_init", x)
    grid = grid_of(times, step_size)
    state = torch.float64 if x.dtype == torch.float64 else torch.float32
    outputs = tuple(float(t) for t in times[1:]) if intermediates else ()
    found = fixed_steps(method, grid, outputs, state != x.dtype)
    weigh(found.weights)
    calls = VelocityCalls(field, found.times_like(x), x)
    work: InPlaceRun | RecordedRun
    recorded = enable_grad or transforming()  # buffers have no room for tangents
    if recorded:
        work = RecordedRun(found.program, found.tables(x.device), (state, x.dtype), False)
    else:
        kind = 1, bool(outputs), bool(outputs), None, in_channels_last(x)
        key = BufferKey(tuple(x.shape), x.device, (state, x.dtype), *kind)
        work = found.workspace(key)
    work.start(x.to(state) if recorded else x, *unread_keys(x.shape[0], x.device))
    with torch.set_grad_enabled(enable_grad or functional()):
        for k in range(-1, len(found.times)):
            work.advance(k, calls)
        if not intermediates:
            result = work.finish()
        else:
            result = torch.stack([x.to(state), *(work.slots[b] for _, b in found.program.states)])
            work.finish()
    if isinstance(work, InPlaceRun):
        found.keep(work)
    return result.to(x.dtype)
