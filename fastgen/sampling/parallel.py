"""Parallel in time: the network is called on a window of evaluations at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_nonnegative, check_whole
from fastgen.common.display import displayed
from fastgen.common.transforms import transforming
from fastgen.kernels import Noise, Stream, dispatch
from fastgen.plans.forms import Computed, Increment
from fastgen.sampling.network_calls import NetworkCalls
from fastgen.sampling.run import InPlaceRun
from fastgen.sampling.window import WindowSums, given
from fastgen.sampling.window_network import WindowNetwork

if TYPE_CHECKING:
    from fastgen.sampling.prepared import Prepared


@displayed
@dataclass(frozen=True)
class ParallelReport:
    """What a run parallel in time took.

    rounds: network calls in a row, which is what one waits for where a window is no slower than a
    single evaluation; rows: evaluations in all of them, of which ``nfe`` were needed;
    accepted: how many evaluations each round settled.
    """

    rounds: int
    rows: int
    nfe: int
    accepted: tuple[int, ...]


@displayed
@dataclass(frozen=True, eq=False)
class Parallel:
    """How a run is parallel in time: ``sampler(shape, parallel=fastgen.Parallel(window=32))``.

    A run evaluates the network one state after the other. Here the states of a whole window are
    guessed, the network is called on all of them at once, and from its outputs the solver's own
    sums give better guesses, until they stay (Picard iteration with a sliding window: Shih et al.
    2023, arXiv 2305.16317). That pays where the network is as fast on ``window`` batches as on one:
    small batches on a large GPU, or several GPUs. It takes at most as many rounds as evaluations.

    The result is the ordinary run's, for every plan, with its noise: an output is used where the
    state that the network was called at is the state that the run arrives at, up to ``tolerance``.
    With 0 it is the same state bit for bit, and so is the result, if the network treats rows alike
    and apart (in libraries for matrix products the batch's size may decide how they add up).

    Args:
        window: evaluations of a round, 2 or more. Memory grows with it.
        tolerance: how far the network's state may be from the run's, as a part of its norm, in
            every sample.
        acceleration: "secant": outputs follow their moving states with a slope for each evaluation,
            measured from round to round; None: they stay, as Picard has it.
        replicas: copies of the network on other devices. Each takes its part of every round, in one
            call. Modules with parameters, whose device says where they are.

    Attributes:
        report: a `ParallelReport` of the last run that ended; None before.

    Example:
        >>> schedule = fastgen.schedules.LinearVP()
        >>> model = fastgen.Model(lambda x, t: torch.tanh(x), schedule, predicts="noise")
        >>> sampler = fastgen.Sampler(model, fastgen.plan("ddim", schedule, steps=50))
        >>> parallel = fastgen.Parallel(window=50, tolerance=0)
        >>> x = sampler((4, 2), seed=1, parallel=parallel)
        >>> torch.equal(x, sampler((4, 2), seed=1)), parallel.report.rounds < 25
        (True, True)
    """

    window: int = 32
    tolerance: float = 1e-3
    acceleration: Literal["secant"] | None = "secant"
    replicas: Sequence[torch.nn.Module] = ()
    report: ParallelReport | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_whole("window", self.window, 2)
        check_nonnegative("tolerance", self.tolerance)
        check_choice("acceleration", str(self.acceleration), ("secant", "None"))
        for i, net in enumerate(self.replicas):
            if not isinstance(net, torch.nn.Module) or not list(net.parameters()):
                raise TypeError(
                    f"replicas[{i}]: expected a module with parameters, whose device says where it "
                    f"is, got {type(net).__name__}"
                )

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"window": self.window, "tolerance": self.tolerance}
        facts |= {"replicas": len(self.replicas)} if self.replicas else {}
        return facts | ({} if self.report is None else {"report": self.report})

    def ended(self, report: ParallelReport) -> None:
        """Keep what the last run took."""
        object.__setattr__(self, "report", report)


def check_parallel(parallel: Any, differentiable: bool) -> None:
    """Raise an error for what is no `Parallel`, and for runs that cannot be parallel in time."""
    if not isinstance(parallel, Parallel):
        raise TypeError(f"parallel={parallel!r}: expected fastgen.Parallel(window=32), or None")
    if differentiable or transforming():
        raise ValueError(
            "parallel: a run parallel in time is not recorded for derivatives; leave parallel out "
            "of runs with differentiable=True and within torch.func's transforms"
        )


def refuse_parallel(kwargs: Mapping[str, Any]) -> None:
    """Raise a TypeError where captured and served runs are asked to be parallel in time."""
    if "parallel" in kwargs:
        raise TypeError(
            "parallel: a run parallel in time takes as many rounds as the data asks for, which no "
            "graph and no served batch has; call the sampler"
        )


class WindowCalls:
    """The network of one run, called on a window of evaluations at once; as `NetworkCalls`.

    Args:
        parallel: the window and the tolerance.
        prepared: model, plan and guidance.
        calls: the ordinary calls of the run.
        run: its buffers.
        sums: of `Prepared.window_sums`.
        seeds, sample_ids: of the run.
    """

    def __init__(
        self,
        parallel: Parallel,
        prepared: Prepared,
        calls: NetworkCalls,
        run: InPlaceRun,
        sums: WindowSums,
        seeds: Tensor,
        sample_ids: Tensor,
    ) -> None:
        self.parallel, self.prepared, self.calls, self.run = parallel, prepared, calls, run
        self.sums, self.rows, self.nfe = sums, sums.rows, prepared.plan.nfe
        shape, dtype = calls.shape, prepared.dtypes[0]
        with torch.inference_mode(False):  # rounds write to them outside of it
            self.work = torch.zeros((self.rows.count, *shape), dtype=dtype, device=calls.device)
            self.coefficients = sums.coefficients.clone()  # this run's slopes are in it
        draws = sums.draws
        noise = Noise(seeds, sample_ids, draws, Stream.SOLVER) if draws.numel() else None
        bind = dispatch.find("bind_cascade", calls.device, prepared.backend)
        self.cascade = bind(self.work, self.coefficients, sums.sums, sums.clip, noise)
        self.network = WindowNetwork(
            prepared.model, calls, prepared.time_tables(run.slots[0]).times, parallel.replicas
        )
        self.reach = self.settled = 0  # evaluations whose outputs are known, and are right
        self.evaluated = 0
        self.accepted: list[int] = []
        self.found: dict[int, tuple[Tensor, ...]] = {}
        self.variances: dict[int, Tensor] = {}

    def __call__(self, k: int, network_input: Tensor, state: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs that evaluation k's stage reads."""
        if k >= self.settled:
            self._round(k, network_input, state)
        calls = self.calls
        if calls.model.learned_variance:
            calls.variance = self.variances[k]
        found = self.found.pop(k)
        if calls.check_finite:
            for output in found:
                calls.checked(k, output, calls.shape)
        calls.tick()
        return found

    def provide(
        self,
        symbol: Computed | Increment,
        outputs: tuple[Tensor, ...],
        state: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """A stage's input that is neither a buffer nor an output."""
        return self.calls.provide(symbol, outputs, state, dtype)

    def forget(self) -> None:
        """The run goes on from another state: what has been found does not belong to it."""
        self.settled = 0

    def report(self) -> ParallelReport:
        """What the run has taken."""
        return ParallelReport(len(self.accepted), self.evaluated, self.nfe, tuple(self.accepted))

    def _round(self, k: int, network_input: Tensor, state: Tensor | None) -> None:
        """Evaluate the window from k on, which the run has arrived at."""
        work, rows, sums = self.work, self.rows, self.sums
        end = min(self.nfe, k + self.rows.window)
        if self.reach == 0:
            self._take_slots(0)
            self._give_increments(k, end)
            self.cascade(sums.blind[0], sums.blind[end])
        elif self.reach < end:
            self._give_increments(self.reach, end)
            self.cascade(sums.fresh[max(self.reach, k)], sums.fresh[end])
        work[rows.point(k)].copy_(network_input if state is None else state)
        if rows.fed:
            work[rows.input(k)].copy_(network_input)
        self._evaluate(k, end)
        self._take_slots(k)
        self.cascade(sums.again[k + 1], sums.again[end])
        self.reach = end
        self.settled = k + 1 + self._unmoved(k + 1, end)
        self.evaluated += end - k
        self.accepted.append(self.settled - k)

    def _take_slots(self, k: int) -> None:
        """The run's buffers as they are after evaluation k, as far as later stages read them."""
        for slot in self.sums.live[k]:
            self.work[slot].copy_(self.run.slots[slot])

    def _give_increments(self, first: int, last: int) -> None:
        dtype = self.work.dtype
        for k in range(first, last):
            for place, symbol in enumerate(given(self.sums.program.stages[k + 1])):
                if isinstance(symbol, Increment):
                    self.work[self.rows.given(k, place)] = self.calls.provide(
                        symbol, (), None, dtype
                    )

    def _evaluate(self, first: int, last: int) -> None:
        """Call the network at the points of these evaluations, and keep what their stages read."""
        calls, rows, work = self.calls, self.rows, self.work
        inputs = [work[rows.input(k)] for k in range(first, last)]
        known = range(first + 1, self.reach if self.parallel.acceleration else 0)
        before = [[work[rows.raw(k, b)].clone() for k in known] for b in range(rows.branches)]
        for k, (found, variance) in self.network(first, inputs).items():
            state = work[rows.point(k)]
            if variance is not None:
                self.variances[k] = calls.variance = variance
            found = calls.finished(k, found, state)
            self.found[k] = tuple([work[rows.raw(k, b)] for b in range(len(found))])
            for kept, output in zip(self.found[k], found, strict=True):
                if output.dtype == torch.float64 and work.dtype != torch.float64:
                    raise ValueError(
                        "parallel: the network's output is float64 and the state float32; pass "
                        "dtype=torch.float64"
                    )
                kept.copy_(output)
            for place, symbol in enumerate(given(self.sums.program.stages[k + 1])):
                if isinstance(symbol, Computed):
                    provided = calls.provide(symbol, self.found[k], state, work.dtype)
                    work[rows.given(k, place)] = provided
        if before[0]:  # torch.compile fails on the range
            self._learn(known, before)

    def _learn(self, numbers: range, before: list[list[Tensor]]) -> None:
        """The slopes of outputs along the way that their points have moved since the last call.

        What a row has in ``before`` was foretold with the slope so far.
        """
        work, rows = self.work, self.rows
        moves = torch.stack([work[rows.move(k)] for k in numbers])
        axes = tuple(range(1, moves.ndim))
        lengths = moves.square().sum(axes)
        for branch, foretold in enumerate(before):
            new = torch.stack([work[rows.raw(k, branch)] for k in numbers])
            missed = ((new - torch.stack(foretold)) * moves).sum(axes)
            change = torch.where(lengths > 0, missed / lengths, 0.0).nan_to_num(0.0, 0.0, 0.0)
            places = [self.sums.slopes[k] + 2 * branch for k in numbers]
            self.coefficients[:, places] += change.double()

    def _unmoved(self, first: int, last: int) -> int:
        """How many evaluations from the first on were made where the run arrives."""
        if first >= last:
            return 0
        numbers = range(first, last)
        moves, points = (
            torch.stack([self.work[row(k)] for k in numbers]).flatten(2)
            for row in (self.rows.move, self.rows.point)
        )
        if self.parallel.tolerance:
            near = moves.norm(dim=2) <= self.parallel.tolerance * points.norm(dim=2)
        else:
            near = (moves == 0).all(2)
        settled: list[bool] = near.all(1).tolist()
        return [*settled, False].index(False)
