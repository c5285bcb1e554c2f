"""Steps of given lengths: evaluate drift and diffusion, let the kernel do everything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgen.common.transforms import outside_transforms
from fastgen.kernels import Noise
from fastgen.kernels.stochastic_combine.contract import MONOMIALS
from fastgen.kernels.stochastic_combine.operator import bind_stochastic, stochastic_combine
from fastgen.sde.compiled import Fields
from fastgen.sde.equation import Equation
from fastgen.sde.recipe import STATE, Combine, FieldCall, MatrixProduct, StepRecipe
from fastgen.sde.sources import Draws, Source

# A kernel call: (step, the registers, z and z') puts its outputs into the registers.
Call = Callable[[int, list[Any], list[Tensor]], None]


class StepTimes:
    """A grid's times in the shapes and dtypes that a solve reads."""

    @outside_transforms
    def __init__(self, grid: Tensor, equation: Equation) -> None:
        self.times, self.lengths = grid, grid.diff().abs()
        self.equation = equation
        self._nodes: dict[float, tuple[Tensor, ...]] = {}

    @outside_transforms
    def node(self, n: int, c: float) -> Tensor:
        """t_n + c h_n, [B]."""
        if c not in self._nodes:
            start, end = self.times[:-1], self.times[1:]
            nodes = end if c == 1 else start + c * (end - start)
            equation = self.equation
            column = nodes.to(equation.dtype).to(equation.device)[:, None]
            self._nodes[c] = column.expand(-1, equation.shape[0]).unbind(0)
        return self._nodes[c][n]


def evaluate(
    equation: Equation, call: FieldCall, recipe: StepRecipe, t: Tensor, values: list[Any]
) -> Tensor:
    """The value of one evaluation."""
    y = values[call.at]
    if call.kind == "f":
        return equation.drift(t, y)
    if call.kind == "g":
        return equation.diffusion(t, y)
    for other in recipe.lines:  # g itself is there mostly
        if (
            isinstance(other, FieldCall)
            and (other.kind, other.at, other.c) == ("g", call.at, call.c)
            and values[other.register] is not None
        ):
            return equation.derivative(t, y, values[other.register])
    return equation.derivative(t, y, equation.diffusion(t, y))


def solve_fixed(
    equation: Equation,
    recipe: StepRecipe,
    source: Source,
    grid: Tensor,
    places: list[int],
    y0: Tensor,
    differentiable: bool,
    backend: str | None,
    compiled: bool = False,
) -> Tensor:
    """States at the grid's times ``places``, [T, B, ...]; see `fastgen.sdeint`.

    compiled: f and g as compiled code, of a solve that is not differentiable.
    """
    times, steps = StepTimes(grid, equation), len(grid) - 1
    noise = _drawn(recipe, source, equation, steps)
    state = y0 if differentiable else y0.detach().clone(memory_format=torch.contiguous_format)
    values: list[Any] = [None] * recipe.registers
    values[STATE] = state
    tables = {}
    for combine in recipe.combines:
        table = combine.tables(times.lengths).to(equation.device).contiguous()
        if differentiable:
            tables[id(combine)] = _operator(combine, table, noise, equation)
        else:
            tables[id(combine)] = _bound(combine, recipe, table, noise, equation, values, backend)
    units = 0 if noise is not None else recipe.units
    outputs = [y0] if differentiable else [state.clone()]
    wanted = iter([*places[1:], -1])  # -1: no step is left whose state is wanted
    next_place = next(wanted)
    fields = Fields(equation, recipe) if compiled else None
    lines = recipe.lines if fields is None else fields.parts
    for n in range(steps):
        z = source.units(n, units) if units else []
        for i in lines:
            if isinstance(i, list):
                assert fields is not None
                fields(
                    i,
                    partial(times.node, n),
                    values,
                    lambda call, t: evaluate(equation, call, recipe, t, values),
                )
            elif isinstance(i, FieldCall):
                t = times.node(n, i.c)
                values[i.register] = evaluate(equation, i, recipe, t, values)
            elif isinstance(i, MatrixProduct):
                values[i.register] = equation.product(values[i.of], z[i.unit])
            else:
                tables[id(i)](n, values, z)
        if differentiable:  # bound calls have written it into the state's own memory
            values[STATE] = values[recipe.result]
        if n + 1 == next_place:
            outputs.append(values[STATE] if differentiable else state.clone())
            next_place = next(wanted)
    return torch.stack(outputs)


