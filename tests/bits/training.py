"""Paths, times, losses, networks and the trainer."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

import fastgen
from fastgen import networks, training
from fastgen.training import Batch, Settings, Trainer, losses, paths, times
from tests.bits.problems import (
    F32,
    F64,
    PREDICTS,
    SCHEDULES,
    Module,
    clouds,
    learned,
    model,
    network,
    normal,
    rows,
    squash,
)
from tests.bits.registry import group

PATHS = {
    "linear": paths.Linear,
    "linear_noisy": partial(paths.Linear, 0.3),
    "target": partial(paths.Target, 0.1),
    "target_exact": paths.Target,
    "brownian": partial(paths.Brownian, 0.7),
    "cosine": partial(paths.Scheduled, SCHEDULES["cosine"]),
    "rectified": partial(paths.Scheduled, SCHEDULES["rectified"]),
    "edm": partial(paths.Scheduled, SCHEDULES["edm"]),
    "trigonometric": partial(paths.Interpolant, "trigonometric", "sine_squared"),
    "interpolant": partial(paths.Interpolant, "linear", "brownian"),
    "encoder_decoder": partial(paths.Interpolant, "encoder_decoder", "quadratic"),
    "own": partial(paths.Interpolant, (lambda t: (1 - t) ** 2, lambda t: t**3), 0.2),
    "torus": paths.FlatTorus,
    "sphere": paths.Sphere,
    "encoded": partial(paths.Encoded, lambda x: 2 * x, lambda z: z / 2),
}
TIMES = {
    "uniform": partial(times.uniform, 0.1, 0.8),
    "logit_normal": partial(times.logit_normal, 0.3, 1.2),
    "beta": partial(times.beta, 1.0, 1.5),
    "importance": partial(times.importance, lambda t: 1 / (t + 0.1)),
    "likelihood": partial(times.likelihood, SCHEDULES["linear"]),
    "table": partial(times.Times, [0.0, 0.1, 0.5, 0.9]),
}


def sampled(make, dtype=F32, targets=("velocity",), source=True, rows=12, data_at=1, **options):
    """A batch, and its gradient in both ends."""
    x0, x1 = clouds(rows, rows, 3, dtype)
    if make in (PATHS["sphere"], PATHS["torus"]):
        x0, x1 = (x / x.norm(dim=1, keepdim=True) for x in (x0, x1))
    x1.requires_grad_()
    sample = make(data_at=data_at).sample(
        x0 if source else None, x1, **{"seed": 5, "step": 3, "targets": targets, **options}
    )
    values = [sample.t, sample.x_t, *(sample.targets[name] for name in targets)]
    total = sum(v.double().sum() for v in values[1:] if v.requires_grad)
    return [values, torch.autograd.grad(total, x1) if isinstance(total, torch.Tensor) else None]


@group("paths")
def batches():
    for name, make in PATHS.items():
        for dtype in (F32, F64):
            for target in paths.TARGETS:
                yield f"{name}/{dtype}/{target}", partial(sampled, make, dtype, (target,))
        yield f"{name}/all", partial(sampled, make, targets=("velocity", "data", "source"))
        yield f"{name}/drawn", partial(sampled, make, source=False, targets=("velocity", "source"))
        yield f"{name}/data_at", partial(sampled, make, data_at=0)
        yield f"{name}/ids", partial(sampled, make, sample_ids=list(range(9, 21)))
        given = torch.linspace(0.05, 0.95, 12)
        yield f"{name}/given", partial(sampled, make, t=given)
        yield f"{name}/large", partial(sampled, make, rows=300)
        at = torch.linspace(0.05, 0.95, 5, dtype=F64)
        yield f"{name}/coefficients", lambda m=make, t=at: m().coefficients(t)
        yield f"{name}/deviation", lambda m=make, t=at: m().standard_deviation(t)
        for coupling in ("ExactOT", "Hilbert", "Sorted"):
            chosen = getattr(fastgen.couplings, coupling)
            yield f"{name}/{coupling}", lambda m=make, c=chosen: sampled(m, coupling=c())
    for name, make in TIMES.items():
        for sampling in ("independent", "stratified", "antithetic"):
            own = make(sampling=sampling)
            yield f"times/{name}/{sampling}", partial(sampled, paths.Linear, times=own)
            clock = own.clock(torch.device("cpu"))
            yield f"times/{name}/{sampling}/clock", partial(list, clock)
        at = torch.linspace(0.05, 0.95, 7, dtype=F64)
        yield f"times/{name}/density", partial(own.density, at)
    yield (
        "drift_weight",
        partial(paths.drift_weight, paths.Linear(0.3), torch.linspace(0.1, 0.9, 5)),
    )
    labels = torch.arange(24) % 3
    x0, x1 = clouds(24, 24, 2)
    for kind, options in {
        "independent": {}, "ot": {}, "sinkhorn": {}, "unbalanced": {"penalty": 1.0},
        "partial": {"mass": 0.7}, "hilbert": {}, "sorted": {},
    }.items():  # fmt: skip
        for prefix in ("", "label-"):
            pairing = partial(fastgen.couplings.NamedCoupling, prefix + kind, options)
            yield (
                f"pairing/{prefix}{kind}",
                lambda p=pairing: p()(x0, x1, labels, seed=3, step=4, classes=3),
            )


def valued(call, *parameters):
    """A loss and its gradients."""
    found = call()
    return [found, torch.autograd.grad(found.sum(), parameters)]


def of_module(make, reduction="none"):
    module = Module(F64)
    return valued(lambda: make(module, reduction), *module.parameters())


@group("losses")
def objectives():
    data, key = normal(6, 3, dtype=F64), {"seed": 4, "step": 2}
    unit = torch.linspace(0.1, 0.9, 6, dtype=F64)
    for name, loss in losses_of(data, key, unit).items():
        for reduction in ("none", "mean"):
            yield f"{name}/{reduction}", partial(of_module, loss, reduction)
    yield "reduction", partial(of_module, losses_of(data, key, unit)["flow"], "sum")
    yield "interval_ends", partial(losses.interval_ends, unit, unit.flip(0), 0.75)
    for name in ("min_snr", "sigmoid"):
        found = getattr(losses, name)()
        yield f"{name}/default", partial(found, model("cosine", "v"), unit)
    for weighting, function in losses.WEIGHTINGS.items():
        for schedule in ("cosine", "rectified", "edm"):
            for predicts in PREDICTS:
                call = partial(function, model(schedule, predicts), unit)
                yield f"weights/{weighting}/{schedule}/{predicts}", call
    variance = {"time_input": "index", "learned_variance": True}
    for index in (None, torch.tensor([0, 1, 2, 50, 98, 99])):
        call = partial(losses.hybrid, model("discrete", "noise", learned, **variance), data)
        yield f"hybrid/{index is None}", partial(call, index, reduction="none", **key)
    discrete = model("discrete", "noise", time_input="index")
    yield "bits_per_dimension", partial(losses.bits_per_dimension, discrete, squash(data), seed=1)


def losses_of(data, key, unit):
    """Name to loss(module, reduction)."""
    sample = paths.Linear(0.2).sample(
        clouds(6, 6, 3, F64)[0], data, unit, targets=("velocity", "noise"), **key
    )
    low, high = unit, unit + 0.2
    sigmas = torch.tensor([2.0, 1.0, 0.5, 0.2, 0.1, 0.05], dtype=F64)
    mean, spread = 0.3 * data, 0.1 * data
    outer = SCHEDULES["linear"]

    def second(net):
        return lambda x, t, s: net(x, t) - 0.2 * rows(s, x)

    found = {
        "flow": lambda n, r: losses.flow_matching(n(sample.x_t, unit), sample, reduction=r),
        "weighted": lambda n, r: losses.flow_matching(
            n(sample.x_t, unit), sample, weight=unit, reduction=r
        ),
        "score_and_flow": lambda n, r: losses.score_and_flow_matching(
            n(sample.x_t, unit), 0.5 * n(sample.x_t, low), sample, reduction=r
        ),
        "variational_flow": lambda n, r: losses.variational_flow_matching(
            n(sample.x_t, unit), mean, spread, sample, reduction=r
        ),
        "mean_flow": lambda n, r: losses.mean_flow(second(n), sample, high, reduction=r),
        "shortcut": lambda n, r: losses.shortcut(second(n), sample, 0.1 * unit, reduction=r),
        "annealed": lambda n, r: losses.annealed(n, data, sigmas, reduction=r, **key),
        "consistency": lambda n, r: losses.consistency(n, data, low, high, reduction=r, **key),
        "consistency_square": lambda n, r: losses.consistency(
            losses.Boundary(n), data, low, high, metric="square", reduction=r, **key
        ),
        "explicit": lambda n, r: losses.explicit(n(data, unit), mean, reduction=r),
        "evidence_bound": lambda n, r: losses.evidence_bound(
            n(data, unit), data, mean, spread, beta=0.7, reduction=r
        ),
        "latent_cross_entropy": lambda n, r: losses.latent_cross_entropy(
            fastgen.Model(n, outer, "noise"), data, reduction=r, **key
        ),
        "score_prior_bound": lambda n, r: losses.score_prior_bound(
            fastgen.Model(n, outer, "noise"), n(data, unit), data, mean, spread, reduction=r, **key
        ),
    }
    for trace in ("exact", "hutchinson"):
        found[f"implicit/{trace}"] = lambda n, r, trace=trace: losses.implicit(
            lambda x: n(x, unit), data, trace=trace, reduction=r, **key
        )
    for reduced in (False, True):
        found[f"sliced/{reduced}"] = lambda n, r, reduced=reduced: losses.sliced(
            lambda x: n(x, unit), data, variance_reduction=reduced, probes=2, reduction=r, **key
        )
    for weighting in losses.WEIGHTINGS:
        for schedule in ("cosine", "rectified", "edm"):
            for predicts in PREDICTS:
                found[f"denoising/{weighting}/{schedule}/{predicts}"] = (
                    lambda n, r, w=weighting, s=schedule, p=predicts: losses.denoising(
                        model(s, p, n), data, weighting=w, reduction=r, **key
                    )
                )
    return found


OBJECTIVES = {
    "flow": training.Flow,
    "flow_ot": partial(training.Flow, 0.1, 0, coupling="ot"),
    "flow_label": partial(training.Flow, coupling="label-sinkhorn"),
    "denoising": partial(training.Denoising, SCHEDULES["cosine"], "v", "min_snr"),
    "edm": partial(training.Denoising, SCHEDULES["edm"], "edm", "edm", "edm"),
}


@group("trainer")
def trained():
    for name, make in OBJECTIVES.items():
        for options in ({}, {"clip": 0.5, "decay": "constant"}, {"bfloat16": True, "average": 0}):
            yield f"{name}/{options}", partial(train, make(), options)
        yield f"{name}/resumed", partial(resumed, make())
        batch = Batch(normal(8, 2), torch.arange(8) % 3, 3, 5)
        yield f"{name}/loss", lambda m=make, b=batch: m().loss(small(), b)
        yield f"{name}/config", lambda m=make: str(m().to_config())
    yield "autoencoding", partial(of_objective, training.Autoencoding())
    yield "latent_score", partial(of_objective, training.LatentScore())
    yield "frozen", partial(of_objective, training.LatentScore(frozen=True))
    yield "latent", latent
    yield "reflow", reflow
    for name, make in {
        "mlp": partial(networks.MLP, (2, 4, 4)),
        "modulated": partial(networks.ModulatedMLP, (2, 4, 4), 8, 1),
        "unet": partial(networks.UNet, 2, 8),
        "dit": partial(networks.DiT, 2, 4, width=16, depth=1),
    }.items():
        yield f"network/{name}", lambda m=make: m()(normal(2, 2, 4, 4), torch.tensor([0.2, 0.7]))


def small():
    torch.manual_seed(0)
    return networks.ModulatedMLP((2,), 8, 1, classes=3)


def trainer(objective, options):
    net, data = small(), normal(40, 2, seed=8)
    settings = Settings(**{"steps": 6, "batch": 16, "warm_up": 2, "seed": 5, **options})
    facts = training.describe(net, objective, shape=[2])
    return Trainer(net, objective.loss, data, settings, torch.arange(40) % 3, facts)


def state(run):
    return [run.network.state_dict(), run.average.state_dict()]


def train(objective, options):
    run = trainer(objective, options)
    values = run.run()
    found = fastgen.sample(
        objective.model(run.average), (3, 2), "heun", 3, net_kwargs={"labels": torch.arange(3)}
    )
    return [values, state(run), found]


def resumed(objective):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        run = trainer(objective, {})
        run.run(3, checkpoint=path)
        again = trainer(objective, {})
        again.resume(path)
        again.run(checkpoint=path)
        loaded = training.load(path).network.state_dict()
    return [state(again), loaded]


def vae():
    torch.manual_seed(0)
    return networks.VAE(1, 1, 8, multipliers=(1,), dims=1)


def of_objective(objective):
    joint = isinstance(objective, training.LatentScore)
    net: nn.Module = vae()
    if joint:
        net.requires_grad_(not objective.frozen)
        net = networks.ScoreVAE(net, networks.ModulatedMLP((1, 4), 8, 1))
    run = Trainer(net, objective.loss, normal(32, 1, 4), Settings(steps=4, batch=8, warm_up=1))
    return [run.run(), state(run)]


def latent():
    data = normal(20, 1, 4)
    found = fastgen.Latent.of(vae()).fit(data, seed=1)
    codes = [found.encode(data, seed=seed) for seed in (None, 2)]
    drawn = found.sample(fastgen.Model(network, SCHEDULES["linear"], "noise"), 3, "heun", 3, seed=4)
    return [found.scale, found.shift, codes, found.decode(codes[0]), drawn]


def reflow():
    with tempfile.TemporaryDirectory() as folder:
        own = fastgen.Model(network, SCHEDULES["rectified"], "velocity", data_at=1)
        pairs = training.reflow(own, folder, 10, (3,), steps=4, shard=4, seed=2)
        return [pairs.x0, pairs.x1]
