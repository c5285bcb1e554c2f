"""The vector field as compiled code, bound to a solve's memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.compiled_calls import Call, CompiledFunction, CompiledFunctions, CompileError
from fastgen.common.compiled_kernels import Kernels, kernels_of
from fastgen.ode.problem import Field, StateLayout


def _evaluate(
    subject: tuple[Callable[..., Any], StateLayout],
    t: Tensor,
    y: Tensor,
    slope: Tensor,
    rows: Tensor | None,
) -> None:
    """slope = f(t, y) on rows [A, N]."""
    f, state = subject
    time, tree = t[0] if state.joint else t, state.tree(y)
    found = f(time, tree) if rows is None else f(time, tree, rows=rows)
    slope.copy_(state.flat(found, (y.shape[0],)))


_compiled = CompiledFunctions(_evaluate)


class _Evaluation:
    """f on a solve's memory: eager where gradients are watched for, else compiled code.

    kernels: what C++ calls instead, where the code is nothing else; known after the first call.
    """

    kernels: Kernels | None = None

    def __init__(
        self,
        field: CompiledField,
        eager: Callable[..., Any],
        buffers: tuple[Tensor, Tensor, Tensor | None],
        like: Any,
    ) -> None:
        self._field, self._eager, self._buffers = field, eager, buffers
        self.slope = torch.empty_like(buffers[1])
        self._value = self.slope.view(like.shape) if field.state.direct else self.slope
        self._call: Call | None = None

    def __call__(self, time: Tensor, tree: Any) -> Tensor:
        """f(time, tree), whose values lie in one place."""
        if torch.is_grad_enabled():  # asks whether f's value needs gradients
            found: Tensor = self._eager(time, tree)
            return found
        if self._call is not None:
            self._call()
            return self._value
        field, (t, y, rows) = self._field, self._buffers
        try:
            subject = field.f, field.state
            made, new = field.code(y, rows).bound(subject, t, y, self.slope, rows)
        except CompileError as error:
            field.call(t, y, rows)  # says what is wrong with f itself
            raise ValueError(
                f"torch.compile cannot make one graph of f ({error}); write f with operations "
                "of torch alone, or solve by odeint without compile"
            ) from error
        if new:
            field.call(t, y, rows)  # the checks of what f returns and leaves as it was
        self._call, self.kernels = made, kernels_of(made)
        return self._value


class CompiledField(Field):
    """A field whose `bound` evaluates compiled code; `call` calls f itself.

    f is a function of its arguments alone: what it does beside is done once. subject: what it is
    about, by which code is kept: f itself; or, as its ``compiled_with``, the network that it calls
    and what else it depends on. torch keeps a few codes of one subject, dtype, and call with all
    samples or some.
    """

    compiled = True

    def __init__(
        self, f: Callable[..., Any], state: StateLayout, compact: bool | None, subject: Any
    ) -> None:
        super().__init__(f, state, compact)
        about: tuple[Any, Hashable] = getattr(subject, "compiled_with", (subject, None))
        self._subject, self._kind = about

    def code(self, y: Tensor, rows: Tensor | None) -> CompiledFunction:
        """What is compiled for these buffers."""
        some = rows is not None and len(rows) < self.state.rows
        return _compiled.of(self._subject, (self._kind, y.dtype, some))

    def bound(
        self, t: Tensor, y: Tensor, rows: Tensor | None
    ) -> tuple[Callable[..., Any], Tensor, Any]:
        """See `Field.bound`."""
        eager, time, tree = super().bound(t, y, rows)
        return _Evaluation(self, eager, (t, y, rows), tree), time, tree

    def kernels(self, bound: Callable[..., Any]) -> tuple[Kernels, Tensor] | None:
        """See `Field.kernels`."""
        if isinstance(bound, _Evaluation) and bound.kernels is not None:
            return bound.kernels, bound.slope
        return None
