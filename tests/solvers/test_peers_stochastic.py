"""Whole stochastic loops against k-diffusion and diffusers, with the same noise.

Tolerances are relative to the result's scale: 1e-10 where the peer computes in float64, 1e-5 in
float32. Where a peer differs, the test says why and undoes just that.
"""

import math
import types

import numpy as np
import pytest
import torch

import fastgen
from fastgen.kernels import Stream
from fastgen.schedules import EDM, DiscreteVP, LinearVP, Rectified
from fastgen.solvers.stochastic_multistep import moments
from tests.support.peers import k_diffusion

SHAPE, SEED, N = (3, 6), 21, 1000
VP = DiscreteVP.linear(N)
_weights = torch.Generator().manual_seed(0)
FIRST = torch.randn(6, 16, generator=_weights, dtype=torch.float64) / 2
LAST = torch.randn(16, 6, generator=_weights, dtype=torch.float64) / 4
PROCESSES = [EDM(), Rectified(), pytest.param(LinearVP(), marks=pytest.mark.slow)]
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def mlp(x, t):
    """A smooth network of x [B, 6] and t, a number or [B]."""
    t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1)
    return torch.tanh(x @ FIRST.to(x) + torch.sin(t / 300)) @ LAST.to(x) + 0.6 * torch.tanh(x)


def denoiser(x, sigma):
    """A denoiser in EDM's variables: bounded, and smooth in x and in log sigma."""
    t = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)
    inner = torch.tanh((x / (t**2 + 1).sqrt()) @ FIRST.to(x) + torch.sin(t.log() / 2))
    return inner @ LAST.to(x) + 0.3 * x / (t**2 + 1)


def noise(draw, shape=SHAPE, dtype=torch.float64):
    return fastgen.randn(shape, seed=SEED, draw=draw, stream=Stream.SOLVER, dtype=dtype)


class SameNoise:
    """The solver noises of fastgen's run with SEED, in their order, as any of the peers asks."""

    def __init__(self, dtype):
        self.dtype, self.draws = dtype, 0

    def __call__(self, *args, **kwargs):
        self.draws += 1
        return noise(self.draws, dtype=self.dtype)


def close(mine, theirs, tolerance):
    assert mine.dtype == theirs.dtype
    difference = ((mine - theirs).abs().max() / theirs.abs().max()).item()
    assert difference < tolerance, f"relative difference {difference:.2e}"


def run(name, schedule, x, times, **options):
    """Our solver with the EDM denoiser on any schedule: D(x / alpha, sigma / alpha)."""

    def net(x, t):
        alpha, sigma = (f(float(t[0])) for f in (schedule.alpha, schedule.sigma))
        return denoiser(x / alpha, sigma / alpha)

    model = fastgen.Model(net, schedule, "data", time_dtype=torch.float64)
    return fastgen.sample(model, x, name, timesteps=times, seed=SEED, dtype=x.dtype, **options)


ANCESTRAL = [
    ("dpm_2_ancestral", "sample_dpm_2_ancestral", {}),
    ("dpm_2_ancestral", "sample_dpm_2_ancestral", {"eta": 0.6, "s_noise": 1.02}),
    ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.6, "s_noise": 1.02}),
    ("dpmpp_sde", "sample_dpmpp_sde", {}),
    ("dpmpp_sde", "sample_dpmpp_sde", {"eta": 0.6, "s_noise": 1.02, "r": 0.7}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.6, "s_noise": 1.02}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"solver_type": "heun"}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.6, "s_noise": 1.02}),
]


def sigmas_and_times(schedule, steps=9):
    """Karras' sigmas to 0 and, on the schedule, the times at which sigma / alpha has them."""
    times = fastgen.timesteps.times("karras", schedule, steps, sigma_min=0.03, sigma_max=20.0)
    return torch.tensor(schedule.ratio(times)), times


