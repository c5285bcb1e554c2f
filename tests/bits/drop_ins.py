"""The interfaces of k-diffusion, EDM, flow_matching and torchcfm."""

from __future__ import annotations

import inspect
import math
from functools import partial

import torch
from torch import nn

from fastgen.integrations import edm, torchcfm
from fastgen.integrations.flow_matching.path import (
    AffineProbPath,
    CondOTProbPath,
    GeodesicProbPath,
)
from fastgen.integrations.flow_matching.path import scheduler as fm
from fastgen.integrations.flow_matching.solver import ODESolver, RiemannianODESolver
from fastgen.integrations.flow_matching.utils.manifolds import FlatTorus, Sphere
from fastgen.integrations.k_diffusion import external, sampling
from tests.bits.problems import F32, F64, clouds, network, normal, rows, squash
from tests.bits.registry import group, reference

SAMPLERS = [name for name in sampling.__all__ if name.startswith("sample_")]
K_OPTIONS = {
    "s_churn": (3.0,), "s_noise": (0.9,), "eta": (0.0, 0.6), "order": (2,), "r": (0.7,),
    "solver_type": ("heun",), "max_order": (2,), "deis_mode": ("rhoab",),
    "ge_gamma": (1.5,), "max_stage": (2,),
    "predictor_order": (2,), "corrector_order": (2,), "use_pece": (True,),
    "simple_order_2": (True,), "noise": ("contract", "comfyui"), "per_sample": (True,),
    "rtol": (0.01,), "pcoeff": (0.2,),
}  # fmt: skip


def denoiser(x, sigma, shift=0.0):
    s = rows(sigma, x)
    return 0.7 * squash(x / (s * s + 1).sqrt() + shift) + 0.3 * x / (s * s + 1)


def k_sampled(name, dtype, options, steps=7, zero=True):
    """The sample, what the callback saw, and the random number after it."""
    function, seen = getattr(sampling, name), []
    x = normal(3, 6, seed=1, dtype=dtype) * 20
    levels = sampling.get_sigmas_karras(steps, 0.03, 20.0).to(dtype)
    arguments = (levels if zero else levels[:-1],)
    if name == "sample_dpm_fast":
        arguments = (0.03, 20.0, steps)
    if name == "sample_dpm_adaptive":
        arguments = (0.03, 20.0)

    def callback(info):
        seen.append([v + 0 for v in info.values() if isinstance(v, torch.Tensor)])

    options = {"extra_args": {"shift": 0.2}, "callback": callback, "disable": True, **options}
    found = function(denoiser, x, *arguments, **options)
    return [found, seen, torch.rand(2)]


@group("k_diffusion")
def k_diffusion():
    for name in SAMPLERS:
        for dtype in (F32, F64):
            yield f"{name}/{dtype}", partial(k_sampled, name, dtype, {})
        if reference():
            continue
        yield f"{name}/not_to_zero", partial(k_sampled, name, F32, {}, zero=False)
        yield f"{name}/one", partial(k_sampled, name, F32, {}, steps=1)
        known = inspect.signature(getattr(sampling, name)).parameters
        for option in known:
            for value in K_OPTIONS.get(option, ()):
                yield f"{name}/{option}={value}", partial(k_sampled, name, F32, {option: value})
        if "seed" in known:
            seeded = {"noise": "contract", "seed": 5}
            yield f"{name}/seeded", partial(k_sampled, name, F32, seeded)
    for grid in ("karras", "exponential", "polyexponential"):
        yield grid, partial(getattr(sampling, f"get_sigmas_{grid}"), 9, 0.03, 20.0)
    yield "vp", partial(sampling.get_sigmas_vp, 9)
    yield "ancestral", partial(sampling.get_ancestral_step, 3.0, 2.0, 0.7)
    x = normal(3, 6)
    yield (
        "tree",
        lambda: [
            sampling.BrownianTreeNoiseSampler(x, 0.1, 10.0, seed)(a, b)
            for seed in (3, [1, 2, 3])
            for a, b in ((10.0, 3.0), (3.0, 0.2))
        ],
    )
    bars = torch.linspace(0.999, 0.01, 50)
    for name in ("DiscreteEpsDDPMDenoiser", "OpenAIDenoiser", "CompVisDenoiser", "VDenoiser"):
        yield f"external/{name}", partial(external_denoiser, name, bars)


