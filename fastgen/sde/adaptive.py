"""Error-controlled steps along a Brownian motion, each sample with steps to itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_choice, check_nonnegative, per_row
from fastgen.common.display import displayed
from fastgen.common.repeats import FIRST_LOOK, Looks, check_repeats
from fastgen.common.rounding import square_root
from fastgen.common.step_size import LEAST_ERROR, Controller, fitted
from fastgen.kernels.stochastic_combine.operator import stochastic_combine
from fastgen.sde.equation import Equation
from fastgen.sde.fixed import evaluate, scalar_table
from fastgen.sde.motions import Motion, Parts, unit_noises
from fastgen.sde.recipe import STATE, Combine, FieldCall, MatrixProduct, StepRecipe

# Steps shorter than this part of the path's interval come near the cells of the tree, 2^-24 of it.
SHORTEST = 2.0**-20
STEPS = ("per_sample", "joint")


@displayed
@dataclass(frozen=True)
class Adaptive(Controller):
    """Error-controlled steps of `fastgen.sdeint`.

    A step's error is its difference from two of half the length, and
    sqrt(mean((error / (atol + rtol |y|))^2)) <= 1 is accepted.

    Args:
        rtol, atol: tolerances.
        step: "per_sample", or "joint": steps that all samples share, by the root mean square of
            their errors, for f and g that take one time for all.
        max_steps: most attempts of one sample.
        first_step: None is 1 / 100 of the interval.
        min_step: shortest step, accepted whatever its error; 0 is 2^-20 of the interval, as a
            path's increments are independent down to 2^-24 of it.
        max_step: longest step.
        integral, proportional, derivative, safety, min_factor, max_factor: as of `Controller`.

    Raises:
        ValueError: naming the number that is out of range.
    """

    max_factor: float = 5.0
    rtol: float = 1e-3
    atol: float = 1e-4
    step: str = "per_sample"
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("rtol", self.rtol)
        check_nonnegative("atol", self.atol)
        if self.rtol == 0 == self.atol:
            raise ValueError("rtol=0, atol=0: one of them must be positive")
        check_choice("step", self.step, STEPS)
        check_at_least("max_steps", self.max_steps, 1)

    def on(self, span: float) -> Adaptive:
        """The same with the shortest step of an interval of that length."""
        shortest = self.min_step or SHORTEST * span
        return self if shortest == self.min_step else replace(self, min_step=shortest)


@dataclass(frozen=True)
class Adapted:
    """States [T, B, ...] and, for each sample, int64 [B] attempts that were accepted and not."""

    ys: Tensor
    accepted: Tensor
    rejected: Tensor


def row_norm(x: Tensor) -> Tensor:
    """The root mean square of each row, float64 [B], in an order that no other row changes."""
    squares = x.reshape(len(x), -1).double().square()
    count = squares.shape[1]
    width = 1 << max(count - 1, 0).bit_length()
    total = torch.nn.functional.pad(squares, (0, width - count))
    while width > 1:
        width //= 2
        total = total[:, :width] + total[:, width:]
    return square_root(total[:, 0] / max(count, 1))


class Stepper:
    """One step of a recipe with a time and a length for each row."""

    def __init__(self, equation: Equation, recipe: StepRecipe) -> None:
        self.equation, self.recipe = equation, recipe

    def __call__(
        self, y: Tensor, t: Tensor, h: Tensor, end: Tensor, parts: Parts, shared: dict[Any, Tensor]
    ) -> Tensor:
        """Y at ``end`` from y at t, |end - t| = h [B]; ``shared`` keeps evaluations at (t, y)."""
        units = unit_noises(parts, h, self.equation.dtype)
        equation, values = self.equation, [None] * self.recipe.registers
        registers: list[Any] = values
        registers[STATE] = y
        for i in self.recipe.lines:
            if isinstance(i, FieldCall):
                key = (i.kind, i.at, i.c) if i.at == STATE and i.c == 0 else None
                if key is not None and key in shared:
                    registers[i.register] = shared[key]
                    continue
                node = end if i.c == 1 else t + i.c * (end - t)
                value = evaluate(equation, i, self.recipe, node.to(equation.dtype), registers)
                registers[i.register] = value
                if key is not None:
                    shared[key] = value
            elif isinstance(i, MatrixProduct):
                registers[i.register] = equation.product(registers[i.of], units[i.unit])
            else:
                self._combine(i, registers, h, units)
        result: Tensor = registers[self.recipe.result]
        return result

    def _combine(self, i: Combine, values: list[Any], h: Tensor, units: list[Tensor]) -> None:
        table, given = i.tables(h), units[: i.units]
        if self.equation.scalar and given:
            table, given = scalar_table(table, given), []
        kinds = [self.equation.dtype] * len(i.outputs)
        inputs = [values[register] for register in i.inputs]
        results = stochastic_combine(inputs, table, kinds, given=given)
        for register, value in zip(i.outputs, results, strict=True):
            values[register] = value


class Step(Protocol):
    """Makes one step: see `Stepper`."""

    def __call__(
        self, y: Tensor, t: Tensor, h: Tensor, end: Tensor, parts: Parts, shared: dict[Any, Tensor]
    ) -> Tensor:
        """The state at ``end``."""


def solve_adaptive(
    equation: Equation,
    step_to: Step,
    motion: Motion,
    times: Tensor,
    y: Tensor,
    control: Adaptive,
    order: float,
) -> Adapted:
    """States at the times; see `Adaptive`.

    Two steps of half the length are kept, and the whole one shows their error. The noise is the
    motion's, so that a refused step is tried again on parts of the same motion. order: the method's
    strong order.
    """
    device, rows = equation.device, equation.shape[0]
    span = float((times[-1] - times[0]).abs())
    direction = 1.0 if times[-1] > times[0] else -1.0
    control, padding = control.on(span), equation.padding
    # Of strong order p the error of one step is of order p + 1/2.
    rule = control.step_size(order + 0.5, control.max_steps)
    known = times.to(device)
    t = known[:1].expand(rows).clone()
    size = torch.full_like(t, span / 100)
    if control.first_step is not None:
        first = torch.as_tensor(control.first_step, dtype=t.dtype, device=device)
        size = first.expand(rows).clone()
    cursor = torch.ones(rows, dtype=torch.int64, device=device)
    accepted, rejected = torch.zeros_like(cursor), torch.zeros_like(cursor)
    older, oldest = torch.ones_like(t), torch.ones_like(t)
    motion.begin(t)
    ys: list[Tensor] = [y] + [torch.full_like(y, math.nan)] * (len(times) - 1)

    looks = Looks(FIRST_LOOK // 4)  # in steps
    while True:
        running = cursor < len(times)
        if not bool(running.any()):
            break
        if looks.due(int((accepted + rejected).max())):
            with torch.no_grad():
                scale = control.atol + control.rtol * y.abs()
                found, again = equation.drift(t, y).clone(), equation.drift(t, y)
                check_repeats("f", found, again, size, scale, torch.arange(rows, device=device))
        target = known[cursor.clamp(max=len(times) - 1)]
        h = fitted((target - t).abs(), size)
        whole = h == (target - t).abs()
        end = torch.where(whole, target, t + direction * h)
        middle = t + (end - t) / 2
        half_h = h / 2
        early, late, both = motion.parts(t, middle, end)
        shared: dict[Any, Tensor] = {}
        full = step_to(y, t, h, end, both, shared)
        half = step_to(y, t, half_h, middle, early, shared)
        two = step_to(half, middle, half_h, end, late, {})
        with torch.no_grad():
            scale = control.atol + control.rtol * torch.maximum(y.abs(), two.abs())
            ratio = (two - full) / scale
            error = row_norm(ratio if padding is None else padding.clear(ratio))
            if control.step == "joint":
                error = row_norm(error[None]).expand(rows)
            if padding is not None:  # of the live elements; where there are none it is 0
                error = error / padding.factor.clamp(min=LEAST_ERROR)
            bad = running & (h <= rule.min_step) & ~torch.isfinite(error)
            if bool(bad.any()):
                sample = int(bad.nonzero()[0])
                raise RuntimeError(
                    f"sample {sample} is not finite after t={float(t[sample]):.9g}, however short "
                    "the step; look at f and g there"
                )
            taken = running & rule.accepts(error, h)
            factor = rule.factor(error, taken, (older, oldest))
            oldest = torch.where(taken, older, oldest)
            older = torch.where(taken, error.clamp(min=LEAST_ERROR), older)
            # A step cut short by an output says little about longer ones.
            kept = taken & whole & (factor >= 1)
            proposed = torch.where(kept, torch.maximum(size, h * factor), h * factor)
            size = torch.where(running, rule.within(proposed), size)
        y = torch.where(per_row(taken, y), two, y)
        t = torch.where(taken, end, t)
        motion.move(taken)
        arrived = taken & (end == target)
        for k in cursor[arrived].unique().tolist():
            ys[k] = torch.where(per_row(arrived & (cursor == k), y), y, ys[k])
        cursor = cursor + arrived
        accepted = accepted + taken
        rejected = rejected + (running & ~taken)
        slow = (accepted + rejected >= rule.max_steps) & (cursor < len(times))
        if bool(slow.any()):
            sample = int(slow.nonzero()[0])
            raise RuntimeError(
                f"sample {sample} is at t={float(t[sample]):.9g} after max_steps="
                f"{rule.max_steps} steps ({int(rejected[sample])} rejected); allow more, "
                "or loosen rtol and atol"
            )
    return Adapted(torch.stack(ys), accepted, rejected)
