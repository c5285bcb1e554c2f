"""One run's network calls: guidance, transform, checks, and what only the data can tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastgen.common.unwritten import check_unwritten
from fastgen.kernels import Stream
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.model.branch import Network
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, pair_of, time_rows
from fastgen.model.output import called, check_output, explain
from fastgen.model.parametrisation import Parametrisation
from fastgen.model.transforms import Transform, sees_state
from fastgen.noise.normals import normals
from fastgen.plans import Plan
from fastgen.plans.forms import Computed, Increment, Let, Prediction
from fastgen.sampling.increments import Increments, IncrementTable


@dataclass(frozen=True)
class TimeTables:
    """What the evaluations of a plan read of its times, on the device.

    times: what the network is fed, [1 or 2, evaluations, B]; joint: the same for the rows of all
    branches of guidance that one call evaluates; path: the increments of a Brownian path.
    """

    times: Tensor
    joint: Tensor | None
    path: IncrementTable | None

    def load(self, other: TimeTables) -> None:
        """Take the values of tables of the same structure, in place."""
        self.times.copy_(other.times)
        if self.joint is not None and other.joint is not None:
            self.joint.copy_(other.joint)
        if self.path is not None and other.path is not None:
            self.path.load(other.path)


class TimeRows:
    """A run's own copy of time tables, by evaluation: a network may scale its times in place."""

    def __init__(self, tables: TimeTables) -> None:
        with torch.inference_mode(False):  # for later runs in whatever mode
            self._times = tables.times.clone()
            self._joint = None if tables.joint is None else tables.joint.clone()
            self.times = time_rows(self._times)
            self.joint = [] if self._joint is None else time_rows(self._joint)

    def restore(self, tables: TimeTables) -> None:
        """Undo what a network may have done to them."""
        self._times.copy_(tables.times)
        if self._joint is not None and tables.joint is not None:
            self._joint.copy_(tables.joint)