class Inner(nn.Module):
    """What the wrappers expect of the networks they wrap."""

    def __init__(self, bars):
        super().__init__()
        self.register_buffer("alphas_cumprod", bars)

    def forward(self, x, t):
        return network(x, t)

    def apply_model(self, x, t):
        return network(x, t)


def external_denoiser(name, bars):
    kind = getattr(external, name)
    inner = Inner(bars)
    if name == "OpenAIDenoiser":
        wrapped = kind(inner, type("Diffusion", (), {"alphas_cumprod": bars.numpy()}))
    elif name == "DiscreteEpsDDPMDenoiser":
        wrapped = kind(inner, bars, True)
    else:
        wrapped = kind(inner)
    x, sigma = normal(3, 2, 4), torch.tensor([0.5, 1.0, 4.0])
    levels = wrapped.get_sigmas(5) if hasattr(wrapped, "get_sigmas") else sigma
    return [wrapped(x, sigma), levels, wrapped.loss(x, normal(3, 2, 4, seed=1), sigma)]


class Net:
    """A network of EDM's interface."""

    sigma_min, sigma_max = 0.0, math.inf

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, class_labels=None):
        return denoiser(x, sigma, 0.0 if class_labels is None else class_labels)


@group("edm")
def edm_samplers():
    latents, labels = normal(3, 6, seed=1), torch.tensor(0.2)
    churn = {"S_churn": 8.0, "S_min": 0.1, "S_max": 30.0, "S_noise": 1.01}
    for name, options in {
        "plain": {}, "churn": churn, "float32": {"dtype": F32}, "one": {"num_steps": 2},
        "contract": churn | {"noise": "contract", "seed": 4},
    }.items():  # fmt: skip
        call = partial(edm.edm_sampler, Net(), latents, labels)
        yield f"edm/{name}", partial(call, **{"num_steps": 8, **options})
    for solver in ("heun", "euler"):
        for levels in ("edm", "vp", "ve", "iddpm"):
            for schedule in ("linear", "vp", "ve"):
                for scaling in ("none", "vp"):
                    options = {"solver": solver, "discretization": levels, "schedule": schedule}
                    call = partial(edm.ablation_sampler, Net(), latents, labels, num_steps=6)
                    yield (
                        f"ablation/{solver}/{levels}/{schedule}/{scaling}",
                        partial(call, scaling=scaling, alpha=0.7, **churn, **options),
                    )


SCHEDULERS = {
    "condot": fm.CondOTScheduler,
    "polynomial": partial(fm.PolynomialConvexScheduler, 2.5),
    "vp": fm.VPScheduler,
    "linear_vp": fm.LinearVPScheduler,
    "cosine": fm.CosineScheduler,
}


@group("flow_matching")
def flow_matching():
    x0, x1 = clouds(5, 5, 3, F64)
    t = torch.linspace(0.05, 0.95, 5, dtype=F64)
    for name, make in SCHEDULERS.items():
        yield f"scheduler/{name}", lambda m=make: list(vars(m()(t)).values())
        yield f"snr/{name}", lambda m=make: m().snr_inverse(t + 0.3)
        path = CondOTProbPath if name == "condot" else partial(AffineProbPath, make())
        yield f"path/{name}", partial(affine, path, x0, x1, t)
        for other, target in SCHEDULERS.items():
            moved = partial(fm.ScheduleTransformedModel, network, make(), target())
            yield f"moved/{name}/{other}", lambda m=moved: m()(x=x0, t=t[2])
    for method in ("euler", "midpoint", "heun2", "heun3", "rk4", "dopri5", "rk"):
        for size in (0.1, 0.07, None):
            for dtype in (F32, F64):
                for grid in ((0.0, 0.33, 1.0), (1.0, 0.4, 0.0)):
                    call = partial(
                        ODESolver(network).sample,
                        x0.to(dtype),
                        size,
                        method,
                        return_intermediates=True,
                    )
                    name = f"solver/{method}/{size}/{dtype}/{grid}"
                    yield name, partial(call, time_grid=torch.tensor(grid), shift=0.1)
        for exact in (False, True):
            call = partial(ODESolver(network).compute_likelihood, x1, log_prior)
            size = None if method == "dopri5" else 0.2
            yield (
                f"likelihood/{method}/{exact}",
                partial(call, size, method, exact_divergence=exact),
            )
    for manifold in (Sphere(), FlatTorus()):
        name = type(manifold).__name__
        ends = [manifold.projx(x) for x in (x0, x1)]
        for method in ("euler", "midpoint", "rk4"):
            call = partial(RiemannianODESolver(manifold, network).sample, ends[0], 0.1)
            yield f"riemannian/{name}/{method}", partial(call, method=method)
        geodesic = partial(GeodesicProbPath, fm.CondOTScheduler(), manifold)
        yield f"geodesic/{name}", lambda g=geodesic, e=ends: ends_of(g().sample(*e, t))


