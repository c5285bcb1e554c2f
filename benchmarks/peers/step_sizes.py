"""Time grids that others publish or search for, from their papers' equations.

Both searches choose among the times of one fine run of the user's own model, for steps of the
"ddim" kind, x_j = alpha_j D_i + sigma_j (x_i - alpha_i D_i) / sigma_i, which on a straight path are
Euler's in the velocity. Distances are between states over alpha, as on a path without alpha.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import fastgen
from fastgen.fitting.study import Batch, Study

# The times that are chosen from.
CANDIDATES = 60


class Run:
    """A fine run of a batch: its times, its states, and what a step from a state would make."""

    def __init__(self, study: Study, batch: Batch, begin: float | None) -> None:
        self.study, self.batch, self.schedule = study, batch, study.model.schedule
        plan = fastgen.plan("unipc", self.schedule, CANDIDATES, timesteps="log_snr", start=begin)
        start = batch.z * self.schedule.sigma(float(plan.times[0]))
        _, self.states = study.sampler(plan)(
            start, net_kwargs=batch.net_kwargs, sample_ids=batch.ids, trajectory=True
        )
        self.times = [float(t) for t in plan.times]

    def data(self, i: int, x: Tensor) -> Tensor:
        """The data prediction at the i-th time."""
        return self.study.prediction("data", x, self.times[i], self.batch)

    def step(self, i: int, j: int, x: Tensor, data: Tensor) -> Tensor:
        """From the i-th time to the j-th."""
        alpha, sigma = self.schedule.alpha, self.schedule.sigma
        s, t = self.times[i], self.times[j]
        return alpha(t) * data + sigma(t) / sigma(s) * (x - alpha(s) * data)

    def distance(self, j: int, x: Tensor) -> float:
        """To the run's own state at the j-th time, the mean over the samples."""
        away = (x - self.states[j]).flatten(1).norm(dim=1).mean()
        return float(away) / self.schedule.alpha(self.times[j])


def gits(run: Run, steps: int) -> list[float]:
    """The path of least summed local error (Chen et al. 2024, arXiv 2405.11326, section 3.3).

    J_k(j) = min_i gamma J_{k-1}(i) + c(i, j), c the error of one step along the fine run. gamma is
    1 here: their 1.15, found on images, was worse on the mixture of 64 dimensions (.38 for .26).
    """
    last = len(run.times) - 1
    data = [run.data(i, run.states[i]) for i in range(last)]
    cost = torch.full((last + 1, last + 1), torch.inf, dtype=torch.float64)
    for i in range(last):
        for j in range(i + 1, last + 1):
            cost[i, j] = run.distance(j, run.step(i, j, run.states[i], data[i]))
    return _walk(run.times, steps, cost)


def _walk(times: list[float], steps: int, cost: Tensor) -> list[float]:
    best, came = [cost[0]], list[Tensor]()
    for _ in range(steps - 1):
        least = (best[-1][:, None] + cost).min(0)
        best.append(least.values)
        came.append(least.indices)
    path = [len(times) - 1]
    for indices in reversed(came):
        path.append(int(indices[path[-1]]))
    return [times[i] for i in (0, *reversed(path))]


def optimal_steps(run: Run, steps: int) -> list[float]:
    """The path whose own states stay nearest (Pei et al. 2025, arXiv 2503.21774, section 3.3).

    The state of k steps at j is the nearest to the fine run's that a step from the states of
    k - 1 steps reaches. (Theirs is searched for each sample, and the median taken; here for the
    mean of the batch.)
    """
    last = len(run.times) - 1
    reached: dict[int, tuple[Tensor, list[int]]] = {0: (run.states[0], [0])}
    for k in range(1, steps + 1):
        found: dict[int, tuple[float, Tensor, list[int]]] = {}
        for i, (x, path) in reached.items():
            data = run.data(i, x) if i < last else x
            for j in range(i + 1, last + 1) if k < steps else [last] * (i < last):
                state = run.step(i, j, x, data)
                away = run.distance(j, state)
                if j not in found or away < found[j][0]:
                    found[j] = away, state, [*path, j]
        reached = {j: (state, path) for j, (_, state, path) in found.items()}
    return [run.times[i] for i in reached[last][1]]


def plans(study: Study, steps: int, begin: float | None) -> Iterator[tuple[str, fastgen.Plan, str]]:
    """Provider, plan, and what it is."""
    schedule = study.model.schedule
    run = Run(study, study.batches(study.settings.batch)[0], begin)
    table = fastgen.timesteps.ays(table="sd15")
    plan = fastgen.plan("dpmpp_2m", schedule, steps, timesteps=table, start=begin)
    yield "AYS grid", plan, "dpmpp_2m, sd15"
    grid = gits(run, steps)
    yield "GITS", fastgen.plan("ipndm", schedule, timesteps=grid), "ipndm"
    grid = optimal_steps(run, steps)
    yield "OptimalSteps", fastgen.plan("ddim", schedule, timesteps=grid), "ddim"
