"""`sample`, `Sampler`, capture and serving: every solver, schedule and prediction."""

from __future__ import annotations

from functools import partial

import torch

import fastgen
from fastgen import Guidance, solvers
from tests.bits.plans import variants
from tests.bits.problems import (
    BF16,
    F32,
    F64,
    PREDICTS,
    SHAPE,
    Module,
    learned,
    model,
    network,
    normal,
    squash,
    two_times,
    velocity_and_score,
)
from tests.bits.registry import group, reference

SINGLE = [name for name in solvers.names() if not solvers.get(name).two_times]
STOCHASTIC = [name for name in SINGLE if solvers.get(name).stochastic]
# The error-controlled ones, which are no plans.
ADAPTIVE = (
    "dopri5", "tsit5", "dopri8", "bosh3", "fehlberg45", "fehlberg2", "adaptive_heun",
    "dpm_adaptive",
)  # fmt: skip
EACH = torch.tensor([2.0, 1.0, -0.5])
SHIFT = torch.tensor([0.3, -0.2, 0.1])


def drawn(solver, schedule, predicts, steps=4, net=network, model_options=None, **options):
    return fastgen.sample(
        model(schedule, predicts, net, **(model_options or {})),
        options.pop("shape", SHAPE),
        solver,
        steps,
        **{"seed": 7, "start": 0.9, **options},
    )


@group("sample", backends=("cpp",))
def everywhere():
    for solver in solvers.names():
        for schedule in ("cosine", "linear", "rectified", "ve", "edm", "discrete"):
            for predicts in PREDICTS:
                yield (
                    f"{solver}/{schedule}/{predicts}",
                    partial(drawn, solver, schedule, predicts),
                )


@group("solvers")
def of_each_kind():
    for solver in solvers.names():
        net = two_times if solvers.get(solver).two_times else network
        predicts = "average_velocity" if net is two_times else "noise"
        for schedule in ("cosine", "rectified", "edm")[: 1 if reference() else 3]:
            call = partial(drawn, solver, schedule, predicts, net=net)
            name = f"{solver}/{schedule}"
            yield f"{name}/float64", partial(call, dtype=F64)
            yield f"{name}/bfloat16", partial(call, model_options={"dtype": BF16})
            yield f"{name}/trajectory", partial(call, trajectory=True, shape=(2, 7))
            yield f"{name}/brownian", partial(call, noise="brownian")
        call = partial(drawn, solver, "linear", predicts, net=net)
        yield f"{solver}/whole", partial(call, start=None, steps=6)
        yield f"{solver}/ids", partial(call, seed=[1, 2**40, 1], sample_ids=[9, 0, 2**33])
        yield f"{solver}/clip", partial(call, clip=(-0.8, 0.9))
        yield f"{solver}/transform", partial(call, transform=lambda d, t: squash(d) * (1 + t))
        if reference():
            continue
        yield f"{solver}/large", partial(call, shape=(2, 3, 33, 37), steps=3)
        for name, options in variants(solver):
            yield f"{solver}/{name}", partial(call, **options)
        yield f"{solver}/gradient", partial(gradient, solver, predicts, net, False)
        yield f"{solver}/checkpoint", partial(gradient, solver, predicts, net, True)


def gradient(solver, predicts, net, checkpoint):
    x = (normal(*SHAPE, seed=3) * 0.8).requires_grad_()
    module = Module()
    called = (lambda x, t, s: module(two_times(x, t, s), t)) if net is two_times else module
    plan = fastgen.plan(solver, model("linear", predicts).schedule, 3, start=0.9, end=0.1)
    sampler = fastgen.Sampler(model("linear", predicts, called), plan)
    found = sampler(x, seed=2, differentiable=True, checkpoint=checkpoint)
    parameters = torch.autograd.grad(found.square().sum(), [x, module.gain, module.bias])
    return [found, parameters]


GUIDANCES = {
    "one": lambda: Guidance(1.7, {"shift": 0.4}, batched=False),
    "batched": lambda: Guidance(1.7, {"shift": torch.tensor([0.4])}),
    "each": lambda: Guidance(EACH, {"shift": torch.tensor([0.4])}),
    "interval": lambda: Guidance(2.5, {"shift": torch.tensor([0.4])}, interval=(0.3, 0.7)),
    "rescale": lambda: Guidance(2.5, {"shift": torch.tensor([0.4])}, rescale=0.6),
    "weak": lambda: Guidance(2.0, network=lambda x, t, **_: 0.9 * network(x, t, 0.2)),
}