@pytest.mark.parametrize("schedule", PROCESSES, ids=repr)
@pytest.mark.parametrize(
    ("mine", "theirs", "options"), ANCESTRAL, ids=lambda v: v if isinstance(v, str) else None
)
def test_k_diffusion_sde(mine, theirs, options, schedule):
    """On EDM as it is; on other processes k-diffusion runs on x / alpha."""
    sampler = k_diffusion("sample_", "get_ancestral", "to_d", "default_noise")[theirs]
    for dtype, tolerance in PRECISIONS:
        sigmas, times = sigmas_and_times(schedule)
        x = fastgen.randn(SHAPE, seed=5, dtype=dtype) * 15
        expected = sampler(denoiser, x, sigmas.to(dtype), noise_sampler=SameNoise(dtype), **options)
        # compat: the second difference has half its weight in k-diffusion, see the solver
        compat = {"compat": "k_diffusion"} if mine == "dpmpp_3m_sde" else {}
        result = run(mine, schedule, schedule.alpha(times[0]) * x, times, **options, **compat)
        close(result, expected, tolerance)


def test_k_diffusion_3m_sde_without_noise_is_of_second_order_where_ours_is_of_third():
    """D = lambda^2 along the path (a time-only denoiser): exact here, not there, after start-up."""
    schedule = EDM()
    sigmas = np.exp(np.linspace(2, -2, 9))
    times = schedule.time_at_ratio(sigmas)

    def net(x, t):
        return torch.full_like(x, math.log(80.0 * float(t[0])) ** 2)

    model = fastgen.Model(net, schedule, "data", time_dtype=torch.float64)
    x = torch.zeros(1, 1, dtype=torch.float64)

    def last_step(**options):
        _, states = fastgen.sample(
            model, x, "dpmpp_3m_sde", timesteps=times, eta=0.0, trajectory=True,
            dtype=torch.float64, **options,
        )  # fmt: skip
        return states[-2].item(), states[-1].item()

    before, after = last_step()
    h = math.log(sigmas[0] / sigmas[1])
    flat, linear, square = moments(h, 3)
    u = -math.log(sigmas[-2])
    exact = math.exp(-h) * before + flat * u**2 + 2 * u * h * linear + h**2 * square
    assert after == pytest.approx(exact, rel=1e-12)
    before, after = last_step(compat="k_diffusion")
    exact = math.exp(-h) * before + flat * u**2 + 2 * u * h * linear + h**2 * square
    assert after == pytest.approx(exact - h**2 * square / 2, rel=1e-12)


@pytest.mark.parametrize("schedule", PROCESSES, ids=repr)
@pytest.mark.parametrize("churn", [0.0, 2.0, 100.0])
@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_k_diffusion_churn(name, churn, schedule):
    """It draws a noise at every step, used or not; ours only where gamma > 0."""
    functions = k_diffusion("sample_", "to_d")  # its functions look torch up in here
    sampler = functions[f"sample_{name}"]
    options = {"s_churn": churn, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.003}
    for dtype, tolerance in PRECISIONS:
        sigmas, times = sigmas_and_times(schedule)
        used = iter(range(1, 100))
        churned = iter([churn > 0 and 0.1 <= s <= 10.0 for s in sigmas[:-1].tolist()])

        def randn_like(x, used=used, churned=churned):
            return noise(next(used), dtype=x.dtype) if next(churned) else torch.zeros_like(x)

        facade = types.SimpleNamespace(**{k: getattr(torch, k) for k in ("no_grad", "sqrt")})
        facade.randn_like = randn_like
        functions["torch"] = facade
        x = fastgen.randn(SHAPE, seed=5, dtype=dtype) * 15
        expected = sampler(denoiser, x, sigmas.to(dtype), **options)
        result = run(f"{name}_churn", schedule, schedule.alpha(times[0]) * x, times, **options)
        close(result, expected, tolerance)


def scheduler(name, steps, **config):
    diffusers = pytest.importorskip("diffusers")
    made = getattr(diffusers, name)(trained_betas=np.array(VP.betas), **config)
    made.set_timesteps(steps)
    return made


def loop(made, x, monkeypatch, same, **options):
    module = __import__(type(made).__module__, fromlist=["randn_tensor"])
    monkeypatch.setattr(module, "randn_tensor", same)
    for t in made.timesteps:
        # as a number: LCM's scalings of a tensor t are float32
        x = made.step(mlp(x, t), int(t), x, return_dict=False, **options)[0]
    return x


