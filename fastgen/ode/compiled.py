"""The vector field as compiled code, bound to a solve's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.compiled_calls import Call, CompiledFunctions, CompileError
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


class CompiledField(Field):
    """A field whose `bound` evaluates compiled code; `call` calls f itself.

    f is a function of its arguments alone: what it does beside is done once.
    """

    def bound(
        self, t: Tensor, y: Tensor, rows: Tensor | None
    ) -> tuple[Callable[..., Any], Tensor, Any]:
        """See `Field.bound`; f's values lie in one place."""
        eager, time, tree = super().bound(t, y, rows)
        slope = torch.empty_like(y)
        value = slope.view(tree.shape) if self.state.single else slope
        call: Call | None = None

        def evaluated(time: Tensor, tree: Any) -> Tensor:
            nonlocal call
            if torch.is_grad_enabled():  # asks whether f's value needs gradients
                found: Tensor = eager(time, tree)
                return found
            if call is not None:
                call()
                return value
            try:
                call, new = _compiled.of(self.f).bound((self.f, self.state), t, y, slope, rows)
            except CompileError as error:
                self.call(t, y, rows)  # says what is wrong with f itself
                raise ValueError(
                    f"compile=True: torch.compile cannot make one graph of f ({error}); write f "
                    "with operations of torch alone, or leave compile out"
                ) from error
            if new:
                self.call(t, y, rows)  # the checks of what f returns and leaves as it was
            return value

        return evaluated, time, tree
