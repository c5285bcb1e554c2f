"""Drift and diffusion as compiled code, bound to a solve's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgen.common.compiled_calls import Call, CompiledFunctions, CompileError, code_of
from fastgen.sde.equation import Equation
from fastgen.sde.recipe import FieldCall, RecipeLine, StepRecipe


class _Place(NamedTuple):
    """One evaluation: "f" or "g", and where its time, its state and its value are."""

    kind: str
    t: int
    y: int
    value: int


def _evaluate(
    subject: tuple[Callable[..., Any], Callable[..., Any], tuple[_Place, ...]], *tensors: Tensor
) -> None:
    """All evaluations of a part of a step, each to its own memory."""
    f, g, places = subject
    for kind, t, y, value in places:
        found = (f if kind == "f" else g)(tensors[t], tensors[y])
        tensors[value].copy_(found.reshape(tensors[value].shape))


_compiled = CompiledFunctions(_evaluate)


class Fields:
    """Evaluations of a step that nothing stands between, as one call each of compiled code."""

    def __init__(self, equation: Equation, recipe: StepRecipe) -> None:
        self._equation = equation
        self._calls: dict[int, Call] = {}
        self._times: dict[float, Tensor] = {}
        self.parts: list[RecipeLine | list[FieldCall]] = []
        for line in recipe.lines:
            if not isinstance(line, FieldCall):
                self.parts.append(line)
            elif self.parts and isinstance(self.parts[-1], list):
                self.parts[-1].append(line)
            else:
                self.parts.append([line])

    def __call__(
        self,
        part: list[FieldCall],
        node: Callable[[float], Tensor],
        values: list[Any],
        eager: Callable[[FieldCall, Tensor], Tensor],
    ) -> None:
        """Put the values of a part's evaluations where they were put at the first step.

        node: the time of an evaluation. eager: its value by f or g themselves, with the checks.
        """
        for c in {call.c for call in part}:
            if c in self._times:
                self._times[c].copy_(node(c))
            else:
                self._times[c] = node(c).clone()
        call = self._calls.get(id(part))
        if call is not None:
            call()
            return
        for one in part:
            found = eager(one, self._times[one.c])
            contiguous = torch.contiguous_format
            values[one.register] = torch.empty_like(found, memory_format=contiguous)
        self._calls[id(part)] = self._bound(part, values)

    def _bound(self, part: list[FieldCall], values: list[Any]) -> Call:
        tensors: list[Tensor] = []

        def place(x: Tensor) -> int:
            for i, other in enumerate(tensors):
                if x is other:
                    return i
            tensors.append(x)
            return len(tensors) - 1

        places = tuple(
            [
                _Place(
                    one.kind,
                    place(self._times[one.c]),
                    place(values[one.at]),
                    place(values[one.register]),
                )
                for one in part
            ]
        )
        f, g = self._equation.f, self._equation.g
        first, second = (f, g) if any(one.kind == "f" for one in part) else (g, None)
        kinds = tuple([x.dtype for x in tensors])
        variant = places, kinds, None if second is None else code_of(second)
        try:
            made, _ = _compiled.of(first, variant).bound((f, g, places), *tensors)
        except CompileError as error:
            raise ValueError(
                f"compile=True: torch.compile cannot make one graph of f and g ({error}); write "
                "them with operations of torch alone, or leave compile out"
            ) from error
        return made


def check_compile(
    recipe: StepRecipe | None,
    method: str,
    adaptive: bool,
    masked: bool,
    needed: bool,
    forward: bool,
) -> None:
    """Refuse what is not evaluated as compiled code.

    needed, forward: whether there are to be gradients, or other derivatives are taken.

    Raises:
        ValueError: with what to do.
    """
    if adaptive or recipe is None:
        what = "adaptive=True" if adaptive else f"method={method!r}"
        raise ValueError(
            f"compile=True: for fixed steps of methods of one state, not {what}; compile f and g "
            "by themselves, torch.compile(f)"
        )
    if any(isinstance(line, FieldCall) and line.kind not in ("f", "g") for line in recipe.lines):
        raise ValueError(
            f"compile=True: method={method!r} takes g's derivative, which compiled code has not; "
            "use method='milstein_derivative_free'"
        )
    if masked:
        raise ValueError(
            "compile=True: with a mask f and g are handed what is cleared before; leave compile "
            "out, or clear the padding in f and g"
        )
    if forward:
        raise ValueError(
            "compile=True: not for forward-mode derivatives and torch.func; leave it out there"
        )
    if needed:
        raise ValueError(
            "compile=True: compiled code records nothing, and f, g or y0 need gradients; use "
            "gradient='none', or compile f and g by themselves, torch.compile(f)"
        )
