"""Errors of solvers against the exact flow, their slopes, and the limits that all have."""

import functools
import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans.forms import Let
from fastgen.schedules import EDM, VE, CosineVP, DiscreteVP, LinearVP, Rectified, SubVP
from tests.support.closed_forms import Gaussian, Mixture, network, slope

SCHEDULES = {
    "linear_vp": LinearVP(),
    "cosine_vp": CosineVP(),
    "sub_vp": SubVP(),
    "discrete_vp": DiscreteVP.scaled_linear(),
    "zero_terminal_snr": DiscreteVP.linear().rescale_zero_terminal_snr(),
    "ve": VE(),
    "edm": EDM(),
    "rectified": Rectified(),
}


# One with finite ends, both kinds of alpha(1) = 0 and one in sigma; the others are like these.
EVERY_SCHEDULE = [
    name
    if name in ("linear_vp", "zero_terminal_snr", "edm", "rectified")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in SCHEDULES
]


def fractions(count, graded=False):
    """Even fractions of the time span; graded: the first one reached by steps that double.

    A multistep method's first steps have errors of their length squared, cubed, ...: from 1e-6
    these are far below those of the even steps.
    """
    even = np.linspace(0, 1, count + 1)
    if not graded:
        return even
    inner = 1e-6 * (2.0 ** np.arange(1, 20) - 1)
    return np.array([0.0, *inner[inner < 0.8 / count], *even[1:]])


def times_at(schedule, u, start=0.9, end=0.05):
    """Times even in t for flows and in log-SNR otherwise."""
    if isinstance(schedule, Rectified):
        times = start + u * (end - start)
    else:
        a, b = schedule.half_log_snr(start), schedule.half_log_snr(end)
        times = schedule.time_at(a + u * (b - a))
    times[0], times[-1] = start, end
    return times


@functools.cache
def flow(schedule, data, start, end):
    """Initial states and where the exact flow takes them."""
    dims = 4 if isinstance(data, Gaussian) else 2
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, dims)))
    x = x * schedule.sigma(start)
    return x, torch.as_tensor(data.flow(schedule, x, start, end))


def measured(solver, schedule, data, grids, /, **options):
    """Root mean square errors against the exact flow."""
    x, exact = flow(schedule, data, float(grids[0][0]), float(grids[0][-1]))
    model = fastgen.Model(
        network(data, schedule, "velocity"), schedule, "velocity", time_dtype=torch.float64
    )
    return [
        (
            fastgen.sample(
                model, x, solver, timesteps=t, dtype=torch.float64, backend="reference", **options
            )
            - exact
        )
        .square()
        .mean()
        .sqrt()
        .item()
        for t in grids
    ]


def check_slope(solver, order, counts, schedule, data, /, graded=False, slack=0.25, **options):
    grids = [times_at(schedule, fractions(n, graded)) for n in counts]
    errors = measured(solver, schedule, data, grids, **options)
    assert abs(slope(counts, errors) - order) < slack, (slope(counts, errors), errors)


def result(solver, times, schedule=None, predicts="velocity", **options):
    """One solver on the mixture."""
    schedule = schedule or LinearVP()
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 2)))
    data = Mixture()
    model = fastgen.Model(
        network(data, schedule, predicts), schedule, predicts, time_dtype=torch.float64
    )
    return fastgen.sample(
        model, x, solver, timesteps=times, dtype=torch.float64, backend="reference", **options
    )


def same(a, b, tolerance=1e-12):
    return (a - b).abs().max().item() < tolerance * b.abs().max().item()


def stages_are_evaluations(plan, predicts="velocity"):
    """One kernel stage after each evaluation, and none before the first."""
    program = plan.lower(Parametrisation(plan.schedule, predicts))
    stages = [stage is not None for stage in program.stages]
    return stages == [False] + [True] * plan.nfe


def check_limits(solver, schedule, steps, **options):
    """From t_max to 0 with a network that predicts velocity: all coefficients are finite."""
    plan = fastgen.plan(solver, schedule, steps, **options)
    assert stages_are_evaluations(plan), plan
    assert plan.states[-1].time == 0
    assert len(plan.states) == plan.steps
    forms = [i.form for i in plan.instructions if isinstance(i, Let)]
    assert all(math.isfinite(c) for form in forms for c in form.terms.values())
    return plan
