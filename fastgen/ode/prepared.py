"""`compile_odeint`: one solve prepared, to be called again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.checks import as_numbers, check_at_least, check_choice, known_arguments
from fastgen.common.compiling import uncompiled
from fastgen.common.display import displayed
from fastgen.common.error_control import method_by_name
from fastgen.common.memory import readable, storage_address
from fastgen.common.repeats import Looks
from fastgen.common.step_size import Controller
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.kernels.runge_kutta.contract import Count, Status
from fastgen.kernels.runge_kutta.operator import fused_operations
from fastgen.ode import tableaus
from fastgen.ode.compiled import CompiledField
from fastgen.ode.engine import AT_ONCE, FAR, checked_again
from fastgen.ode.memory import FusedSolve, finished, workspace
from fastgen.ode.problem import STEPS, StateLayout, times_of, tolerance
from fastgen.ode.refusals import CONTROLLER
from fastgen.ode.solution import check
from fastgen.ode.solve import ATOL, RTOL


@displayed
class CompiledSolve:
    """One equation's solves, on memory and code of their own; made by `compile_odeint`.

    Calls from several threads wait for one another. Copies and pickles are prepared anew.
    """

    def __init__(
        self, field: CompiledField, solve: FusedSolve, max_steps: int, made_by: Any
    ) -> None:
        self._field, self._solve, self._max_steps = field, solve, max_steps
        self._w, self._made_by = solve.w, made_by
        w = solve.w
        self._lock = threading.Lock()
        self._times, self._own_times = w.output_times.clone(), True
        self._into = pytree.tree_leaves(field.state.tree(w.y))
        self._status = w.count[Count.STATUS].numpy()
        self._all_done = np.full_like(self._status, Status.DONE).tobytes()
        state, outputs = field.state, w.ys.shape
        self._outputs = (outputs[0], *state.leaves[0].shape) if state.direct else outputs
        self._weights: list[Tensor] = []
        self._places: list[int] = []
        if w.y.numel():
            with torch.inference_mode(False), torch.no_grad():  # for calls in whatever mode
                self._bind()

    def __reduce__(self) -> Any:
        return self._made_by

    def _facts(self) -> dict[str, Any]:
        _, (f, y0, _) = self._made_by
        return {"f": f, "y0": y0, "times": self._times}

    def _bind(self) -> None:
        """f as code on this memory, of which C++ calls what it can."""
        w, ops = self._w, self._solve.ops
        f, t, y = self._solve.bound(self._field, w.stage_times, w.stage)
        f(t, y)  # compiles, and checks what f returns
        self._call = partial(f, t, y)
        self._slope = f(t, y)
        found = self._field.kernels(f)
        self._program = None if found is None else ops.program(*found)
        # Kernels know f's weights by address, and weights may be given other memory.
        own = {storage_address(x) for x in (w.stage_times, w.stage, self._slope)}
        given = () if found is None else found[0].given
        self._weights = [x for x in given if storage_address(x) not in own]
        self._places = list(map(storage_address, self._weights))
        ops.expect(self._slope.shape)

    @uncompiled
    @untransformed(BACKWARD)
    def __call__(self, y0: Any, t: Sequence[float] | Tensor | None = None) -> Any:
        """The states at all times, [T, ...] in the structure of y0.

        Args:
            y0: of the structure, shapes, dtype and device for which this was prepared.
            t: other times than those given then, as many.

        Raises:
            TypeError, ValueError: naming the argument.
            RuntimeError: naming the first sample that failed, its time, and the remedy.
        """
        state, w = self._field.state, self._w
        leaves = [y0] if state.single else self._leaves(y0)
        ys = torch.empty(self._outputs, dtype=state.dtype, device="cpu")
        with self._lock:
            if list(map(storage_address, self._weights)) != self._places:
                with torch.inference_mode(False), torch.no_grad():
                    self._bind()
            if t is not None or not self._own_times:
                self._take_times(t)
            for into, given in zip(self._into, leaves, strict=True):
                self._take(into, given)
            w.ys = ys
            if not w.y.numel():
                return state.tree(w.y.new_zeros(w.ys.shape))
            self._run()
            if self._status.tobytes() != self._all_done:
                w.ys = ys.reshape(len(ys), *w.y.shape)
                check(finished(w, *self._solve.ops.evaluated), self._max_steps)
        return ys if state.direct else state.tree(ys)

    def _run(self) -> None:
        ops, program, looks = self._solve.ops, self._program, Looks()
        ops.begin_again()
        code = ops.compacted()
        while not code:
            done, _ = ops.evaluated
            if looks.due(done) and ops.far(FAR):
                with torch.no_grad():
                    checked_again(self._w, ops.rows, self._call, self._call())
            if program is not None:
                code = ops.drive(program, min(looks.next, done + AT_ONCE))
            else:
                with torch.no_grad():
                    code = ops.advance(self._call())

    def _leaves(self, y0: Any) -> list[Any]:
        leaves, spec = pytree.tree_flatten(y0)
        if spec != self._field.state.spec:
            raise TypeError(f"y0: prepared for the structure {self._field.state.spec}, got {spec}")
        return leaves

    def _take(self, into: Tensor, given: Any) -> None:
        x = readable(given, "y0")
        if x.shape != into.shape or x.dtype != into.dtype or not x.is_cpu:
            raise ValueError(
                f"y0: prepared for {into.dtype} {tuple(into.shape)} on the CPU, got {x.dtype} "
                f"{tuple(x.shape)} on {x.device}; prepare another solve for those"
            )
        _check_no_gradient("y0", x)
        into.copy_(x)

    def _take_times(self, t: Sequence[float] | Tensor | None) -> None:
        state, into = self._field.state, self._w.output_times
        self._own_times = t is None
        times = self._times
        if t is not None:
            times = times_of(t, state.rows, state.joint, state.device)
            if times.shape != into.shape:
                raise ValueError(
                    f"t: prepared for times {tuple(into.shape)}, got {tuple(times.shape)}"
                )
            _check_no_gradient("t", times)
        into.copy_(times)


def _check_no_gradient(name: str, x: Tensor) -> None:
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: no gradients go through a compiled solve; give {name}.detach(), or call "
            "fastgen.odeint"
        )


@uncompiled
@known_arguments(controller=Controller)
@method_by_name
@untransformed(BACKWARD)
def compile_odeint(
    f: Callable[..., Any],
    y0: Any,
    t: Sequence[float] | Tensor,
    *,
    rtol: float | Tensor = RTOL,
    atol: float | Tensor = ATOL,
    method: Any = "dopri5",
    step: str = "per_sample",
    first_step: float | Tensor | None = None,
    max_step: float | None = None,
    max_steps: int = 100_000,
    controller: str | Controller = CONTROLLER,
) -> CompiledSolve:
    """`odeint` of one f for states of one shape, prepared: ``solve(y0)``, again and again.

    f is compiled as by ``odeint(compile=True)``, and what an `odeint` looks at in every call is
    looked at once, here: arguments, what f returns, and whether f is still what was compiled. That
    takes several times as long as a small solve itself. Steps and states are those of
    ``odeint(compile=True)``, bit for bit.

    Weights of f may be written to, or given other memory. Nothing else that f depends on may
    change, its numbers and modes among it: prepare another solve then. On the CPU, without
    gradients; on a GPU ``odeint(capture=True)`` takes one recorded step a launch.

    Args:
        f, t, rtol, atol, method, step, first_step, max_step, max_steps, controller: as in
            `odeint`; the method is one of varying steps. All samples are evaluated until the last
            has ended.
        y0: states as all will be: structure, shapes, dtype.

    Returns:
        A `CompiledSolve`.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> f = lambda t, y: -y
        >>> y0, t = torch.ones(2, 1), [0.0, 1.0]
        >>> solve = fastgen.ode.compile_odeint(f, y0, t)  # doctest: +SKIP
        >>> solve(torch.zeros(2, 1)).shape  # doctest: +SKIP
        torch.Size([2, 2, 1])
    """
    options: dict[str, Any] = {"rtol": rtol, "atol": atol, "method": method, "step": step}
    options |= {"first_step": first_step, "max_step": max_step, "max_steps": max_steps}
    options |= {"controller": controller}
    check_choice("step", step, STEPS)
    check_at_least("max_steps", max_steps, 1)
    tableau = tableaus.find(method)
    if tableau is None or not tableau.adaptive:
        raise ValueError(
            f"method={method!r}: a compiled solve has varying steps; with fixed ones give "
            "torch.compile(f) to odeint"
        )
    state = StateLayout(y0, step == "joint")
    made = fused_operations(state.device)
    if made is None or state.device.type != "cpu":
        raise ValueError(
            f"y0: compiled solves are made of C++ on a CPU, and y0 is on {state.device}, or "
            "FASTGEN_BACKEND asks for another backend; on a GPU use odeint(capture=True)"
        )
    y = state.flat()
    times = times_of(t, state.rows, state.joint, state.device)
    for name, value in (("y0", y), ("t", times)):
        _check_no_gradient(name, value)
    limits = {"first_step": first_step, "max_step": max_step}
    control = Controller.of(controller, **{k: v for k, v in limits.items() if v is not None})
    rule = control.step_size(tableau.order, max_steps)
    with torch.inference_mode(False):
        w = workspace(
            y, state, times.detach().clone(), tableau, rule, control.first_step is not None, False
        )
        solve = FusedSolve(None, w, made(w))
        first = as_numbers("first_step", 0.0 if control.first_step is None else control.first_step)
        solve.ops.begin(tolerance("rtol", rtol, state), tolerance("atol", atol, state), first)
    field = CompiledField(f, state, False, f)
    return CompiledSolve(field, solve, max_steps, (partial(compile_odeint, **options), (f, y0, t)))
