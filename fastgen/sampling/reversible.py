"""Retracing runs of reversible plans: the pair of states there and back, and gradients on the way.

A step and the one back are small plans of their own, so that guidance, clipping,
transforms and noise are those of every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.compiling import uncompiled
from fastgen.common.leaves import leaves_behind
from fastgen.common.modes import unrecorded
from fastgen.common.once import differentiable_once
from fastgen.common.transforms import transforming
from fastgen.model.output import modules_of
from fastgen.plans import Builder, Plan
from fastgen.plans.forms import Form, Value
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.recorded import RecordedRun
from fastgen.solvers.registry import get
from fastgen.solvers.reversible import Bidirectional, Reversible, reversible_steps

Pair = tuple[Tensor, Tensor]


def steps_of(plan: Plan, predicts: str) -> Reversible | Bidirectional:
    """The steps of a reversible plan.

    Raises:
        ValueError: for a plan that is not reversible.
    """
    options = dict(plan.options)
    coupling = options.pop("reversible", None)
    if coupling is None:
        raise ValueError(
            f"plan: this one of {plan.solver!r} cannot be retraced; make it with "
            "fastgen.plan(..., reversible=True)"
        )
    entry = get(plan.solver)

    def build(p: Builder, times: list[float]) -> Form:
        return entry.build(p, times, **options)

    schedule = plan.schedule.while_planning()
    return reversible_steps(plan.solver, build, coupling, schedule, predicts)


@uncompiled
def small_plan(
    plan: Plan, predicts: str, drawn: int, s: float, t: float, record: Callable[..., Form]
) -> tuple[Plan, int]:
    """A part of a run as a plan from s to t, and the number of noises drawn after it."""
    p = Builder(plan.schedule.while_planning(), predicts, drawn)
    end = p.let(record(p, p.initial()))
    (result,) = end.terms
    assert isinstance(result, Value)
    found = Plan(
        plan.solver, plan.options, plan.schedule, np.array([s, t]), tuple(p.instructions), result,
        plan.clip,
    )  # fmt: skip
    return found, p.drawn


def coupled_halves(plan: Plan, predicts: str, steps: Reversible) -> Iterator[tuple[Plan, Plan]]:
    """For each step of a coupled pair the solver's step, and the one back."""
    drawn = 0
    for s, t in pairwise(plan.times.tolist()):

        def there(p: Builder, x: Form, s: float = s, t: float = t) -> Form:
            return steps.there(p, x, s, t)

        def back(p: Builder, x: Form, s: float = s, t: float = t) -> Form:
            return steps.back(p, x, s, t)

        first, drawn = small_plan(plan, predicts, drawn, s, t, there)
        second, _ = small_plan(plan, predicts, drawn, s, t, back)
        yield first, second


class Retracing:
    """A reversible plan's steps there and back, ready to run.

    Args:
        prepared: the whole run's.
    """

    def __init__(self, prepared: Prepared) -> None:
        plan, model = prepared.plan, prepared.model
        self.model, self.guidance = model, prepared.guidance
        if self.guidance is not None:
            self.guidance.check_forgets("a run that is retraced")
        steps = steps_of(plan, model.predicts)
        assert isinstance(steps, Reversible)
        self.coupling = steps.coupling
        self.steps = [
            tuple([prepared.with_plan(half, prepared.guidance) for half in both])
            for both in coupled_halves(plan, model.predicts, steps)
        ]

    def first(self, x: Tensor, keys: Pair, arguments: Mapping[str, Any]) -> Pair:
        """The pair that a run begins with."""
        return x, x

    def final(self, x: Tensor, keys: Pair, arguments: Mapping[str, Any]) -> Pair:
        """The pair that an inversion of x begins with."""
        return x, x

    def gradient(self, way: Way, pair: Pair, dy: Tensor) -> Tensor:
        """The gradient of the run's start, from that of its end and the pair there."""
        (y, z), c, dz = pair, self.coupling, torch.zeros_like(dy)
        for n, (there, back) in enumerate(reversed(self.steps)):
            if n:  # z' = z - Phi(y') + y'
                moved, pull = way.step(back, y)
                z = z + moved - y
                dy = dy + dz + pull(-dz)
            # y' = c y + (1 - c) z + Phi(z) - z
            moved, pull = way.step(there, z)
            y = (y - (1 - c) * z - moved + z) / c
            dz = dz - c * dy + pull(dy)
            dy = c * dy
        return dy + dz

    def there(self, pair: Pair, keys: Pair, arguments: Mapping[str, Any], *, last: bool) -> Pair:
        """From the first pair to the last one; without ``last`` the last z stays a step behind."""
        y, z = pair
        c = self.coupling
        for n, (there, back) in enumerate(self.steps, 1):
            y = c * y + (1 - c) * z + (_run(there, z, keys, arguments) - z)
            if last or n < len(self.steps):
                z = z - (_run(back, y, keys, arguments) - y)
        return y, z

    def back(self, pair: Pair, keys: Pair, arguments: Mapping[str, Any]) -> Pair:
        """From the last pair to the first one."""
        y, z = pair
        c = self.coupling
        for there, back in reversed(self.steps):
            z = z + (_run(back, y, keys, arguments) - y)
            y = (y - (1 - c) * z - (_run(there, z, keys, arguments) - z)) / c
        return y, z

    def recorded(self, x: Tensor, keys: Pair, arguments: dict[str, Any]) -> Tensor:
        """The result, whose gradients retrace the run: in memory that does not grow with steps."""
        leaves, structure = pytree.tree_flatten(arguments)
        branches = {} if self.guidance is None else self.guidance.branches
        nets = [self.model.net, *[branch.network for branch in branches.values()]]
        modules = [m for net in nets if net is not None for m in modules_of(net)]
        weights = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
        result: Tensor = _Retraced.apply(  # type: ignore[no-untyped-call]
            self, keys, (leaves, structure), tuple(weights.values()), x, *_wanted(leaves),
            *weights.values(),
        )  # fmt: skip
        return result