@group("guidance")
def guided():
    for solver in SINGLE:
        for name, guidance in GUIDANCES.items():
            if reference() and name in ("weak", "interval", "one"):
                continue
            for schedule, predicts in (("linear", "noise"), ("rectified", "velocity")):
                options = {"net_kwargs": {"shift": SHIFT}, "guidance": guidance()}
                yield (
                    f"{solver}/{schedule}/{name}",
                    partial(drawn, solver, schedule, predicts, **options),
                )
    options = {"net_kwargs": {"shift": SHIFT}, "clip": (-1.0, 1.0)}
    for solver in ("ddim_cfgpp", "ddpm", "dpmpp_2m", "unipc"):
        for name, guidance in GUIDANCES.items():
            call = partial(drawn, solver, "cosine", "v", guidance=guidance(), **options)
            yield f"{solver}/clipped/{name}", call
            yield f"{solver}/float64/{name}", partial(call, dtype=F64)
            yield f"{solver}/transform/{name}", partial(call, transform=lambda d, t: squash(d))


@group("inputs")
def told_the_time():
    for kind in ("unit", "index", "sigma", "log_snr", "edm", lambda t: t * t):
        for schedule in ("linear", "discrete", "edm", "rectified"):
            name = kind if isinstance(kind, str) else "callable"
            for dtype in (F32, F64, torch.int64):
                options = {"time_input": kind, "time_dtype": dtype}
                call = partial(drawn, "heun", schedule, "noise", model_options=options)
                yield f"{name}/{schedule}/{dtype}", call
    for predicts in PREDICTS:
        for key, options in {
            "data_at": {"data_at": 1},
            "sigma_data": {"sigma_data": 0.8},
            "score_scale": {"score_scale": 2.0},
            "float16": {"dtype": torch.float16},
            "reuses": {"reuses_output": True},
        }.items():
            for schedule in ("linear", "rectified", "edm"):
                call = partial(drawn, "dpmpp_2m", schedule, predicts, model_options=options)
                yield f"{key}/{schedule}/{predicts}", call
    variance = {"learned_variance": True}
    for solver in ("ddpm", "ddim", "dpmpp_2m"):
        for options in ({}, {"variance": "learned"}, {"variance": "large"})[
            : 3 if solver == "ddpm" else 1
        ]:
            for schedule in ("linear", "discrete"):
                call = partial(drawn, solver, schedule, "noise", net=learned, **options)
                yield (
                    f"learned/{solver}/{schedule}/{options}",
                    partial(call, model_options=variance),
                )
    for end in ("end", "step"):
        options = {"second_time": end}
        call = partial(drawn, "mean_flow", "rectified", "average_velocity", net=two_times)
        yield f"second_time/{end}", partial(call, model_options=options)
    pair = partial(drawn, "bridge_sde", "rectified", "velocity_and_score", net=velocity_and_score)
    yield "bridge_sde/pair", pair
    for quantity in ("data", "noise", "velocity", "v", "score"):
        for predicts in PREDICTS:
            found = model("linear", predicts)
            call = partial(found.predict, quantity, normal(*SHAPE), 0.4)
            yield f"predict/{predicts}/{quantity}", call


def states(solver, **options):
    """What a callback sees."""
    seen = []
    drawn(solver, "linear", "noise", callback=lambda s: seen.append((s.index, s.time, s.state + 0)))
    return seen


@group("runs")
def again_and_otherwise():
    for solver in SINGLE:
        if reference():  # the runs are the same, only their kernels are not
            break
        yield f"{solver}/repeated", partial(repeated, solver)
        yield f"{solver}/captured", partial(captured, solver)
        yield f"{solver}/served", partial(served, [solver])
        yield f"{solver}/callback", partial(states, solver)
    yield "served/mixed", partial(served, ["ddim", "euler", "dpmpp_2m", "unipc", "ddpm", "heun"])
    yield "served/scales", partial(served, ["ddpm", "heun"], GUIDANCES["batched"]())
    for solver in ("ddpm", "ddim", "euler_ancestral", "flow_grpo", "dpmpp_2m_sde", "heun"):
        for guided in (False, True):
            yield f"{solver}/log_probability/{guided}", partial(log_probability, solver, guided)
    for solver in ("ddim", "heun", "dpmpp_2m", "rk4", "unipc", "ddpm"):
        for schedule in ("linear", "rectified"):
            yield f"{solver}/invert/{schedule}", partial(inverted, solver, schedule)


