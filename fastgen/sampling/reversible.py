"""Retracing runs of reversible plans: the pair of states there and back, and gradients on the way.

A step and the one back are small plans of their own (`halves`), so that guidance, clipping,
transforms and noise are those of every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.modes import unrecorded
from fastgen.common.once import differentiable_once
from fastgen.common.transforms import transforming
from fastgen.model.output import modules_of
from fastgen.plans import Builder, Plan
from fastgen.plans.forms import Form, Value
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.recorded import RecordedRun
from fastgen.solvers.registry import get
from fastgen.solvers.reversible import Reversible

Pair = tuple[Tensor, Tensor]


def halves(plan: Plan, predicts: str) -> Iterator[tuple[Plan, Plan]]:
    """For each step of a reversible plan its solver's step, and the one back.

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
    schedule = plan.schedule.while_planning()
    entry = get(plan.solver)

    def build(p: Builder, times: list[float]) -> Form:
        return entry.build(p, times, **options)

    steps = Reversible(plan.solver, build, coupling, schedule, predicts)
    drawn = 0
    for s, t in pairwise(plan.times.tolist()):
        found = []
        for step in (steps.there, steps.back):
            p = Builder(schedule, predicts, drawn)
            end = p.let(step(p, p.initial(), s, t))
            (result,) = end.terms
            assert isinstance(result, Value)
            instructions = tuple(p.instructions)
            times = np.array([s, t])
            found.append(
                Plan(plan.solver, options, plan.schedule, times, instructions, result, plan.clip)
            )
            drawn = max(drawn, p.drawn)
        yield found[0], found[1]


class Retracing:
    """A reversible plan's steps there and back, ready to run.

    Args:
        prepared: the whole run's.
    """

    def __init__(self, prepared: Prepared) -> None:
        plan, model = prepared.plan, prepared.model
        found = halves(plan, model.predicts)
        self.steps = [
            tuple([prepared.with_plan(half, prepared.guidance) for half in both]) for both in found
        ]
        self.coupling = float(plan.options["reversible"])
        self.model, self.guidance = model, prepared.guidance

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
        nets = [self.model.net, None if self.guidance is None else self.guidance.network]
        modules = [m for net in nets if net is not None for m in modules_of(net)]
        weights = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
        result: Tensor = _Retraced.apply(  # type: ignore[no-untyped-call]
            self, keys, (leaves, structure), tuple(weights.values()), x, *_wanted(leaves),
            *weights.values(),
        )  # fmt: skip
        return result


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
        y, z = steps.there((x, x), keys, pytree.tree_unflatten(leaves, structure), last=False)
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
        way = _Way(ctx.steps, ctx.keys, arguments, known)
        dx = way.back(y, z, dy)
        return (None, None, None, None, dx, *way.totals)


class _Way:
    """The way back of a run's gradients.

    Args:
        steps, keys, arguments: of the run.
        known: the tensors whose gradients are wanted, beside the states'.
    """

    def __init__(
        self, steps: Retracing, keys: Pair, arguments: Mapping[str, Any], known: list[Tensor]
    ) -> None:
        self.steps, self.keys, self.arguments, self.known = steps, keys, arguments, known
        self.totals: list[Tensor | None] = [None] * len(known)
        self._looked = False

    def back(self, y: Tensor, z: Tensor, dy: Tensor) -> Tensor:
        """The gradient of the run's start, from that of its end."""
        c, dz = self.steps.coupling, torch.zeros_like(dy)
        for n, (there, back) in enumerate(reversed(self.steps.steps)):
            if n:  # z' = z - Phi(y') + y'
                moved, pull = self._step(back, y)
                z = z + moved - y
                dy = dy + dz + pull(-dz)
            # y' = c y + (1 - c) z + Phi(z) - z
            moved, pull = self._step(there, z)
            y = (y - (1 - c) * z - moved + z) / c
            dz = dz - c * dy + pull(dy)
            dy = c * dy
        return dy + dz

    def _step(self, half: Prepared, x: Tensor) -> tuple[Tensor, Any]:
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
        known = {id(tensor) for tensor in (x, *self.known)}
        seen: set[Any] = set()
        nodes: list[Any] = [found.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in known:
                raise ValueError(
                    f"memory='reversible': the network depends on a tensor of shape "
                    f"{tuple(leaf.shape)} that wants a gradient and is neither a parameter of its "
                    "modules nor among its arguments; pass it in net_kwargs"
                )
            nodes += [after for after, _ in node.next_functions]
