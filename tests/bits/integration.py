"""`odeint`, `sdeint`, likelihoods and the variational bound."""

from __future__ import annotations

from functools import partial

import torch

import fastgen
from fastgen.ode import Adjoint, Controller, Event, Execution, Through
from fastgen.sde import Adaptive
from tests.bits.problems import F32, F64, Module, learned, model, normal, rows, squash
from tests.bits.registry import group, reference

CONTROLLED = ("dopri5", "tsit5", "dopri8", "bosh3", "fehlberg45", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun", "rk4", "rk4_classic", "explicit_adams")
TIMES = (0.0, 0.3, 0.35, 1.0)
COMPACT = Execution(compact=True)
SDES = {
    "euler_maruyama": ("ito", "diagonal scalar additive general"),
    "milstein": ("ito stratonovich", "diagonal scalar additive"),
    "milstein_derivative_free": ("ito stratonovich", "diagonal scalar additive"),
    "heun": ("stratonovich", "diagonal scalar additive general"),
    "euler_heun": ("stratonovich", "diagonal scalar additive general"),
    "midpoint": ("stratonovich", "diagonal scalar additive general"),
    "reversible_heun": ("stratonovich", "diagonal scalar additive general"),
    "srk": ("ito", "diagonal scalar additive"),
}


def field(t, y):
    return squash(2 * y.flip(-1) + rows(t, y)) - 0.3 * y


def oscillator(t, y):
    return torch.stack([y[:, 1], -y[:, 0]], 1)


def solved(f=field, times=TIMES, dtype=F64, shape=(4, 3), y0=None, **options):
    y0 = normal(*shape, dtype=dtype) if y0 is None else y0
    options = {"max_steps": 150, "on_failure": "return", "return_solution": True, **options}
    found = fastgen.odeint(f, y0, times, **options)
    stats = found.stats
    counts = [stats.evaluations, stats.accepted, stats.rejected, stats.calls, stats.rows]
    events = [(e.sample, e.index, e.time, e.state) for e in found.events]
    return [found.ys, found.status, found.reached, counts, events]


@group("odeint")
def ordinary():
    for method in ("dopri5", "bosh3", "rk4") if reference() else (*CONTROLLED, *FIXED):
        size = {} if method in CONTROLLED else {"step_size": 0.07}
        call = partial(solved, method=method, **size)
        for dtype in (F32, F64):
            yield f"{method}/{dtype}", partial(call, dtype=dtype)
            yield f"{method}/{dtype}/joint", partial(call, dtype=dtype, step="joint")
            yield f"{method}/{dtype}/back", partial(call, times=TIMES[::-1], dtype=dtype)
        each = torch.tensor([TIMES, TIMES[::-1], [0.0] * 4, TIMES], dtype=F64)
        yield f"{method}/each", partial(call, times=each)
        yield f"{method}/dense", partial(call, times=torch.linspace(0, 2, 41, dtype=F64))
        yield f"{method}/compact", partial(call, execution=COMPACT, shape=(9, 2))
        yield f"{method}/tight", partial(call, rtol=1e-9, atol=1e-9)
        for mode in ("through", "adjoint"):
            for step in ("per_sample", "joint"):
                yield f"{method}/{mode}/{step}", partial(gradients, mode, step, method, size)
        for checkpoint in ("step", "binomial"):
            # Methods of fixed steps keep everything, and refuse to be told otherwise.
            way = Through(checkpoint, snapshots=2) if method in CONTROLLED else "through"
            yield f"{method}/{checkpoint}", partial(gradients, way, "per_sample", method, size)
    for method in CONTROLLED[: 1 if reference() else None]:
        call = partial(solved, oscillator, (0.0, 2.0, 6.0), shape=(4, 2), method=method)
        event = {"event": lambda t, y: y[:, 0] + 0.25}
        yield f"{method}/event", partial(call, **event)
        yield f"{method}/events", partial(call, event=Event(lambda t, y: y, terminal=False))
        yield f"{method}/event/compact", partial(call, execution=COMPACT, **event)
        for controller in ("i", "pi", "pid"):
            yield f"{method}/{controller}", partial(solved, method=method, controller=controller)
    limits = Controller.of("pi", min_step=0.05, max_step=0.1, first_step=0.07)
    yield "limits", partial(solved, controller=limits)
    yield "tree", tree
    for failure in ("raise", "return"):
        blow_up = partial(solved, lambda t, y: y * y * y, (0.0, 50.0), on_failure=failure)
        yield f"failure/max_steps/{failure}", partial(blow_up, max_steps=5)
        yield f"failure/finite/{failure}", blow_up
    for options in ({"method": "dopri"}, {"rtol": -1.0}, {"step": "all"}, {"controller": "p"}):
        yield f"error/{options}", partial(solved, **options)


def gradients(mode, step, method, options):
    module, y0 = Module(F64), normal(4, 3, dtype=F64).requires_grad_()
    times = torch.tensor(TIMES, dtype=F64)

    def f(t, y):
        return module(y, t) - y

    ys = fastgen.odeint(
        f,
        y0,
        times,
        rtol=1e-3,
        atol=1e-4,
        method=method,
        step=step,
        gradient=Adjoint(list(module.parameters())) if mode == "adjoint" else mode,
        **options,
    )
    return [ys, torch.autograd.grad(ys.square().sum(), [y0, module.gain, module.bias])]


def tree():
    def f(t, y):
        return {"x": y["v"], "v": -squash(y["x"])}

    y0 = {"x": normal(3, 2, dtype=F64), "v": normal(3, 2, seed=1, dtype=F64)}
    return fastgen.odeint(f, y0, TIMES)


def drift(t, y):
    return squash(y) - 0.5 * rows(t, y)


def diffusion(noise_type):
    return {
        "diagonal": lambda t, y: 0.4 + 0.2 * squash(y),
        "scalar": lambda t, y: 0.4 + 0.2 * squash(y),
        "additive": lambda t, y: torch.ones_like(y) * (0.5 + rows(t, y)),
        "general": lambda t, y: torch.stack([0.3 * squash(y), 0.2 * y], -1),
    }[noise_type]


def stochastic(method, kind, noise_type, dtype=F32, **options):
    """The solution, or the exception: not every combination exists."""
    y0 = normal(4, 3, dtype=dtype)
    given = {"steps": 6, "seed": 3, "method": method, "sde_type": kind, "noise_type": noise_type}
    times = options.pop("times", (0.0, 0.3, 1.0))
    return fastgen.sdeint(drift, diffusion(noise_type), y0, times, **given | options)


@group("sdeint")
def stochastic_equations():
    for method, (kinds, noises) in SDES.items():
        for kind in kinds.split():
            for noise in noises.split():
                call, name = partial(stochastic, method, kind, noise), f"{method}/{kind}/{noise}"
                for dtype in (F32, F64):
                    yield f"{name}/{dtype}", partial(call, dtype)
                if reference() and method not in ("srk", "milstein"):
                    continue
                yield f"{name}/dt", partial(call, steps=None, dt=0.11)
                yield f"{name}/ids", partial(call, seed=[1, 2, 3, 2**40], sample_ids=[4, 0, 1, 9])
                yield f"{name}/gradient", partial(gradient_of, method, kind, noise)
                yield f"{name}/brownian", partial(call, noise="brownian", steps=4)
                width = {"scalar": 1, "general": 2}.get(noise, 3)
                path = partial(
                    fastgen.BrownianPath, (4, width), seed=5, levy_area=method == "srk", depth=7
                )
                yield f"{name}/path", lambda c=call, p=path: c(noise=p())
                control = {"steps": None, "rtol": 0.2, "atol": 0.2}
                if reference():
                    continue
                yield f"{name}/adaptive", partial(call, adaptive=True, **control)
                joint = Adaptive(step="joint")
                yield f"{name}/adaptive/joint", partial(call, adaptive=joint, **control)
    yield (
        "reversible/adjoint",
        partial(gradient_of, "reversible_heun", "stratonovich", "diagonal", gradient="adjoint"),
    )
    yield "default", partial(stochastic, None, "ito", "diagonal")
    yield "error/method", partial(stochastic, "euler", "ito", "diagonal")
    yield "error/steps", partial(stochastic, "milstein", "ito", "diagonal", steps=None)


def gradient_of(method, kind, noise, **options):
    module, y0 = Module(F64), normal(4, 3, dtype=F64).requires_grad_()
    g = diffusion(noise)
    if options:
        options["parameters"] = list(module.parameters())
    ys = fastgen.sdeint(
        lambda t, y: module(y, t) - y,
        lambda t, y: g(t, y),
        y0,
        (0.0, 0.5, 1.0),
        method=method,
        sde_type=kind,
        noise_type=noise,
        steps=4,
        seed=2,
        **options,
    )
    return [ys, torch.autograd.grad(ys.square().sum(), [y0, module.gain, module.bias])]


# Of networks that are no scores, whose flow is stiff where sigma is large.
LIMITS = {"max_steps": 25, "on_failure": "return"}


def likelihood(schedule, predicts, **options):
    found = fastgen.log_likelihood(
        model(schedule, predicts),
        normal(3, 2, 2, dtype=F64),
        return_solution=True,
        **LIMITS,
        **{"start": 0.95, "end": 0.05, "rtol": 1e-3, "atol": 1e-3, **options},
    )
    stats = found.solution.stats
    values = [found.log_prob, found.standard_error, found.bits_per_dimension, found.latent]
    return [*values, stats.evaluations, stats.accepted]


@group("likelihood")
def densities():
    for schedule in ("cosine", "linear", "rectified", "ve", "edm"):
        for predicts in ("noise", "data", "velocity", "v", "score", "edm"):
            if reference() and schedule != "linear":
                continue
            yield f"{schedule}/{predicts}/exact", partial(likelihood, schedule, predicts)
            options = {"divergence": "hutchinson", "probes": 2, "seed": 4}
            call = partial(likelihood, schedule, predicts, **options)
            yield f"{schedule}/{predicts}/hutchinson", call
    call = partial(likelihood, "linear", "noise")
    for name, options in {
        "hutch++": {"divergence": "hutch++", "probes": 6},
        "whole": {"start": None, "end": None},
        "dequantise": {"dequantise": 256, "seed": 2},
        "joint": {"step": "joint"},
        "float64": {"dtype": F64},
        "rk4": {"method": "rk4", "step_size": 0.1},
        "chunk": {"chunk": 3},
        "prior": {"prior": lambda x: -x.flatten(1).square().sum(1)},
        "ids": {"divergence": "hutchinson", "seed": [1, 2, 3], "sample_ids": [7, 8, 9]},
        "error": {"divergence": "exakt"},
    }.items():
        yield f"options/{name}", partial(call, **options)
    yield "gradient", gradient_of_likelihood
    yield "bound/error", partial(bound, "linear", "noise", "small", None)
    for schedule in ("squared_cosine", "discrete")[: 1 if reference() else 2]:
        for variance in ("small", "large", "learned"):
            for levels in (None, 256):
                for predicts in ("noise", "data", "v"):
                    yield (
                        f"bound/{schedule}/{variance}/{levels}/{predicts}",
                        partial(bound, schedule, predicts, variance, levels),
                    )


def gradient_of_likelihood():
    module, x = Module(F64), normal(3, 2, dtype=F64).requires_grad_()
    found = fastgen.log_likelihood(
        model("linear", "noise", module),
        x,
        start=0.9,
        end=0.1,
        rtol=1e-3,
        atol=1e-3,
        dtype=F64,
        differentiable=True,
    )
    return [found, torch.autograd.grad(found.sum(), [x, module.gain, module.bias])]


def bound(schedule, predicts, variance, levels):
    options = {"learned_variance": True} if variance == "learned" else {}
    net = {"net": learned} if options else {}
    found = fastgen.variational_bound(
        model(schedule, predicts, **net, **options),
        squash(normal(2, 2, 2)),
        variance=variance,
        levels=levels,
        seed=3,
        clip=(-1.0, 1.0),
    )
    return [found.prior, found.transitions, found.reconstruction, found.bits_per_dimension]