class NetworkCalls:
    """The network of one run, by evaluation number.

    Args:
        model: the network and what it means.
        plan: which evaluation is where.
        x: a state: shape and device of all.
        seeds: int64 [1] or [B].
        sample_ids: int64 [B].
        times: for each evaluation what the network is fed as times.
        joint: the same for the rows of all branches of guidance that one call evaluates.
        guidance: see `Sampler`.
        transform: see `Sampler`.
        net_kwargs: passed to the network.
        check_finite: see `Sampler.__call__`.
        tick: called after each evaluation.
        path: the Brownian motion whose increments stages read, if they do.
        guided: whether each evaluation is guided; the default is what guidance says of its time.
        merge: (outputs, evaluation) to one output, where guidance merges them; the default is
            guidance's own, at the plan's times.
        weighs: stages are given the outputs of all branches, and their `weights`.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        x: Tensor,
        seeds: Tensor,
        sample_ids: Tensor,
        times: Sequence[tuple[Tensor, ...]],
        joint: Sequence[tuple[Tensor, ...]],
        guidance: Guidance | None,
        transform: Transform | None,
        net_kwargs: Mapping[str, Any],
        check_finite: bool,
        tick: Callable[[], object],
        path: Increments | None = None,
        guided: Sequence[bool] | None = None,
        merge: Callable[[tuple[Tensor, ...], int], Tensor] | None = None,
        weighs: bool = False,
    ) -> None:
        self.model, self.plan, self.guidance, self.transform = model, plan, guidance, transform
        self.net, self.shape, self.device = model.net, tuple(x.shape), x.device
        self.seeds, self.sample_ids = seeds, sample_ids
        self.times, self.joint = times, joint
        self.net_kwargs, self.check_finite, self.tick = net_kwargs, check_finite, tick
        if guided is None and guidance is not None:
            guided = [guidance.active(e.time) for e in plan.evaluations]
        self.guided = guided or ()
        self.sees_state = transform is not None and sees_state(transform)
        # Nothing but the network's own output: the usual case, and the quickest.
        self.plain = guidance is None and transform is None and not model.learned_variance
        self.pair = model.parametrisation.outputs == 2
        self.merge, self.weighs = merge, weighs
        # What guidance's rule remembers, by the evaluation that made it: autograd comes back.
        self._memories: dict[int, Tensor] = {}
        # One call for branches of guidance, where one can have the arguments of all.
        self.joined: dict[str, Any] | None = None
        self._calls: list[tuple[Mapping[str, Any], Network | None]] = []
        if guidance is not None and any(self.guided):
            declared, batch = model.declared, self.shape[0]
            declared.check(net_kwargs, batch)
            self.joined = guidance.joined(batch, net_kwargs, declared)
            self._calls = [(net_kwargs, None), *guidance.separate(net_kwargs)]
        self.output_shape = model.output_shape(self.shape)
        self.path = path
        self.variance: Tensor | None = None  # that the last evaluation's network predicted

    def __call__(self, k: int, network_input: Tensor, state: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs that evaluation k's stage reads: one; with guidance or of a pair several."""
        if self.plain and forward_ad._current_level >= 0:  # tangents
            output = called(self.net, network_input, self.times[k], self.net_kwargs)
            self.tick()
            return self._plain(k, output)
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
            return self._plain(k, output)
        return self.finished(k, self.branches(k, network_input), state)

    def branches(self, k: int, network_input: Tensor) -> tuple[Tensor, ...]:
        """The outputs of evaluation k: the network's own, then those of guidance's branches."""
        found = self._outputs(k, network_input)
        self.tick()
        if self.model.learned_variance:
            # The variance is the conditional branch's; guidance is for the mean alone.
            self.variance = found[0].chunk(2, 1)[1]
            found = tuple([output.chunk(2, 1)[0].contiguous() for output in found])
        return found

    def finished(
        self, k: int, found: tuple[Tensor, ...], state: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What evaluation k's stage reads of the outputs: merged and transformed where asked."""
        guidance, transformed = self.guidance, self.transform is not None
        merges = guidance is not None and guidance.merges and not self.weighs
        if len(found) > 1 and guidance is not None and (merges or transformed):
            found = (self._merge(found, k) if self.merge is None else self.merge(found, k),)
        if self.transform is None:
            return found
        assert state is not None
        parametrisation, t = self.model.parametrisation, self.plan.evaluations[k].time
        data = converted(parametrisation, "data", t, state, found[0])
        data = self.transform(data, t, state) if self.sees_state else self.transform(data, t)  # type: ignore[call-arg]
        check_output(data, self.shape, self.device, "transform")
        return (self.checked(k, data, self.shape),)

    def weights(self, k: int, outputs: tuple[Tensor, ...]) -> Tensor:
        """The factors of evaluation k's outputs, float64 [B, N] or [1, N], in its stage."""
        assert self.guidance is not None
        return self.guidance.row_weights(outputs, self.plan.evaluations[k].time)

    def select(self, rows: Tensor, ids: Tensor) -> None:
        """Row i goes on from what row ``rows[i]`` has, as the sample ``ids[i]``.

        Arguments and scales stay where they are: rows are taken among those of one sample.
        """
        self.sample_ids = ids
        self._memories = {k: x.index_select(0, rows) for k, x in self._memories.items()}
        if self.variance is not None:
            self.variance = self.variance.index_select(0, rows)

    def _outputs(self, k: int, x: Tensor) -> tuple[Tensor, ...]:
        net, guidance, shape = self.net, self.guidance, self.output_shape
        if guidance is None or not self.guided[k]:
            return (self.checked(k, called(net, x, self.times[k], self.net_kwargs), shape),)
        calls = self._calls
        found: dict[int, Tensor] = {}
        if self.joined is not None:
            own = [i for i, (_, other) in enumerate(calls) if other is None]
            n = len(own)
            every = called(net, torch.cat([x] * n), self.joint[k], self.joined)
            every = self.checked(k, every, (n * shape[0], *shape[1:]))
            found |= dict(zip(own, every.reshape(n, *shape), strict=True))
        for i, (kwargs, other) in enumerate(calls):
            if i not in found:
                output = called(net if other is None else other, x, self.times[k], kwargs)
                found[i] = self.checked(k, output, shape)
                if len(found) < len(calls):
                    # The next call may write its output where this one's is.
                    found[i] = found[i].clone()
        return tuple([found[i] for i in range(len(calls))])

    def _merge(self, outputs: tuple[Tensor, ...], k: int) -> Tensor:
        """Guidance's one output of all branches."""
        assert self.guidance is not None
        t, memories = self.plan.evaluations[k].time, self._memories
        before = max((i for i in memories if i < k), default=None)
        memory = None if before is None else memories[before]
        output, kept = self.guidance.merge(outputs, t, memory)
        if kept is not None:
            if not torch.is_grad_enabled():
                memories.clear()
            memories[k] = kept
        return output

    def _plain(self, k: int, output: Any) -> tuple[Tensor, ...]:
        if not self.pair:
            return (self.checked(k, output, self.shape),)
        return tuple([self.checked(k, part, self.shape) for part in pair_of(output)])

    def checked(self, k: int, output: Any, shape: tuple[int, ...]) -> Tensor:
        """The output of evaluation k, or an error that says what is wrong with it."""
        if (
            not isinstance(output, Tensor)
            or output.is_nested  # of which the shape is an error
            or output.layout is not torch.strided
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
        if len(outputs) > 1 and self.guidance is not None:
            output = self.guidance.merge(outputs, t).output
        parametrisation = self.model.parametrisation
        if self.transform is None:
            score = converted(parametrisation, "score", t, state, output)
        else:
            p, q = parametrisation.from_data("score", t)
            score = p * state + q * output
        axes = tuple(range(1, z.ndim))
        size = partial(torch.linalg.vector_norm, dim=axes, keepdim=True)
        ratio = size(z) / size(score)
        step: Tensor = 2 * (snr * ratio) ** 2
        move: Tensor = step * score + (2 * step).sqrt() * z
        return move


def check_plan(
    plan: Plan, model: Model, transform: Transform | None, guidance: Guidance | None
) -> None:
    """Raise a ValueError if the plan reads what model, transform or guidance does not give."""
    merges = guidance is not None and guidance.merges
    if (transform is not None or merges) and any(
        isinstance(s, Prediction) and s.unconditional
        for i in plan.instructions
        if isinstance(i, Let)
        for s in i.form.terms
    ):
        name = "guidance" if transform is None else "transform"
        raise ValueError(
            f"{name}: solver {plan.solver!r} reads the unconditional output on its own, which "
            "merging the branches before the stage does not leave"
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