def ends_of(sample):
    return [sample.x_t, sample.dx_t, sample.t]


def affine(make, x0, x1, t):
    path = make()
    found = path.sample(x_0=x0, x_1=x1, t=t)
    x_t, u = found.x_t, found.dx_t
    return [
        x_t, u, path.target_to_velocity(x1, x_t, t), path.epsilon_to_velocity(x0, x_t, t),
        path.velocity_to_target(u, x_t, t), path.velocity_to_epsilon(u, x_t, t),
    ]  # fmt: skip


def log_prior(x):
    return -x.flatten(1).square().sum(1) / 2


@group("torchcfm", backends=("",))
def matchers():
    names = [name for name in torchcfm.__all__ if name.endswith("FlowMatcher")]
    for name in names:
        for dtype in (F32, F64):
            for options in ({}, {"noise": "contract", "seed": 7}):
                for noise in (False, True):
                    call = partial(matched, name, dtype, noise, options)
                    yield f"{name}/{dtype}/{'/'.join(map(str, options.values()))}/{noise}", call
        yield f"{name}/parts", partial(parts, name)
    (x0, x1), labels = clouds(20, 20, 2), torch.arange(20) % 3
    for method in ("exact", "sinkhorn", "unbalanced", "partial"):
        for normalised in (False, True):
            make = partial(torchcfm.OTPlanSampler, method, normalize_cost=normalised, warn=False)
            yield f"plan/{method}/{normalised}", lambda m=make: m().get_map(x0, x1)
            for replace in (False, True, "once"):
                yield (
                    f"pairs/{method}/{normalised}/{replace}",
                    lambda m=make, r=replace: m().sample_plan(x0, x1, replace=r),
                )
        yield f"labels/{method}", lambda m=make: m().sample_plan_with_labels(x0, x1, labels, labels)
        call = partial(torchcfm.wasserstein, x0, x1, "exact" if method == "exact" else "sinkhorn")
        for power in (1, 2):
            yield f"wasserstein/{method}/{power}", partial(call, power=power)
    yield (
        "trajectory",
        lambda: torchcfm.OTPlanSampler("exact").sample_trajectory(normal(12, 4, 2)),
    )


def matched(name, dtype, noise, options):
    matcher = getattr(torchcfm, name)(0.4, **options)
    x0, x1 = clouds(20, 20, 2, dtype)
    found = [
        matcher.sample_location_and_conditional_flow(x0, x1, return_noise=noise) for _ in range(2)
    ]
    return [found, torch.rand(1)]


def parts(name):
    matcher, (x0, x1) = getattr(torchcfm, name)(0.4), clouds(20, 20, 2)
    t = torch.linspace(0.02, 0.98, 20)
    x = matcher.sample_xt(x0, x1, t, x0.roll(1, 0))
    flow = matcher.compute_conditional_flow(x0, x1, t, x)
    return [x, flow, matcher.compute_mu_t(x0, x1, t), matcher.compute_sigma_t(t[:, None])]