def ours(name, x, times, net=mlp, **options):
    model = fastgen.Model(net, VP, "noise", time_input="index", time_dtype=torch.float64)
    return fastgen.sample(model, x, name, timesteps=times, seed=SEED, dtype=x.dtype, **options)


def times_of(made, *last):
    return np.append(VP.time_of_index(made.timesteps.numpy().astype(np.float64)), last)


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading"])
@pytest.mark.parametrize(("order", "kind"), [(1, "midpoint"), (2, "midpoint"), (2, "heun")])
def test_diffusers_sde_dpmsolver(order, kind, spacing, monkeypatch):
    """ "sde-dpmsolver++" computes in float32, whatever the dtype."""
    made = scheduler(
        "DPMSolverMultistepScheduler", 16, algorithm_type="sde-dpmsolver++", solver_order=order,
        solver_type=kind, timestep_spacing=spacing, final_sigmas_type="zero",
    )  # fmt: skip
    x = fastgen.randn(SHAPE, seed=5)
    expected = loop(made, x, monkeypatch, SameNoise(torch.float32))
    options = {"solver_type": kind} if order == 2 else {}
    result = ours("dpmpp_2m_sde" if order == 2 else "seeds_1", x, times_of(made, 0.0), **options)
    close(result, expected, 1e-5)


@pytest.mark.parametrize(
    ("predictor", "corrector"), [(1, 1), (2, 2), (3, 2), (2, 3), (3, 3), (3, 4)]
)
@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_diffusers_sa_solver(predictor, corrector, tau, monkeypatch):
    """PEC, orders falling at the end, to the noise of index 0 (its last sigma is not 0).

    Its sigma table is float32; given ours in float64 it computes in float64. It works with
    exp((1 + tau^2) lambda) and powers of lambda itself, whose differences lose digits.
    """
    made = scheduler(
        "SASolverScheduler", 12, predictor_order=predictor, corrector_order=corrector,
        tau_func=lambda t: tau, timestep_spacing="trailing",
    )  # fmt: skip
    times = times_of(made, VP.time_of_index(0.0))
    made.sigmas = torch.tensor(VP.ratio(times))
    x = fastgen.randn(SHAPE, seed=5, dtype=torch.float64)
    expected = loop(made, x, monkeypatch, SameNoise(torch.float64))
    result = ours(
        "sa_solver", x, times, predictor_order=predictor, corrector_order=corrector, tau=tau,
        lower_order_final=True, compat="diffusers",
    )  # fmt: skip
    close(result, expected, 1e-10)


def test_diffusers_sa_solver_takes_the_correctors_tau_from_its_interval(monkeypatch):
    """tau_func in diffusers is asked at the start of each step, as tau_interval is here."""
    made = scheduler(
        "SASolverScheduler", 12, tau_func=lambda t: float(200 <= t <= 800),
        timestep_spacing="trailing",
    )  # fmt: skip
    times = times_of(made, VP.time_of_index(0.0))
    made.sigmas = torch.tensor(VP.ratio(times))
    inside = [t for t in made.timesteps.tolist() if 200 <= t <= 800]
    draws = [k for k, t in enumerate(made.timesteps.tolist()) if 200 <= t <= 800]
    assert len(draws) == len(inside) > 3

    class OnlyInside(SameNoise):  # ours draws only where tau > 0
        def __call__(self, *args, **kwargs):
            self.draws += 1
            k = self.draws - 1
            return noise(draws.index(k) + 1) if k in draws else torch.zeros(SHAPE).double()

    x = fastgen.randn(SHAPE, seed=5, dtype=torch.float64)
    expected = loop(made, x, monkeypatch, OnlyInside(torch.float64))
    result = ours(
        "sa_solver", x, times, lower_order_final=True, compat="diffusers",
        tau_interval=(float(VP.time_of_index(200.0)), float(VP.time_of_index(800.0))),
    )  # fmt: skip
    close(result, expected, 1e-10)


