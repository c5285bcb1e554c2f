"""The public entry points, each as one function of a batch of states x [B, 6]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import fastgen
import fastgen.integrations.diffusers as schedulers
import fastgen.integrations.torchcfm as torchcfm
import fastgen.integrations.torchdiffeq as torchdiffeq
import fastgen.integrations.torchsde as torchsde
from fastgen import couplings, kernels, training
from fastgen.integrations.edm import edm2_sampler, edm_sampler
from fastgen.integrations.flow_matching.path import CondOTProbPath
from fastgen.integrations.flow_matching.solver import ODESolver
from fastgen.integrations.k_diffusion import sampling as k_diffusion
from fastgen.schedules import DiscreteVP, LinearVP, Rectified

WIDTH = 6
# Derivatives are compared with differences, so that step sizes must not be seen in results.
TIGHT = {"rtol": 1e-7, "atol": 1e-7}


@dataclass(frozen=True)
class Entry:
    """One entry point.

    run: its result for states x [B, 6], of x's dtype; records: whether autograd is meant to follow
    it from x; by_row: whether row b of the result is a function of row b of x (first axis both);
    slow: whether it compiles for seconds.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    records: bool = False
    by_row: bool = True
    slow: bool = False


ENTRIES: dict[str, Entry] = {}


def entry(
    records: bool = False, by_row: bool = True, slow: bool = False
) -> Callable[..., Callable[[Tensor], Tensor]]:
    """Decorator: puts a function into the table, by its own name."""

    def add(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        ENTRIES[run.__name__] = Entry(run.__name__, run, records, by_row, slow)
        return run

    return add


def network(x: Tensor, t: Tensor, shift: float | Tensor = 0.1) -> Tensor:
    """Smooth, elementwise, and of no dtype of its own."""
    t = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    if isinstance(shift, Tensor):
        shift = shift.reshape(t.shape).to(x.dtype)
    return torch.sin(x + shift) * (0.5 + 0.25 * t)


def model(predicts: str = "noise", schedule: object = None) -> fastgen.Model:
    # Times in float64, so that differences of results tell their derivatives.
    options = {"time_dtype": torch.float64}
    return fastgen.Model(network, schedule or LinearVP(), predicts, **options)


def state_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def field(t: Tensor, x: Tensor) -> Tensor:
    return torch.sin(x) * 0.5 - 0.25 * x


def noise_like(x: Tensor) -> Tensor:
    """A second batch, the same for every x of a shape."""
    values = torch.arange(math.prod(x.shape), dtype=torch.float64, device=x.device).reshape(x.shape)
    return torch.sin(1.7 * values + 0.3).to(x.dtype)


def sampler(solver: str = "dpmpp_2m", dtype: torch.dtype = torch.float32, **options: object):
    plan = fastgen.plan(solver, LinearVP(), 4, start=0.9)
    return fastgen.Sampler(model(), plan, dtype=dtype, **options)


# Sampling.


@entry()
def sample_ode(x):
    return fastgen.sample(model(), x, "dpmpp_2m", 4, start=0.9, dtype=state_dtype(x))


@entry()
def sample_sde(x):
    return fastgen.sample(model(), x, "ddpm", 4, start=0.9, seed=3, dtype=state_dtype(x))


@entry()
def sample_brownian(x):
    options = {"start": 0.9, "seed": 3, "noise": "brownian", "dtype": state_dtype(x)}
    return fastgen.sample(model(), x, "euler_maruyama", 4, **options)


@entry()
def sample_guided(x):
    rows = torch.ones(len(x), device=x.device)
    guidance = fastgen.Guidance(3.0, {"shift": -0.2 * rows})
    options = {"start": 0.9, "dtype": state_dtype(x), "guidance": guidance}
    return fastgen.sample(model(), x, "ddim", 4, net_kwargs={"shift": 0.3 * rows}, **options)


@entry()
def sample_guided_apart(x):
    guidance = fastgen.Guidance(3.0, {"shift": -0.2}, batched=False)
    options = {"start": 0.9, "dtype": state_dtype(x), "guidance": guidance}
    return fastgen.sample(model(), x, "ddim", 4, net_kwargs={"shift": 0.3}, **options)


@entry()
def sample_guided_by_a_rule(x):
    rows = torch.ones(len(x), device=x.device)
    guidance = fastgen.Guidance(3.0, {"shift": -0.2 * rows}, rule="zero_star", rescale=0.4)
    options = {"start": 0.9, "dtype": state_dtype(x), "guidance": guidance}
    return fastgen.sample(model(), x, "ddim", 4, net_kwargs={"shift": 0.3 * rows}, **options)


@entry()
def sample_parallel(x):
    options = {"start": 0.9, "dtype": state_dtype(x), "parallel": fastgen.Parallel(3, 0.0)}
    return fastgen.sample(model(), x, "dpmpp_2m", 4, **options)


@entry(records=True)
def sample_retraced(x):
    plan = fastgen.plan("heun", LinearVP(), 4, start=0.9, end=0.1, reversible=True)
    sampler = fastgen.Sampler(model(), plan, dtype=state_dtype(x))
    return sampler(x, differentiable=True, memory="reversible")


@entry()
def inverted_exactly(x):
    options = {"start": 0.9, "end": 0.1, "exact": True}
    return fastgen.invert(model(), x, "heun", 4, **options).latent


@entry()
def edited(x):
    rows = torch.ones(len(x), device=x.device)
    sides = {"source": {"shift": 0.1 * rows}, "target": {"shift": -0.2 * rows}}
    return fastgen.flow_edit(model("velocity", Rectified()), x, 4, seed=3, **sides)


@entry()
def edited_through_noise(x):
    rows = torch.ones(len(x), device=x.device)
    sides = {"source": {"shift": 0.1 * rows}, "target": {"shift": -0.2 * rows}}
    options = {"seed": 3, "dtype": state_dtype(x)}
    return fastgen.rf_inversion(model("velocity", Rectified()), x, 4, **options, **sides)


@entry(records=True)
def interpolated(x):
    return fastgen.interpolate(x, noise_like(x), 0.3)


def observed(x):
    """The first three numbers, which are those of the state itself."""
    mask = torch.arange(WIDTH, device="cpu") < 3
    return fastgen.observations.Mask(noise_like(x).to(state_dtype(x)), mask)


@entry()
def posterior_replaced(x):
    options = {"dtype": state_dtype(x), "seed": 3}
    return fastgen.posterior(model(), observed(x), x.shape, "replacement", "ddpm", 4, **options)


@entry()
def posterior_by_moments(x):
    given = fastgen.observations.conditioned(model(), observed(x), "mmps")
    return fastgen.sample(given, x, "ddim", 4, start=0.9, dtype=state_dtype(x))


@entry(records=True)
def posterior_differentiable(x):
    given = fastgen.observations.conditioned(model(), observed(x), "mmps")
    plan = fastgen.plan("ddim", LinearVP(), 4, start=0.9)
    return fastgen.Sampler(given, plan, dtype=state_dtype(x))(x, differentiable=True)


@entry(records=True)
def denoised(x):
    return fastgen.control.denoise(model(), x, 0.5)


@entry()
def scored(x):
    return fastgen.control.anomaly_score(model(), x, levels=3)


@entry()
def steered(x):
    def reward(samples):  # of the place alone: rounding must not change who goes on
        return torch.arange(len(samples), device=samples.device) % 3 * 2.0

    plan = fastgen.plan("ddpm", LinearVP(), 4)
    options = {"dtype": state_dtype(x), "net_kwargs": {"shift": x[:, :1]}}
    found = fastgen.steer(model(), plan, reward, tuple(x.shape), 3, resample=1.0, **options)
    return found.drawn


@entry()
def sample_transformed(x):
    return fastgen.sample(
        model(), x, "ddim", 4, start=0.9, dtype=state_dtype(x), transform=lambda d, t: d.tanh()
    )


@entry()
def sample_dopri5(x):
    options = {"start": 0.9, "end": 0.1, "dtype": state_dtype(x), **TIGHT}
    return fastgen.sample(model(), x, "dopri5", **options)


@entry()
def sample_dpm_adaptive(x):
    options = {"start": 0.9, "end": 0.3, "dtype": state_dtype(x), "rtol": 1e-5, "atol": 1e-5}
    return fastgen.sample(model(), x, "dpm_adaptive", **options)


@entry(records=True)
def sampler_differentiable(x):
    return sampler("unipc", state_dtype(x))(x, differentiable=True)


@entry(records=True)
def sampler_differentiable_sde(x):
    return sampler("ddpm", state_dtype(x))(x, seed=3, differentiable=True)


@entry()
def captured(x):
    return sampler(dtype=state_dtype(x)).capture(x.shape)(x)


@entry(slow=True)
def compiled_run(x):
    return sampler(dtype=state_dtype(x)).compile(x.shape)(x)


@entry()
def served(x):
    batch = sampler(dtype=state_dtype(x)).serve(x.shape)
    tickets = [batch.admit(row) for row in x]
    results: dict[int, Tensor] = {}
    while len(results) < len(tickets):
        results.update(batch.step())
    return torch.stack([results[t] for t in tickets]) if tickets else x.to(state_dtype(x))


@entry()
def generated(x):
    """A set in a folder, whose network is told of x."""
    shift = x.mean(1)
    with TemporaryDirectory() as folder:
        found = fastgen.generate(
            sampler(dtype=state_dtype(x)), (WIDTH,), count=len(x), out=folder, seed=1, batch=len(x),
            dtype=str(x.dtype)[6:], net_kwargs={"shift": shift},
        )  # fmt: skip
        return found.samples()


@entry()
def inverted(x):
    return fastgen.invert(model(), x, "ddim", 4, dtype=state_dtype(x)).latent


@entry(records=True)
def predicted(x):
    return model().predict("data", x, 0.5)


# Likelihoods.


@entry()
def log_likelihood(x):
    options = {"start": 0.9, "end": 0.1, "dtype": state_dtype(x), **TIGHT}
    return fastgen.log_likelihood(model(), x, **options)


@entry()
def log_likelihood_hutchinson(x):
    options = {"start": 0.9, "end": 0.1, "dtype": state_dtype(x), **TIGHT}
    return fastgen.log_likelihood(model(), x, divergence="hutchinson", probes=2, **options)


@entry(records=True)
def log_likelihood_differentiable(x):
    options = {"dtype": state_dtype(x), "start": 0.9, "end": 0.1, "differentiable": True}
    return fastgen.log_likelihood(model(), x, method="rk4", step_size=0.2, **options)


@entry()
def trajectory_log_probability(x):
    drawn = sampler("ddpm", state_dtype(x))
    steps = torch.linspace(0, 1, drawn.plan.steps + 1, dtype=x.dtype, device=x.device).reshape(
        -1, 1, 1
    )
    found = fastgen.trajectory_log_probability(drawn, (x + 0.1 * steps).to(state_dtype(x)))
    return found.values.sum(0)


@entry()
def variational_bound(x):
    schedule = DiscreteVP(torch.linspace(0.05, 0.5, 5, dtype=torch.float64, device=x.device))
    bound = fastgen.variational_bound(model(schedule=schedule), x.clamp(-1, 1), levels=256)
    return bound.total


# Equations.


@entry(records=True)
def odeint_dopri5(x):
    return fastgen.odeint(field, x, [0.0, 0.5, 1.0])[-1]


@entry(records=True, slow=True)
def odeint_compiled(x):
    return fastgen.odeint(field, x, [0.0, 0.5, 1.0], compile=True)[-1]


@entry(slow=True)
def odeint_prepared(x):
    return fastgen.ode.compile_odeint(field, torch.zeros_like(x), [0.0, 0.5, 1.0])(x)[-1]


@entry(records=True)
def odeint_rk4(x):
    return fastgen.odeint(field, x, [0.0, 1.0], method="rk4", step_size=0.25)[-1]


@entry(records=True)
def odeint_adjoint(x):
    return fastgen.odeint(field, x, [0.0, 1.0], gradient="adjoint")[-1]


@entry(records=True)
def sdeint_euler(x):
    return fastgen.sdeint(field, lambda t, y: 0.1 * y, x, [0.0, 1.0], steps=4, seed=3)[-1]


@entry(slow=True)
def sdeint_compiled(x):
    diffusion = lambda t, y: 0.1 * y  # noqa: E731
    options = {"steps": 4, "seed": 3, "method": "euler_maruyama", "gradient": "none"}
    return fastgen.sdeint(field, diffusion, x, [0.0, 1.0], compile=True, **options)[-1]


@entry(records=True)
def sdeint_milstein(x):
    diffusion = lambda t, y: 0.3 * torch.cos(y)  # noqa: E731
    options = {"method": "milstein", "steps": 4, "seed": 3}
    return fastgen.sdeint(field, diffusion, x, [0.0, 1.0], **options)[-1]


# Noise and kernels.


@entry(records=True)
def kernels_combine(x):
    table = torch.tensor([[[0.5, -0.25]]], dtype=torch.float64, device=x.device)
    return kernels.combine([x, noise_like(x)], table)[0]


@entry()
def added_noise(x):
    return x + fastgen.randn(x.shape, seed=5, dtype=x.dtype)


@entry()
def added_brownian(x):
    w = fastgen.brownian(x.shape, [0.25, 1.0], seed=5, dtype=state_dtype(x))
    return x + w[1].to(x.dtype)


# Training.


@entry(records=True, by_row=False)
def loss_denoising(x):
    return training.losses.denoising(model(), x, seed=4)


@entry(records=True, by_row=False)
def loss_flow_matching(x):
    sample = training.paths.Linear().sample(noise_like(x), x, seed=4)
    return training.losses.flow_matching(network(sample.x_t, sample.t), sample)


@entry(by_row=False)
def loss_implicit_score(x):
    return training.losses.implicit(lambda y: network(y, y.new_ones(len(y))), x)


@entry(records=True)
def path_linear(x):
    return training.paths.Linear().sample(noise_like(x), x, seed=4).x_t


@entry(records=True)
def path_velocity(x):
    return training.paths.Linear().sample(noise_like(x), x, seed=4).velocity


@entry(records=True)
def path_interpolant(x):
    path = training.paths.Interpolant("trigonometric")
    return path.sample(noise_like(x), x, seed=4).velocity


# Couplings.


@entry(by_row=False)
def coupling_exact(x):
    return couplings.ExactOT().pair(noise_like(x), x)[1]


@entry(by_row=False)
def coupling_sinkhorn(x):
    return couplings.sinkhorn(noise_like(x), x, reg=0.5, tolerance=1e-6).g


@entry(records=True, by_row=False)
def sinkhorn_divergence(x):
    return couplings.sinkhorn_divergence(noise_like(x), x, reg=0.5)


@entry(by_row=False)
def wasserstein(x):
    return torch.as_tensor(fastgen.wasserstein(noise_like(x), x), device=x.device)


# Drop-ins.


def _stepped(scheduler, x):
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    takes = "generator" in scheduler.step.__code__.co_varnames
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        options = {"generator": generator} if takes else {}
        x = scheduler.step(network(scaled, t.reshape(1) / 1000), t, x, **options).prev_sample
    return x


@entry(records=True)
def diffusers_euler(x):
    return _stepped(schedulers.EulerDiscreteScheduler(), x)


@entry(records=True)
def diffusers_ddpm(x):
    return _stepped(schedulers.DDPMScheduler(noise="contract"), x)


@entry(records=True)
def diffusers_unipc(x):
    return _stepped(schedulers.UniPCMultistepScheduler(), x)


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return x / (1 + sigma**2) + 0.1 * torch.sin(x)


@entry()
def k_diffusion_dpmpp_2m(x):
    sigmas = k_diffusion.get_sigmas_karras(4, 0.1, 5.0).to(x.dtype)
    return k_diffusion.sample_dpmpp_2m(denoiser, x, sigmas, disable=True)


class Edm(torch.nn.Module):
    sigma_min, sigma_max, img_channels, img_resolution, label_dim = 0.002, 80.0, 1, 1, 0

    def forward(self, x, sigma, labels=None):
        return denoiser(x, sigma.expand(len(x)) if sigma.ndim == 0 else sigma)

    def round_sigma(self, sigma):
        return sigma


@entry()
def edm(x):
    return edm_sampler(Edm(), x, num_steps=4)


@entry()
def edm2(x):
    return edm2_sampler(Edm(), x, gnet=Edm(), num_steps=4, guidance=1.5)


@entry()
def flow_matching_solver(x):
    solver = ODESolver(lambda x, t: network(x, t.reshape(1)))
    return solver.sample(x, step_size=0.25, method="midpoint")


@entry(records=True)
def flow_matching_path(x):
    t = torch.linspace(0.1, 0.9, len(x), dtype=x.dtype, device=x.device)
    return CondOTProbPath().sample(noise_like(x), x, t).x_t


@entry(records=True)
def torchcfm_matcher(x):
    matcher = torchcfm.ConditionalFlowMatcher(sigma=0.0)
    t = torch.linspace(0.1, 0.9, len(x), dtype=x.dtype, device=x.device)
    return matcher.sample_location_and_conditional_flow(noise_like(x), x, t)[1]


@entry(records=True, by_row=False)
def torchdiffeq_odeint(x):
    return torchdiffeq.odeint(field, x, torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device))[
        -1
    ]


class Equation:
    noise_type, sde_type = "diagonal", "ito"

    def f(self, t, y):
        return field(t, y)

    def g(self, t, y):
        return 0.1 * torch.cos(y)


@entry(records=True)
def torchsde_sdeint(x):
    motion = torchsde.BrownianInterval(0.0, 1.0, size=tuple(x.shape), dtype=x.dtype, entropy=7)
    times = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
    return torchsde.sdeint(Equation(), x, times, bm=motion, method="euler", dt=0.25)[-1]


@entry(records=True)
def odeint_rectified_flow(x):
    plan = fastgen.plan("euler", Rectified(), 4)
    flow = fastgen.Sampler(model("velocity", Rectified()), plan, dtype=state_dtype(x))
    return flow(x, differentiable=True)
