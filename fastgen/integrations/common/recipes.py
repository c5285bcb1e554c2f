"""A solver on the caller's noise levels, lowered once and kept for calls with the same levels.

The levels become a plan on an EDM process whose time is sigma / 2^k, a quotient without rounding.
Noise that the caller makes is an input of the stage that adds it; noise of the library's contract
is made inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.common.devices import upload
from fastgen.common.kept import kept
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans import Builder, Form
from fastgen.plans.forms import Evaluate, Increment, Let, Normal, State, Symbol, Value
from fastgen.plans.lowering import lower
from fastgen.sampling.prepared import PreparedProgram
from fastgen.schedules import EDM

# A solver: build(builder, times, **options) -> the last state.
Build = Callable[..., Form]
# The two noise levels of a step.
Span = tuple[float, float]
MARGIN = 1.5  # churn goes up to sqrt(2) times the highest level


class Recipe(PreparedProgram):
    """A lowered plan on given noise levels, and the order of things in a run of it.

    Attributes:
        steps: their number.
        evaluations: the noise level of each network call.
        first: the first evaluation of each step.
        last: the stage that ends each step.
        spans: by draw, the noise levels between which its noise lies.
        final_use: by draw, the last stage that reads it.
        added: by stage, how many draws it is the first to read.
    """

    def __init__(
        self,
        build: Build,
        sigmas: tuple[float, ...],
        options: Mapping[str, Any],
        given: bool,
        cast: bool,
    ) -> None:
        top = 2.0 ** math.ceil(math.log2(MARGIN * max(sigmas)))
        schedule = EDM(sigma_min=top * 2.0**-100, sigma_max=top)
        builder = Builder(schedule, "data")
        try:
            result = builder.let(build(builder, [s / top for s in sigmas], **options))
        except ArithmeticError as error:
            raise ValueError(
                f"sigmas: this sampler has no step between two of these noise levels ({error}); "
                "give decreasing levels, no two of them equal"
            ) from error
        except ValueError as error:
            rising = [(a, b) for a, b in pairwise(sigmas) if b > a]
            if not rising or "=" in str(error):  # an argument's error names it
                raise
            raise ValueError(
                f"sigmas: this sampler has no step from {rising[0][0]!r} up to {rising[0][1]!r}; "
                "give decreasing levels"
            ) from error
        instructions = tuple(builder.instructions)
        if given:
            instructions = tuple(map(_with_given_noise, instructions))
        (register,) = result.terms
        assert isinstance(register, Value)
        super().__init__(
            lower(instructions, register, Parametrisation(schedule, "data"), cast=cast)
        )
        self.steps = len(sigmas) - 1
        self.evaluations = [i.time * top for i in instructions if isinstance(i, Evaluate)]
        done, self.last = 0, list[int]()
        for i in instructions:
            done += isinstance(i, Evaluate)
            if isinstance(i, State):
                self.last.append(done)
        self.first = [0, *self.last[:-1]]
        self.spans: dict[int, Span] = {}
        self.final_use: dict[int, int] = {}
        self.added: list[int] = [0] * len(self.program.stages)
        for s, stage in enumerate(self.program.stages):
            for z in () if stage is None else stage.inputs:
                if isinstance(z, Increment):
                    self.added[s] += z.draw not in self.spans
                    self.spans[z.draw] = z.start * top, z.end * top
                    self.final_use[z.draw] = s
        self._levels: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def levels(self, x: Tensor) -> Tensor:
        """What the model is given as sigma, [evaluations, B], in the dtype of x."""
        key = x.shape[0], x.device, x.dtype
        if key not in self._levels:
            self._levels.clear()  # one at a time

        def made() -> Tensor:
            column = torch.from_numpy(np.array(self.evaluations))[:, None].repeat(1, key[0])
            return upload(column.to(x.dtype), x.device)

        return kept(self._levels, key, made)


@lru_cache(maxsize=128)
def recipe(
    build: Build,
    sigmas: tuple[float, ...],
    options: tuple[tuple[str, Any], ...],
    given: bool,
    cast: bool,
) -> Recipe:
    """The recipe of these arguments, made once.

    Args:
        build: the solver.
        sigmas: the noise levels [n + 1].
        options: the solver's, as sorted pairs.
        given: whether noise comes from the caller, not from the kernels.
        cast: whether the network's dtype is another than the state's.

    Raises:
        ValueError: for levels between which the solver has no step.
    """
    return Recipe(build, sigmas, dict(options), given, cast)


def _with_given_noise(i: Any) -> Any:
    """The instruction, with inputs in place of the normals that it would draw."""
    if not isinstance(i, Let):
        return i
    terms: dict[Symbol, float] = {
        Increment(s.draw, s.start, s.end) if isinstance(s, Normal) else s: c
        for s, c in i.form.terms.items()
    }
    return Let(i.value, Form(terms))


def before_each_step(found: Recipe, levels: tuple[float, ...]) -> dict[int, Span]:
    """By stage, the draws of samplers with churn: one in every step, whether it churns or not."""
    return {stage: (levels[i], levels[i + 1]) for i, stage in enumerate(found.first)}