def test_diffusers_sa_solver_with_a_function_of_time(monkeypatch):
    made = scheduler(
        "SASolverScheduler", 12, tau_func=lambda t: 0.3 + t / 2000, timestep_spacing="trailing"
    )
    times = times_of(made, VP.time_of_index(0.0))
    made.sigmas = torch.tensor(VP.ratio(times))
    x = fastgen.randn(SHAPE, seed=5, dtype=torch.float64)
    expected = loop(made, x, monkeypatch, SameNoise(torch.float64))
    result = ours(
        "sa_solver", x, times, lower_order_final=True, compat="diffusers",
        tau=lambda t: 0.3 + round(VP.index_of_time(t)) / 2000,
    )  # fmt: skip
    close(result, expected, 1e-10)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_diffusers_lcm(steps, monkeypatch):
    """It ends at f itself, which is not rescaled to any noise level."""
    for dtype, tolerance in PRECISIONS:
        made = scheduler("LCMScheduler", steps, original_inference_steps=50, clip_sample=False)
        if dtype == torch.float64:
            betas = torch.tensor(VP.betas, dtype=dtype)
            made.alphas_cumprod = torch.cumprod(1 - betas, 0)
        x = fastgen.randn(SHAPE, seed=5, dtype=dtype)
        expected = loop(made, x, monkeypatch, SameNoise(dtype))
        close(ours("lcm", x, times_of(made, 0.0)), expected, tolerance)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_diffusers_tcd(steps, gamma, monkeypatch):
    """It ends at the noise of index 0, with alphas_cumprod[0] and not at data."""
    for dtype, tolerance in PRECISIONS:
        made = scheduler("TCDScheduler", steps, original_inference_steps=50, clip_sample=False)
        if dtype == torch.float64:
            betas = torch.tensor(VP.betas, dtype=dtype)
            made.alphas_cumprod = torch.cumprod(1 - betas, 0)
        x = fastgen.randn(SHAPE, seed=5, dtype=dtype)
        expected = loop(made, x, monkeypatch, SameNoise(dtype), eta=gamma)
        result = ours("tcd", x, times_of(made, VP.time_of_index(0.0)), gamma=gamma)
        close(result, expected, tolerance)


def test_diffusers_edm_euler_with_churn(monkeypatch):
    """EDMEulerScheduler: Euler's churn in EDM's variables, float32 tables."""
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.EDMEulerScheduler(sigma_min=0.05, sigma_max=20.0, sigma_data=0.5)
    made.set_timesteps(9)
    sigmas = made.sigmas.double().numpy()
    schedule = EDM(sigma_max=80.0)
    module = __import__(type(made).__module__, fromlist=["randn_tensor"])
    options = {"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.003}
    monkeypatch.setattr(module, "randn_tensor", SameNoise(torch.float32))
    x = fastgen.randn(SHAPE, seed=5) * 20
    expected = x
    for i, t in enumerate(made.timesteps):
        # A pipeline evaluates the network at sigma, before the noise is added, and not at
        # sigma_hat as in the paper; here it is evaluated where Algorithm 2 says.
        sigma = float(sigmas[i])
        gamma = min(2.0 / 9, math.sqrt(2) - 1) if 0.1 <= sigma <= 10.0 else 0.0
        hat = sigma * (1 + gamma)
        up = options["s_noise"] * math.sqrt(hat**2 - sigma**2)
        k = sum(0.1 <= s <= 10.0 for s in sigmas[: i + 1])
        at = expected + up * noise(k, dtype=torch.float32) if gamma else expected
        c_skip, c_out = 0.25 / (hat**2 + 0.25), hat * 0.5 / math.sqrt(hat**2 + 0.25)
        output = (denoiser(at, hat) - c_skip * at) / c_out
        made.scale_model_input(expected, t)
        expected = made.step(output, t, expected, return_dict=False, **options)[0]
    times = np.append(schedule.time_at_ratio(sigmas[:-1]), 0.0)
    close(run("euler_churn", schedule, x, times, **options), expected, 1e-5)
