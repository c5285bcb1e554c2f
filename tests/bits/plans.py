"""Schedules, time grids and plans: float64 arithmetic on the host."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import torch

import fastgen
from fastgen import schedules, solvers, timesteps
from tests.bits.problems import F32, F64, PREDICTS, SCHEDULES
from tests.bits.registry import group

FUNCTIONS = (
    "alpha", "sigma", "d_alpha", "d_sigma", "ratio", "half_log_snr", "log_snr", "drift",
    "diffusion_squared", "warp", "unwarp",
)  # fmt: skip
TIMES = (0.001, 0.0123, 0.25, 0.5, 0.7531, 0.99, 0.999)
GRID_OPTIONS = {
    "rho": 5.0, "sigma_min": 0.05, "sigma_max": 10.0, "alpha": 0.7, "beta": 0.8, "rounded": True,
    "sigma_data": 0.7, "steps_offset": 1, "threshold_noise": 0.05, "linear_steps": 2,
    "ratio_max": 50.0, "on": "ratio",
    "sigmas": (10.0, 3.0, 1.0, 0.1),
}  # fmt: skip
# Values of solvers' options, for every solver that has an option of this name.
OPTIONS = {
    "order": (1, 2, 3, 4), "mode": ("PEC", "PECE", "PECECE"), "step_size": (0.05,),
    "corrector_steps": (2,), "sigma": (0.7,), "last_step": ("none", "noise", "tweedie", "euler"),
    "eta": (0.0, 0.5), "variance": ("large", "learned"),
    "variable": ("log_snr", "log_rho", "rho", "sigma"),
    "lower_order_final": (True,), "s_noise": (0.9,), "s_churn": (3.0,), "s_tmax": (5.0,),
    "r": (0.4,), "r1": (0.4,), "solver_type": ("heun", "taylor", "dpmsolver"),
    "compat": ("k_diffusion", "diffusers"), "prediction": ("data", "noise", "velocity"),
    "noise_scale": ("ode", "sde"), "a": (0.3,), "first_step": ("next",),
    "diffusion": ("sigma", "constant", "linear", "decreasing"), "diffusion_norm": (0.5,),
    "gamma": (0.6, 1.5), "timestep_scaling": (2.0,), "skip_prk": (True,), "snr": (0.1,),
    "step_rule": ("norm",), "c2": (0.4,), "c3": (0.9,), "base": ("euler",),
    "intervals": (((0.1, 0.5, 2, 1),),), "method": ("midpoint", "rk4", "kutta"),
    "predictor_order": (1, 3), "corrector_order": (0, 3), "tau": (0.0, 0.4),
    "tau_interval": ((0.2, 0.8),), "derivatives": (1, 3), "stages": (10,), "variant": ("bh1",),
    "corrector": (False,),
}  # fmt: skip


@group("schedules", backends=("",))
def of_time():
    for name, schedule in SCHEDULES.items():
        for function in FUNCTIONS:
            call = getattr(schedule, function)
            yield f"{name}/{function}/floats", lambda call=call: [call(t) for t in TIMES]
            yield f"{name}/{function}/numpy", lambda call=call: call(np.array(TIMES))
            for dtype in (F32, F64):
                times = torch.tensor(TIMES, dtype=dtype)
                yield f"{name}/{function}/{dtype}", partial(call, times)
            yield f"{name}/{function}/ends", lambda call=call: [call(t) for t in (0.0, 1.0)]
        ratios = [schedule.ratio(t) for t in TIMES]
        yield f"{name}/time_at_ratio", lambda s=schedule, r=ratios: [s.time_at_ratio(x) for x in r]
        yield f"{name}/range", lambda s=schedule: [s.t_min, s.t_max]
        yield f"{name}/config", lambda s=schedule: schedules.from_config(s.to_config()).to_config()
        yield f"{name}/repr", partial(repr, schedule)
    discrete = SCHEDULES["discrete"]
    yield "discrete/zero", lambda: discrete.rescale_zero_terminal_snr().alpha(np.array(TIMES))
    yield "discrete/index", lambda: [discrete.index_of_time(t) for t in TIMES]
    yield "dynamic_shift", lambda: [schedules.dynamic_shift(n) for n in (100, 1000, 9000)]


@group("timesteps", backends=("",))
def grids():
    for name in timesteps.names():
        for key, schedule in SCHEDULES.items():
            for steps in (1, 2, 5, 10, 33):
                yield f"{name}/{key}/{steps}", partial(timesteps.times, name, schedule, steps)
            call = partial(timesteps.times, name, schedule, 8)
            yield f"{name}/{key}/ends", partial(call, start=0.9, end=0.02)
            for option in timesteps.options(name):
                tables = {"ays": "sdxl", "gits": "cifar10"}
                value = tables.get(name) if option == "table" else GRID_OPTIONS.get(option)
                yield f"{name}/{key}/{option}", partial(call, **{option: value})
    yield "given", partial(timesteps.times, [0.9, 0.4, 0.0], SCHEDULES["cosine"])
    yield "error/name", partial(timesteps.times, "karas", SCHEDULES["cosine"], 4)
    yield "error/order", partial(timesteps.times, [0.4, 0.9], SCHEDULES["cosine"])


def described(solver, schedule, steps, **options):
    """All that a plan says about itself."""
    plan = fastgen.plan(solver, SCHEDULES[schedule], steps, **options)
    again = type(plan).from_json(plan.to_json())
    return [plan.to_json(), again.to_json(), str(plan), plan.nfe, plan.times]


def expanded(solver, schedule):
    return list(fastgen.plan(solver, SCHEDULES[schedule], 4, start=0.9).canonical())


def traffic(solver):
    plan = fastgen.plan(solver, SCHEDULES["linear"], 5, start=0.9)
    return [plan.bytes_per_element(4, size, p) for size in (2, 4) for p in PREDICTS]


def variants(solver):
    """(name, options): every value of every option of a solver that is in the table above."""
    for option in [*inspect.signature(solvers.get(solver).build).parameters][2:]:
        for value in OPTIONS.get(option, ()):
            yield f"{option}={value}", {option: value}


@group("plans", backends=("",))
def programs():
    for solver in solvers.names():
        for schedule in ("cosine", "linear", "rectified", "ve", "edm", "discrete"):
            yield f"{solver}/{schedule}/start", partial(described, solver, schedule, 4, start=0.9)
            yield f"{solver}/{schedule}/canonical", partial(expanded, solver, schedule)
            yield f"{solver}/{schedule}/whole", partial(described, solver, schedule, 3)
        for name, options in variants(solver):
            for schedule in ("linear", "rectified"):
                yield (
                    f"{solver}/{schedule}/{name}",
                    partial(described, solver, schedule, 4, start=0.9, **options),
                )
        call = partial(described, solver, "linear", 4)
        yield f"{solver}/reverse", partial(call, start=0.9, end=0.1, reverse=True)
        yield f"{solver}/karras", partial(call, timesteps="karras")
        yield f"{solver}/noise", partial(call, start=0.9, predicts="noise", clip=(-1.0, 1.0))
        yield f"{solver}/bytes", partial(traffic, solver)
    yield "error/solver", partial(described, "dpmp_2m", "linear", 4)
    yield "error/option", partial(described, "ddim", "linear", 4, etta=1.0)
    yield "error/steps", partial(described, "ddim", "linear", 0)
    yield "table", lambda: [repr(solvers.get(n).source) for n in solvers.names()]
