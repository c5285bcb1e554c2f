"""Solves within forward-mode derivatives and `torch.func`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastgen.common.step_size import StepSize
from fastgen.common.tableau import Tableau
from fastgen.common.transforms import suspended, unwrapped
from fastgen.ode.engine import Observer, integrate
from fastgen.ode.memory import Outcome
from fastgen.ode.norms import Norm
from fastgen.ode.problem import Field, StateLayout, times_of, tolerance


def on_plain_memory(
    field: Field,
    y0: Any,
    t: Sequence[float] | Tensor,
    tableau: Tableau,
    tolerances: tuple[float | Tensor, float | Tensor],
    rule: tuple[StepSize, float | Tensor | None],
    backend: str | None,
    observer: Observer | None,
    norm: Norm | None,
) -> Outcome:
    """The solve itself within forward-mode derivatives and `torch.func`, without them.

    The derivatives are those of its accepted steps, which are repeated.
    """
    with suspended("fastgen.odeint") as within:
        bare = copy.copy(field)
        plain = unwrapped(y0, "fastgen.odeint")
        state = StateLayout(plain, field.state.joint, unwrapped(field.state.live))
        bare.f, bare.state = within(field.f), state
        times = times_of(unwrapped(t), state.rows, state.joint, state.device)
        rtol, atol = (
            tolerance(n, unwrapped(x), state)
            for n, x in zip(("rtol", "atol"), tolerances, strict=True)
        )
        size, first = rule[0], unwrapped(rule[1])
        problem = bare, state.flat(), times, tableau, rtol, atol, size, first
        return integrate(*problem, backend, observer, norm=norm)