def _drawn(recipe: StepRecipe, source: Source, equation: Equation, steps: int) -> Noise | None:
    """The noise that a kernel draws itself: where one call alone reads it, element by element."""
    readers = [c for c in recipe.combines if c.units]
    if not isinstance(source, Draws) or equation.matrix or equation.scalar or len(readers) != 1:
        return None
    return source.noise(steps, readers[0].units)


@outside_transforms
def scalar_table(table: Tensor, z: list[Tensor]) -> Tensor:
    """A table [M, N, 5] for each row, with the row's noise in it: [B, M, N, 5]."""
    first = z[0].reshape(-1).double()
    other = z[1].reshape(-1).double() if len(z) > 1 else torch.zeros_like(first)
    monomials = torch.stack([torch.ones_like(first), first, first**2, first**3, other], -1)
    result = torch.zeros(len(first), *table.shape[-3:], dtype=torch.float64, device=table.device)
    # Left to right, each product and sum rounded once: not a matrix product, whose order of
    # summation may depend on the number of rows.
    for k in range(MONOMIALS):
        result[..., 0] += table[..., k] * monomials[:, k, None, None]
    return result


def _operator(combine: Combine, table: Tensor, noise: Noise | None, equation: Equation) -> Call:
    """As a differentiable operator."""

    def call(n: int, values: list[Any], z: list[Tensor]) -> None:
        inputs = [values[i] for i in combine.inputs]
        kinds = [equation.dtype] * len(combine.outputs)
        drawn, given, rows = None, z[: combine.units], table[n][None]
        if equation.scalar and given:
            rows, given = scalar_table(table[n], z), []
        elif noise is not None and combine.units:
            drawn = noise._replace(draws=noise.draws[n])
        results = stochastic_combine(inputs, rows, kinds, noise=drawn, given=given)
        for register, value in zip(combine.outputs, results, strict=True):
            values[register] = value

    return call


def _bound(
    combine: Combine,
    recipe: StepRecipe,
    table: Tensor,
    noise: Noise | None,
    equation: Equation,
    values: list[Any],
    backend: str | None,
) -> Call:
    """On fixed buffers; the new state overwrites the old."""
    state = values[STATE]
    for register in combine.outputs:
        values[register] = state if register == recipe.result else torch.empty_like(state)
    made = {STATE} | {r for c in recipe.combines for r in c.outputs}
    inputs = [values[i] if i in made else None for i in combine.inputs]
    rest = [i for i in combine.inputs if i not in made]
    outputs = [values[i] for i in combine.outputs]
    count = combine.units
    if equation.scalar and count:
        shape = (1, equation.shape[0], *table.shape[1:])
        buffer = torch.zeros(shape, dtype=torch.float64, device=table.device)
        bound = bind_stochastic(inputs, outputs, buffer, backend=backend)

        def call_scalar(n: int, values: list[Any], z: list[Tensor]) -> None:
            buffer[0] = scalar_table(table[n], z)
            bound(0, [values[i] for i in rest])

        return call_scalar
    given: list[Tensor | None] = []
    if noise is None:
        given = [None] * count
    elif count == 0:
        noise = None
    bound = bind_stochastic(
        inputs, outputs, table[:, None], noise=noise, given=given, backend=backend
    )

    def call(n: int, values: list[Any], z: list[Tensor]) -> None:
        bound(n, [*[values[i] for i in rest], *z[: len(given)]])

    return call