def make(solver, steps=4, guidance=None, schedule="linear", **options):
    plan = fastgen.plan(solver, model(schedule, "noise").schedule, steps, start=0.9, **options)
    return fastgen.Sampler(model(schedule, "noise"), plan, guidance=guidance)


def repeated(solver):
    """One sampler, many calls: buffers of an earlier run must leave no trace."""
    sampler = make(solver)
    calls = (((3, 5), 1), ((3, 5), 2), ((1, 2, 3), 1), ((3, 5), 1), (normal(3, 5), 4))
    return [sampler(x, seed=seed, shift=0.1).clone() for x, seed in calls]


def captured(solver):
    sampler = make(solver)
    run = sampler.capture(SHAPE, shift=SHIFT)
    found = [run(seed=seed).clone() for seed in (0, 5)]
    run.exchange(fastgen.plan(solver, sampler.plan.schedule, 4, start=0.8))
    return [*found, run(seed=5, shift=-SHIFT).clone()]


def served(names, guidance=None):
    """Ten requests of several plans, admitted as rows get free."""
    plans = [make(name, steps).plan for name in names for steps in (2, 5)]
    sampler = make(names[0], 5, guidance)
    batch = sampler.serve(SHAPE, plans=plans, shift=SHIFT)
    numbers, found, waiting = {}, {}, list(range(10))
    while waiting or batch.active:
        while waiting and batch.free:
            n = waiting.pop(0)
            own = {"scale": 1.0 + n / 4} if guidance else {}
            ticket = batch.admit(
                seed=n, sample_id=n % 3, plan=plans[n % len(plans)], shift=SHIFT[n % 3], **own
            )
            numbers[ticket] = n
        for ticket, x in batch.step().items():
            found[numbers[ticket]] = x.clone()
    return [found[n] for n in range(10)]


def log_probability(solver, guided):
    sampler = make(solver, guidance=GUIDANCES["one"]() if guided else None)
    _, seen = sampler(SHAPE, seed=6, trajectory=True, shift=0.2)
    by_states = fastgen.trajectory_log_probability(sampler, seen, shift=0.2)
    by_seed = fastgen.sampled_log_probability(sampler.plan, SHAPE, seed=6)
    return [by_states.values, by_states.steps, by_seed.values, by_seed.steps]


def inverted(solver, schedule):
    found = fastgen.invert(model(schedule, "noise"), normal(*SHAPE), solver, 5, end=0.05, start=0.9)
    return [found.latent, found.reconstruction, found.error, found.sampling.to_json()]


@group("adaptive")
def error_controlled():
    for solver in ADAPTIVE:
        few = reference() or solver not in ("dopri5", "dpm_adaptive")
        for schedule in ("cosine", "linear", "rectified", "ve", "edm"):
            for predicts in PREDICTS[: 1 if few else None]:
                call = partial(
                    drawn, solver, schedule, predicts, steps=None, end=0.05, max_steps=25
                )
                yield f"{solver}/{schedule}/{predicts}", call
        call = partial(drawn, solver, "linear", "noise", steps=None, end=0.05)
        if few:
            continue
        yield f"{solver}/float64", partial(call, dtype=F64, rtol=1e-5, atol=1e-5)
        yield f"{solver}/whole", partial(call, start=None, end=None)
        for guidance in GUIDANCES:
            options = {"net_kwargs": {"shift": SHIFT}, "guidance": GUIDANCES[guidance]()}
            yield f"{solver}/guidance/{guidance}", partial(call, **options)
        for options in (
            {"controller": "pid"}, {"step": "joint"}, {"first_step": 0.01}, {"order": 2},
            {"dtype": BF16}, {"trajectory": True}, {"steps": 3}, {"max_steps": 2},
            {"model_options": {"data_at": 1}}, {"model_options": {"dtype": BF16}},
            {"model_options": {"time_input": "log_snr"}},
        ):  # fmt: skip
            yield f"{solver}/{options}", partial(call, **options)
    yield "error/option", partial(drawn, "dopri5", "linear", "noise", None, rtoll=1.0)
    yield "error/dtype", partial(drawn, "ddim", "linear", "noise", dtype=BF16)
    yield "error/shape", partial(drawn, "ddim", "linear", "noise", shape=(-1, 2))
    yield "error/solver", partial(drawn, "dimm", "linear", "noise")
    yield (
        "error/finite",
        partial(drawn, "ddim", "linear", "noise", net=lambda x, t: x / 0, check_finite=True),
    )
    yield "float32", partial(drawn, "ddim", "linear", "noise", dtype=F32)
