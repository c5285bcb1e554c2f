"""Error-controlled steps along a Brownian path, each sample its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.kernels.random_combine.operator import stochastic_combine
from fastgen.noise.brownian_path import BrownianPath
from fastgen.sde.equation import Equation
from fastgen.sde.expressions import STATE, Combine, Contract, Evaluate, Program, square_root
from fastgen.sde.fixed import evaluate, scalar_table

SAFETY, MIN_FACTOR, MAX_FACTOR = 0.9, 0.2, 5.0
# Steps shorter than this part of the path's interval come near the cells of the tree, 2^-24 of it.
SHORTEST = 2.0**-20


@dataclass(frozen=True)
class Control:
    """Tolerances and limits; see `fastgen.sdeint`."""

    rtol: float
    atol: float
    first_step: float | None
    min_step: float
    max_step: float
    max_steps: int
    order: float
    joint: bool = False


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


def power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent of each number alone: vector code may round it otherwise than its remainder."""
    if x.device.type != "cpu":
        return x**exponent
    found = [v if math.isnan(v) else math.pow(v, exponent) for v in x.tolist()]
    return torch.tensor(found, dtype=torch.float64)


class Stepper:
    """One step of a program with a time and a length for each row."""

    def __init__(self, equation: Equation, program: Program) -> None:
        self.equation, self.program = equation, program

    def __call__(
        self, y: Tensor, t: Tensor, h: Tensor, end: Tensor, z: Tensor, shared: dict[Any, Tensor]
    ) -> Tensor:
        """Y at ``end`` from y at t, |end - t| = h [B]; ``shared`` keeps evaluations at (t, y)."""
        equation, values = self.equation, [None] * self.program.registers
        registers: list[Any] = values
        registers[STATE] = y
        for i in self.program.instructions:
            if isinstance(i, Evaluate):
                key = (i.kind, i.at, i.c) if i.at == STATE and i.c == 0 else None
                if key is not None and key in shared:
                    registers[i.register] = shared[key]
                    continue
                node = end if i.c == 1 else t + i.c * (end - t)
                value = evaluate(equation, i, self.program, node.to(equation.dtype), registers)
                registers[i.register] = value
                if key is not None:
                    shared[key] = value
            elif isinstance(i, Contract):
                registers[i.register] = equation.product(registers[i.of], z)
            else:
                self._combine(i, registers, h, z)
        result: Tensor = registers[self.program.result]
        return result

    def _combine(self, i: Combine, values: list[Any], h: Tensor, z: Tensor) -> None:
        table, given = i.tables(h), [z][: i.units]
        if self.equation.scalar and given:
            table, given = scalar_table(table, given), []
        kinds = [self.equation.dtype] * len(i.outputs)
        inputs = [values[register] for register in i.inputs]
        results = stochastic_combine(inputs, table, kinds, given=given)
        for register, value in zip(i.outputs, results, strict=True):
            values[register] = value


def solve_adaptive(
    equation: Equation,
    program: Program,
    path: BrownianPath,
    times: Tensor,
    y: Tensor,
    control: Control,
) -> Adapted:
    """The error of a step is its difference from two steps of half the length, which are kept."""
    step_to = Stepper(equation, program)
    device, rows = equation.device, equation.shape[0]
    direction = 1.0 if times[-1] > times[0] else -1.0
    shape = (-1, *[1] * (len(equation.noise_shape) - 1))
    state_shape = (-1, *[1] * (len(equation.shape) - 1))
    known = times.to(device)
    t = known[:1].expand(rows).clone()
    size = torch.full_like(t, control.first_step or float((times[-1] - times[0]).abs()) / 100)
    cursor = torch.ones(rows, dtype=torch.int64, device=device)
    accepted, rejected = torch.zeros_like(cursor), torch.zeros_like(cursor)
    here = path.at(t[None])[0]
    ys: list[Tensor] = [y] + [torch.full_like(y, math.nan)] * (len(times) - 1)
    exponent = -1 / (control.order + 0.5)

    def unit(increment: Tensor, root: Tensor) -> Tensor:
        z = increment / root.reshape(shape)
        return torch.where(root.reshape(shape) == 0, 0.0, z).to(equation.dtype)

    while True:
        running = cursor < len(times)
        if not bool(running.any()):
            break
        target = known[cursor.clamp(max=len(times) - 1)]
        rest = (target - t).abs()
        whole = rest <= 1.01 * size
        h = torch.where(whole, rest, size)
        end = torch.where(whole, target, t + direction * h)
        middle = t + (end - t) / 2
        half_h = h / 2
        middle_w, end_w = path.at(torch.stack([middle, end]))
        root, half_root = square_root(h), square_root(half_h)
        shared: dict[Any, Tensor] = {}
        full = step_to(y, t, h, end, unit(end_w - here, root), shared)
        half = step_to(y, t, half_h, middle, unit(middle_w - here, half_root), shared)
        two = step_to(half, middle, half_h, end, unit(end_w - middle_w, half_root), {})
        with torch.no_grad():
            scale = control.atol + control.rtol * torch.maximum(y.abs(), two.abs())
            error = row_norm((two - full) / scale)
            if control.joint:
                error = row_norm(error[None]).expand(rows)
            smallest = h <= control.min_step
            taken = running & ((error <= 1) | smallest)
            bad = running & smallest & ~torch.isfinite(error)
            if bool(bad.any()):
                sample = int(bad.nonzero()[0])
                raise RuntimeError(
                    f"sample {sample} is not finite after t={float(t[sample]):.9g}, however short "
                    "the step; look at f and g there"
                )
            factor = (SAFETY * power(error.clamp(min=1e-12), exponent)).nan_to_num(MIN_FACTOR)
            factor = factor.clamp(MIN_FACTOR, MAX_FACTOR)
            # A step cut short by an output says little about longer ones.
            grown = torch.where(
                taken & whole & (factor >= 1), torch.maximum(size, h * factor), h * factor
            )
            grown = grown.clamp(control.min_step, control.max_step)
            size = torch.where(running, grown, size)
        y = torch.where(taken.reshape(state_shape), two, y)
        t = torch.where(taken, end, t)
        here = torch.where(taken.reshape(shape), end_w, here)
        arrived = taken & (end == target)
        for k in cursor[arrived].unique().tolist():
            now = (arrived & (cursor == k)).reshape(state_shape)
            ys[k] = torch.where(now, y, ys[k])
        cursor = cursor + arrived
        accepted = accepted + taken
        rejected = rejected + (running & ~taken)
        most = accepted + rejected
        if bool((most >= control.max_steps).any()) and bool((cursor < len(times)).any()):
            late = (most >= control.max_steps) & (cursor < len(times))
            if bool(late.any()):
                sample = int(late.nonzero()[0])
                raise RuntimeError(
                    f"sample {sample} is at t={float(t[sample]):.9g} after max_steps="
                    f"{control.max_steps} steps ({int(rejected[sample])} rejected); allow more, "
                    "or loosen rtol and atol"
                )
    return Adapted(torch.stack(ys), accepted, rejected)
