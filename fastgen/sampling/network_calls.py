"""One run's network calls: guidance, transform, checks, and what only the data can tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.unwritten import check_unwritten
from fastgen.kernels import Stream
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.model.guidance import Guidance, Transform
from fastgen.model.model import Model, pair_of, time_rows
from fastgen.model.output import called, check_output, explain
from fastgen.model.parametrisation import Parametrisation
from fastgen.noise.normals import normals
from fastgen.plans import Plan
from fastgen.plans.forms import Computed, Increment, Let, Prediction
from fastgen.sampling.increments import Increments, IncrementTable


@dataclass(frozen=True)
class TimeTables:
    """What the evaluations of a plan read of its times, on the device.

    times: what the network is fed, [1 or 2, evaluations, B]; doubled: the same for 2 B rows, for
    guidance in one call; path: the increments of a Brownian path.
    """

    times: Tensor
    doubled: Tensor | None
    path: IncrementTable | None

    def load(self, other: TimeTables) -> None:
        """Take the values of tables of the same structure, in place."""
        self.times.copy_(other.times)
        if self.doubled is not None and other.doubled is not None:
            self.doubled.copy_(other.doubled)
        if self.path is not None and other.path is not None:
            self.path.load(other.path)


class TimeRows:
    """A run's own copy of time tables, by evaluation: a network may scale its times in place."""

    def __init__(self, tables: TimeTables) -> None:
        with torch.inference_mode(False):  # for later runs in whatever mode
            self._times = tables.times.clone()
            self._doubled = None if tables.doubled is None else tables.doubled.clone()
            self.times = time_rows(self._times)
            self.doubled = [] if self._doubled is None else time_rows(self._doubled)

    def restore(self, tables: TimeTables) -> None:
        """Undo what a network may have done to them."""
        self._times.copy_(tables.times)
        if self._doubled is not None and tables.doubled is not None:
            self._doubled.copy_(tables.doubled)