class RetracingBothWays(Retracing):
    """The same of a rule that looks both ways: the pair is (x_{n+1}, x_n).

    Args:
        prepared: the whole run's.
    """

    def __init__(self, prepared: Prepared) -> None:
        plan, model = prepared.plan, prepared.model
        self.model, self.guidance = model, prepared.guidance
        steps = steps_of(plan, model.predicts)
        assert isinstance(steps, Bidirectional)
        times = plan.times.tolist()
        count = len(times) - 1

        def part(n: int, record: Callable[..., Form]) -> Prepared:
            ends = times[max(n - 1, 0)], times[min(n + 1, count)]
            made, _ = small_plan(
                plan, model.predicts, 0, *ends, lambda p, x: record(p, x, times, n)
            )
            return prepared.with_plan(made, prepared.guidance)

        self.middles = [part(n, steps.middle) for n in range(count)]
        self.weights = [0.0, *[steps.weight(times, n) for n in range(1, count)]]
        self.last = part(count, steps.back)

    def first(self, x: Tensor, keys: Pair, arguments: Mapping[str, Any]) -> Pair:
        """The pair that a run begins with."""
        return _run(self.middles[0], x, keys, arguments), x

    def final(self, x: Tensor, keys: Pair, arguments: Mapping[str, Any]) -> Pair:
        """The pair that an inversion of x begins with."""
        return x, _run(self.last, x, keys, arguments)

    def there(self, pair: Pair, keys: Pair, arguments: Mapping[str, Any], *, last: bool) -> Pair:
        """From the first pair to the last one."""
        x, older = pair
        for middle, weight in list(zip(self.middles, self.weights, strict=True))[1:]:
            x, older = _run(middle, x, keys, arguments) + weight * older, x
        return x, older

    def back(self, pair: Pair, keys: Pair, arguments: Mapping[str, Any]) -> Pair:
        """From the last pair to the first one."""
        new, x = pair
        for middle, weight in list(zip(self.middles, self.weights, strict=True))[:0:-1]:
            new, x = x, (new - _run(middle, x, keys, arguments)) / weight
        return new, x

    def gradient(self, way: Way, pair: Pair, dy: Tensor) -> Tensor:
        """The gradient of the run's start, from that of its end and the pair there."""
        (new, x), dx = pair, torch.zeros_like(dy)
        for middle, weight in list(zip(self.middles, self.weights, strict=True))[:0:-1]:
            moved, pull = way.step(middle, x)
            new, x = x, (new - moved) / weight
            dy, dx = dx + pull(dy), weight * dy
        _, pull = way.step(self.middles[0], x)
        start: Tensor = dx + pull(dy)
        return start


def retracing_of(prepared: Prepared) -> Retracing:
    """A reversible plan's runs there and back."""
    both_ways = isinstance(prepared.plan.options.get("reversible"), str)
    return RetracingBothWays(prepared) if both_ways else Retracing(prepared)