class NetworkCalls:
    """The network of one run, by evaluation number.

    Args:
        model: the network and what it means.
        plan: which evaluation is where.
        x: a state: shape and device of all.
        seeds: int64 [1] or [B].
        sample_ids: int64 [B].
        times: for each evaluation what the network is fed as times.
        doubled: the same for 2 B rows, for guidance in one call.
        guidance: see `Sampler`.
        transform: see `Sampler`.
        net_kwargs: passed to the network.
        check_finite: see `Sampler.__call__`.
        tick: called after each evaluation.
        path: the Brownian motion whose increments stages read, if they do.
        guided: whether each evaluation is guided; the default is what guidance says of its time.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        x: Tensor,
        seeds: Tensor,
        sample_ids: Tensor,
        times: Sequence[tuple[Tensor, ...]],
        doubled: Sequence[tuple[Tensor, ...]],
        guidance: Guidance | None,
        transform: Transform | None,
        net_kwargs: Mapping[str, Any],
        check_finite: bool,
        tick: Callable[[], object],
        path: Increments | None = None,
        guided: Sequence[bool] | None = None,
    ) -> None:
        self.model, self.plan, self.guidance, self.transform = model, plan, guidance, transform
        self.net, self.shape, self.device = model.net, tuple(x.shape), x.device
        self.seeds, self.sample_ids = seeds, sample_ids
        self.times, self.doubled = times, doubled
        self.net_kwargs, self.check_finite, self.tick = net_kwargs, check_finite, tick
        if guided is None and guidance is not None:
            guided = [guidance.active(e.time) for e in plan.evaluations]
        self.guided = guided or ()
        # Nothing but the network's own output: the usual case, and the quickest.
        self.plain = guidance is None and transform is None and not model.learned_variance
        self.pair = model.parametrisation.outputs == 2
        # One call for both branches of guidance, where one can have the arguments of both.
        self.joined: dict[str, Any] | None = None
        if guidance is not None and any(self.guided):
            declared, batch = model.declared, self.shape[0]
            declared.check(net_kwargs, batch)
            if guidance.batched:
                self.joined = guidance.joined(batch, net_kwargs, declared)
        self.output_shape = model.output_shape(self.shape)
        self.path = path
        self.variance: Tensor | None = None  # that the last evaluation's network predicted

    def __call__(self, k: int, network_input: Tensor, state: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs that evaluation k's stage reads: one; with guidance or of a pair two."""
        if self.plain:
            try:  # as `version` does, without a call
                before = network_input._version
            except RuntimeError:
                before = -1
            try:
                output = self.net(network_input, *self.times[k], **self.net_kwargs)
            except RuntimeError as error:
                explain(error, self.net, network_input)
                raise
            if before >= 0 and network_input._version != before:
                check_unwritten("net", network_input, before)
            self.tick()
            return self._pair(k, output) if self.pair else (self.checked(k, output, self.shape),)
        found = self._outputs(k, network_input)
        self.tick()
        if self.model.learned_variance:
            # The variance is the conditional branch's; guidance is for the mean alone.
            self.variance = found[0].chunk(2, 1)[1]
            found = tuple([output.chunk(2, 1)[0].contiguous() for output in found])
        return self.finished(k, found, state)

    def finished(
        self, k: int, found: tuple[Tensor, ...], state: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What evaluation k's stage reads of the outputs: merged and transformed where asked."""
        guidance = self.guidance
        if guidance is not None and len(found) == 2 and (guidance.rescale or self.transform):
            found = (guidance.merge(*found),)
        if self.transform is None:
            return found
        assert state is not None
        parametrisation, t = self.model.parametrisation, self.plan.evaluations[k].time
        data = self.transform(converted(parametrisation, "data", t, state, found[0]), t)
        check_output(data, self.shape, self.device, "transform")
        return (self.checked(k, data, self.shape),)

    def _outputs(self, k: int, x: Tensor) -> tuple[Tensor, ...]:
        net, guidance, shape = self.net, self.guidance, self.output_shape
        if guidance is None or not self.guided[k]:
            return (self.checked(k, called(net, x, self.times[k], self.net_kwargs), shape),)
        if self.joined is not None:
            both = called(net, torch.cat([x, x]), self.doubled[k], self.joined)
            return self.checked(k, both, (2 * shape[0], *shape[1:])).chunk(2)
        weak, other = guidance.network or net, guidance.separate(self.net_kwargs)
        c = self.checked(k, called(net, x, self.times[k], self.net_kwargs), shape)
        # The next call may write its output where this one's is: a copy costs one pass of a call's.
        c = c.clone()
        return c, self.checked(k, called(weak, x, self.times[k], other), shape)

    def _pair(self, k: int, outputs: Any) -> tuple[Tensor, ...]:
        return tuple([self.checked(k, output, self.shape) for output in pair_of(outputs)])

    def checked(self, k: int, output: Any, shape: tuple[int, ...]) -> Tensor:
        """The output of evaluation k, or an error that says what is wrong with it."""
        if (
            not isinstance(output, Tensor)
            or output.shape != shape
            or output.dtype not in DTYPE_CODES
            or output.device != self.device
        ):
            check_output(output, shape, self.device, where=f"evaluation {k} of {self.plan.nfe}")
        if self.check_finite and not bool(torch.isfinite(output).all()):
            raise FloatingPointError(
                f"the network returned a number that is not finite at evaluation {k} of "
                f"{self.plan.nfe}, t={self.plan.evaluations[k].time:.6g}"
            )
        found: Tensor = output
        return found

    def provide(
        self,
        symbol: Computed | Increment,
        outputs: tuple[Tensor, ...],
        state: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """A stage's input that is an increment of the path, or depends on the data."""
        if isinstance(symbol, Increment):
            assert self.path is not None
            return self.path(symbol, dtype)
        ids, draw = self.sample_ids, symbol.draw
        z = normals(self.shape, self.seeds, ids, draw, Stream.SOLVER, dtype)
        if symbol.kind == "learned_noise":
            assert self.variance is not None
            small, large = (2 * math.log(std) for std in symbol.numbers)
            fraction = (self.variance.to(dtype) + 1) / 2
            return torch.exp((small + fraction * (large - small)) / 2) * z
        (snr,) = symbol.numbers
        assert state is not None
        t = self.plan.evaluations[symbol.evaluation].time
        output = outputs[0]
        if len(outputs) == 2 and self.guidance is not None:
            output = self.guidance.merge(*outputs)
        parametrisation = self.model.parametrisation
        if self.transform is None:
            score = converted(parametrisation, "score", t, state, output)
        else:
            p, q = parametrisation.from_data("score", t)
            score = p * state + q * output
        axes = tuple(range(1, z.ndim))
        ratio = z.norm(dim=axes, keepdim=True) / score.norm(dim=axes, keepdim=True)
        step: Tensor = 2 * (snr * ratio) ** 2
        move: Tensor = step * score + (2 * step).sqrt() * z
        return move


def check_plan(plan: Plan, model: Model, transform: Transform | None) -> None:
    """Raise a ValueError if the plan reads what the model or the transform does not give."""
    if transform is not None and any(
        isinstance(s, Prediction) and s.unconditional
        for i in plan.instructions
        if isinstance(i, Let)
        for s in i.form.terms
    ):
        raise ValueError(
            f"transform: solver {plan.solver!r} reads the unconditional output on its own, "
            "which a transform of the guided data prediction does not leave"
        )
    learned = any(
        isinstance(s, Computed) and s.kind == "learned_noise"
        for i in plan.instructions
        if isinstance(i, Let)
        for s in i.form.terms
    )
    if learned and not model.learned_variance:
        raise ValueError(
            f"plan: {plan.solver!r} wants the network's variance; pass "
            "Model(..., learned_variance=True) for a network with twice the channels"
        )


def converted(
    parametrisation: Parametrisation, quantity: str, t: float, x: Tensor, output: Tensor
) -> Tensor:
    """A quantity at state x and time t, from the output there, in the state's dtype."""
    p, q = parametrisation.conversion(quantity, t)
    found = q * output.to(x.dtype)
    return found + p * x if p else found