def check_retraced(differentiable: bool, checkpoint: bool, watched: bool) -> None:
    """Raise a ValueError for what has no meaning where gradients retrace the run.

    watched: whether something is to be shown of the run on its way.
    """
    if not differentiable:
        raise ValueError("memory='reversible' has a meaning with differentiable=True only")
    if checkpoint:
        raise ValueError("checkpoint, memory='reversible': choose one of them")
    if watched:
        raise ValueError(
            "memory='reversible': a run that is retraced shows no states on its way; leave "
            "trajectory, callback, progress and check_finite out"
        )
    if transforming():
        raise ValueError(
            "memory='reversible': not within torch.func's transforms; take checkpoint=True there"
        )


def _wanted(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]


def _run(prepared: Prepared, x: Tensor, keys: Pair, arguments: Mapping[str, Any]) -> Tensor:
    """A small plan from a state, recorded where gradients are on."""
    program, (seeds, ids) = prepared.program(), keys
    if torch.is_grad_enabled():
        recorded = RecordedRun(program, prepared.tables(x.device), prepared.dtypes, False)
        calls = prepared.network_calls(x, seeds, ids, arguments)
        recorded.start(x, seeds, ids)
        for k in range(-1, prepared.plan.nfe):
            recorded.advance(k, calls)
        return recorded.finish()
    run, rows = prepared.workspace(False, False, x, seeds)
    calls = prepared.network_calls(x, seeds, ids, arguments, rows=rows)
    run.start(x, seeds, ids)
    with unrecorded(prepared.model.net):
        for k in range(-1, prepared.plan.nfe):
            run.advance(k, calls)
    result = run.finish()
    prepared.keep(run, rows)
    return result


class _Retraced(torch.autograd.Function):
    """A whole run; the way back finds each state again before it needs it."""

    @staticmethod
    def forward(
        ctx: Any,
        steps: Retracing,
        keys: Pair,
        arguments: tuple[list[Any], Any],
        weights: tuple[Tensor, ...],
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        leaves, structure = arguments
        whole = pytree.tree_unflatten(leaves, structure)
        y, z = steps.there(steps.first(x, keys, whole), keys, whole, last=False)
        ctx.steps, ctx.keys, ctx.weights = steps, keys, weights
        ctx.structure = structure
        ctx.others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        ctx.wanted = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves]
        ctx.tensors = [isinstance(leaf, Tensor) for leaf in leaves]
        ctx.save_for_backward(y, z, *[leaf for leaf in leaves if isinstance(leaf, Tensor)])
        return y.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        y, z, *saved = ctx.saved_tensors
        rest = iter(saved)
        leaves = [
            next(rest) if tensor else other
            for tensor, other in zip(ctx.tensors, ctx.others, strict=True)
        ]
        # Gradients stop at the arguments that the caller gave.
        leaves = [
            leaf.detach().requires_grad_() if wanted else leaf
            for leaf, wanted in zip(leaves, ctx.wanted, strict=True)
        ]
        arguments = pytree.tree_unflatten(leaves, ctx.structure)
        known = [*_wanted(leaves), *ctx.weights]
        way = Way(ctx.keys, arguments, known)
        dx = ctx.steps.gradient(way, (y, z), dy)
        return (None, None, None, None, dx, *way.totals)


class Way:
    """The way back of a run's gradients.

    Args:
        keys, arguments: of the run.
        known: the tensors whose gradients are wanted, beside the states'.
    """

    def __init__(self, keys: Pair, arguments: Mapping[str, Any], known: list[Tensor]) -> None:
        self.keys, self.arguments, self.known = keys, arguments, known
        self.totals: list[Tensor | None] = [None] * len(known)
        self._looked = False

    def step(self, half: Prepared, x: Tensor) -> tuple[Tensor, Any]:
        """A step's result, and what takes its gradient to that of x; evaluated once for both."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            found = _run(half, x, self.keys, self.arguments)
        if not self._looked:
            self._look(found, x)

        def pull(gradient: Tensor) -> Tensor:
            own, *others = torch.autograd.grad(found, [x, *self.known], gradient, allow_unused=True)
            for i, other in enumerate(others):
                if other is not None:
                    total = self.totals[i]
                    self.totals[i] = other if total is None else total + other
            return torch.zeros_like(x) if own is None else own

        return found.detach(), pull

    def _look(self, found: Tensor, x: Tensor) -> None:
        """Raise a ValueError for a tensor that wants a gradient and cannot be given it."""
        self._looked = True
        for leaf in leaves_behind([found], [x, *self.known]):
            raise ValueError(
                f"memory='reversible': the network depends on a tensor of shape "
                f"{tuple(leaf.shape)} that wants a gradient and is neither a parameter of its "
                "modules nor among its arguments; pass it in net_kwargs"
            )
