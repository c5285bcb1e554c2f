"""Whole loops against diffusers 0.42 and k-diffusion on a smooth random network.

The network is fed sigma / alpha, which every peer knows exactly (diffusers' fractional timesteps
of Karras sigmas are rounded). Peers keep their sigmas in float32; they are read back, made double
and given to fastgen as times, so that float64 runs agree to rounding.
"""

import ast
import importlib.util
import math
import pathlib
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate

import fastgen
from fastgen.schedules import EDM, DiscreteVP
from tests.support.peers import k_diffusion

diffusers = pytest.importorskip("diffusers")
BETAS = np.linspace(1e-4, 0.02, 1000)
SCHEDULE = DiscreteVP(BETAS)
DIMS = 5
GRIDS = {"indices": {}, "karras": {"use_karras_sigmas": True}}


def noise_network(x, ratio):
    """eps(x, sigma / alpha), smooth, not linear and different for every dimension."""
    rng = np.random.default_rng(3)
    first, second = (torch.from_numpy(rng.normal(size=(DIMS, DIMS)) / 2).to(x) for _ in range(2))
    r = torch.as_tensor(ratio, dtype=x.dtype).reshape(-1, 1)
    clean = torch.tanh(x @ first + 0.3 * torch.log(0.1 + r)) @ second
    return (x * torch.sqrt(1 + r**2) - clean) / (r + 0.2)


def start(dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(4, DIMS))).to(dtype)


def ours(solver, times, x, schedule=SCHEDULE, net=noise_network, predicts="noise", **options):
    model = fastgen.Model(
        net, schedule, predicts, time_input="sigma", time_dtype=torch.float64, dtype=x.dtype
    )
    return fastgen.sample(
        model, x, solver, timesteps=times, dtype=x.dtype, backend="reference", **options
    )


def times_of(sigmas):
    times = SCHEDULE.time_at_ratio(np.asarray(sigmas, dtype=np.float64))
    return np.where(np.asarray(sigmas) == 0, 0.0, times)


def close(mine, theirs, tolerance):
    scale = theirs.abs().max().item()
    assert math.isfinite(scale)
    assert (mine - theirs).abs().max().item() < tolerance * scale


def scheduler_of(name, steps, **config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, name)(trained_betas=BETAS, **config)
        scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double().clamp(max=SCHEDULE.ratio(1.0))  # rounded above
    return scheduler


def theirs(scheduler, x, evaluated=None):
    """diffusers' loop on the state x, of which evaluation i is at sigma / alpha evaluated[i]."""
    evaluated = scheduler.sigmas if evaluated is None else evaluated
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(noise_network(scaled, float(evaluated[i])), t, x).prev_sample
    return x


STEPS = [1, 2, 3, 9, 20]


def check_diffusers(name, solver, steps, config, tolerance, **options):
    scheduler = scheduler_of(name, steps, **config)
    wanted = theirs(scheduler, start())
    close(ours(solver, times_of(scheduler.sigmas), start(), **options), wanted, tolerance)


class DoubleTorch:
    """torch with float64 for float32: DPMSolverMultistep casts its state by that name."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


MULTISTEP = {
    ("dpmsolver++", 1, "midpoint"): ("ddim", {}),
    ("dpmsolver++", 2, "midpoint"): ("dpmpp_2m", {}),
    ("dpmsolver++", 2, "heun"): ("res_2m", {}),
    ("dpmsolver++", 3, "midpoint"): ("dpmpp_3m", {"solver_type": "midpoint"}),
    ("dpmsolver++", 3, "heun"): ("dpmpp_3m", {"solver_type": "heun"}),
    ("dpmsolver", 1, "midpoint"): ("dpm_solver_1", {}),
    ("dpmsolver", 2, "midpoint"): ("dpm_solver_2m", {"solver_type": "midpoint"}),
    ("dpmsolver", 2, "heun"): ("dpm_solver_2m", {"solver_type": "heun"}),
    ("dpmsolver", 3, "midpoint"): ("dpm_solver_3m", {"solver_type": "midpoint"}),
    ("dpmsolver", 3, "heun"): ("dpm_solver_3m", {"solver_type": "heun"}),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("algorithm", "order", "solver_type"), MULTISTEP)
def test_dpm_solver_multistep(algorithm, order, solver_type, grid, monkeypatch):
    """The peer lowers the order at the end below 15 steps only; in noise prediction it refuses
    sigma = 0. Its third order weights the second derivative by phi_3 instead of 2 phi_3, which
    is of second order: compat="diffusers".
    """
    module = diffusers.schedulers.scheduling_dpmsolver_multistep
    monkeypatch.setattr(module, "torch", DoubleTorch())
    noise = algorithm == "dpmsolver"
    solver, options = MULTISTEP[algorithm, order, solver_type]
    for steps in STEPS:
        if (grid, steps) == ("karras", 1):
            continue  # the peers' Karras grid divides by steps - 1
        scheduler = scheduler_of(
            "DPMSolverMultistepScheduler",
            steps,
            algorithm_type=algorithm,
            solver_order=order,
            solver_type=solver_type,
            final_sigmas_type="sigma_min" if noise else "zero",
            **GRIDS[grid],
        )
        if scheduler.sigmas[-1] == scheduler.sigmas[-2]:  # a step of no length
            scheduler.sigmas[-1] *= 0.7
        compat = {"compat": "diffusers"} if order == 3 else {}
        if order == 3 or (noise and order == 2):
            compat["lower_order_final"] = steps < 15
        wanted = theirs(scheduler, start())
        mine = ours(solver, times_of(scheduler.sigmas), start(), **options, **compat)
        close(mine, wanted, 1e-10)


def test_dpm_solver_multistep_in_float32():
    for algorithm, order, solver_type in MULTISTEP:
        solver, options = MULTISTEP[algorithm, order, solver_type]
        if order == 3:
            options = {**options, "compat": "diffusers"}
        scheduler = scheduler_of(
            "DPMSolverMultistepScheduler",
            20,
            algorithm_type=algorithm,
            solver_order=order,
            solver_type=solver_type,
            final_sigmas_type="sigma_min",
        )
        times = times_of(scheduler.sigmas)
        scheduler.sigmas = scheduler.sigmas.float()
        wanted = theirs(scheduler, start(torch.float32))
        close(ours(solver, times, start(torch.float32), **options), wanted, 1e-5)


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_singlestep(order, solver_type, prediction):
    for steps in STEPS:
        config = {
            "algorithm_type": "dpmsolver++" if prediction == "data" else "dpmsolver",
            "solver_order": order,
            "solver_type": solver_type,
            "lower_order_final": True,
            "final_sigmas_type": "zero" if prediction == "data" else "sigma_min",
        }
        options = {
            "order": order,
            "solver_type": solver_type,
            "prediction": prediction,
            "lower_order_final": True,
        }
        check_diffusers(
            "DPMSolverSinglestepScheduler", "dpm_solver_singlestep", steps, config, 1e-10, **options
        )


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_unipc(order, variant, prediction):
    """At sigma = 0 the peer is NaN (infinity times 0) in noise prediction and with B(h) = h, "bh1":
    its grid then ends at sigma_min.
    """
    zero = prediction == "data" and variant == "bh2"
    for steps in STEPS:
        for corrector in (True, False) if order == 3 else (True,):
            config = {
                "solver_order": order,
                "solver_type": variant,
                "predict_x0": prediction == "data",
                "final_sigmas_type": "zero" if zero else "sigma_min",
                "disable_corrector": [] if corrector else list(range(steps)),
            }
            options = {"order": order, "variant": variant, "prediction": prediction}
            options.update(corrector=corrector, lower_order_final=True)
            # the peer solves its systems, condition 1e3, from float32 tables made double: 1e-9
            check_diffusers("UniPCMultistepScheduler", "unipc", steps, config, 1e-9, **options)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    for steps in STEPS:
        config = {"solver_order": order}
        scheduler = scheduler_of("DEISMultistepScheduler", steps, **config)
        wanted = theirs(scheduler, start())
        options = {"order": order, "variable": "log_rho", "lower_order_final": steps < 15}
        options["starter"] = "lower"
        mine = ours("deis", times_of(scheduler.sigmas), start(), **options)
        close(mine, wanted, 1e-9)


@pytest.mark.parametrize("skip_prk", [True, False])
def test_pndm(skip_prk):
    """set_alpha_to_one: otherwise the peer stops at index 0 instead of at data."""
    for steps in [1, 2, 3, 5, 10, 20] if skip_prk else [5, 10, 20]:
        scheduler = diffusers.PNDMScheduler(
            trained_betas=BETAS, skip_prk_steps=skip_prk, set_alpha_to_one=True
        )
        scheduler.set_timesteps(steps)
        index = SCHEDULE.time_of_index(np.arange(1000))
        scheduler.alphas_cumprod = torch.from_numpy(SCHEDULE.alpha(index) ** 2)
        if steps == 1 and skip_prk:
            scheduler.timesteps = scheduler.timesteps[:1]
        ratios = SCHEDULE.ratio(SCHEDULE.time_of_index(scheduler.timesteps.numpy()))
        wanted = theirs(scheduler, start(), ratios)
        times = fastgen.timesteps.times("leading", SCHEDULE, steps)
        close(ours("pndm", times, start(), skip_prk=skip_prk), wanted, 1e-10)


def test_ipndm():
    """The peer's own process (sin^2) starts at alpha = 0, where it divides by 1e-8: grid given."""
    for steps in STEPS:
        times = np.append(np.linspace(0.9, 0.01, steps) if steps > 1 else [0.9], 0.0)
        scheduler = diffusers.IPNDMScheduler()
        scheduler.set_timesteps(steps)
        scheduler.alphas, scheduler.betas = (
            torch.from_numpy(f(times)) for f in (SCHEDULE.alpha, SCHEDULE.sigma)
        )
        x = start()
        for i, t in enumerate(scheduler.timesteps):
            alpha, sigma = scheduler.alphas[i], scheduler.betas[i]
            v = (noise_network(x, float(sigma / alpha)) - sigma * x) / alpha
            x = scheduler.step(v, t, x).prev_sample
        close(ours("ipndm", times, start()), x, 1e-10)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("name", "solver", "options"),
    [
        ("LMSDiscreteScheduler", "lms", {"starter": "lower"}),
        ("KDPM2DiscreteScheduler", "dpm_2", {}),
        ("HeunDiscreteScheduler", "rho_rk", {"method": "heun"}),
    ],
)
def test_sigma_schedulers(name, solver, options, grid):
    """Their state is x / alpha. In the last step KDPM2 and Heun are Euler's, as here."""
    for steps in (1, 2, 7):
        if (grid, steps) == ("karras", 1):
            continue  # the peers' Karras grid divides by steps - 1
        scheduler = scheduler_of(name, steps, **GRIDS[grid])
        evaluated, levels = scheduler.sigmas, scheduler.sigmas.clone()
        if name == "KDPM2DiscreteScheduler":
            levels = torch.cat([levels[:1], levels[1::2]])
            middle = (levels[:-1] * levels[1:]).sqrt()
            evaluated = torch.stack([levels[:-1], middle], 1).flatten()
            evaluated[1::2] = middle
            scheduler.sigmas_interpol = torch.cat([evaluated[:1], middle.repeat_interleave(2)])
            scheduler.sigmas_interpol = scheduler.sigmas_interpol[: len(scheduler.sigmas)]
        elif name == "HeunDiscreteScheduler":
            levels = torch.cat([levels[:1], levels[1::2]])
        times = times_of(levels[: steps + 1])
        alpha = SCHEDULE.alpha(float(times[0]))
        wanted = theirs(scheduler, start() / alpha, evaluated)
        close(ours(solver, times, start(), **options), wanted, 1e-10)


def denoiser(x, sigma, **_):
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)
    scaled = x / torch.sqrt(1 + sigma**2)
    return x - sigma * noise_network(scaled, sigma)


@pytest.fixture(scope="module")
def k():
    names = k_diffusion(
        "sample_", "to_d", "default_noise", "linear_multistep_coeff", "get_", "append_zero"
    )
    names["integrate"] = integrate
    return names


@pytest.mark.parametrize("grid", ["karras", "exponential", "polyexponential"])
@pytest.mark.parametrize(
    ("name", "solver", "options"),
    [
        ("lms", "lms", {"starter": "lower"}),
        ("dpm_2", "dpm_2", {}),
        ("heun", "rho_rk", {"method": "heun"}),
        ("heun", "heun", {}),
        ("euler", "euler", {"variable": "sigma"}),
        ("dpmpp_2m", "dpmpp_2m", {}),
        ("dpmpp_2s_ancestral", "dpmpp_2s", {}),
        ("dpmpp_3m_sde", "dpmpp_3m", {"solver_type": "heun", "compat": "k-diffusion"}),
    ],
)
def test_k_diffusion(k, name, solver, options, grid):
    """In float64 to 1e-10; the ancestral and SDE samplers with eta = 0."""
    schedule = EDM(0.03, 15.0)
    peer_options = {"eta": 0.0} if name.endswith(("ancestral", "sde")) else {}
    for steps in (
        (2, 3, 10) if name.endswith("sde") else (1, 2, 3, 10)
    ):  # the SDE's 1 is a NameError
        times = fastgen.timesteps.times(grid, schedule, steps)
        sigmas = torch.from_numpy(schedule.sigma(times))
        if name.endswith("sde"):
            peer_options["noise_sampler"] = lambda *_: 0.0
        x = 15 * start()
        wanted = k[f"sample_{name}"](denoiser, x, sigmas, disable=True, **peer_options)
        mine = ours(solver, times, x, schedule, denoiser, "data", **options)
        close(mine, wanted, 1e-10)
        # and in float32, peer and fastgen alike
        x32 = x.float()
        wanted = k[f"sample_{name}"](denoiser, x32, sigmas.float(), disable=True, **peer_options)
        close(ours(solver, times, x32, schedule, denoiser, "data", **options), wanted, 2e-5)


def dpm_solver_class():
    """k-diffusion's DPMSolver, without its module's imports."""
    path = pathlib.Path(importlib.util.find_spec("k_diffusion").submodule_search_locations[0])
    tree = ast.parse((path / "sampling.py").read_text())
    keep = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "DPMSolver"]
    names = {"torch": torch, "math": math, "nn": torch.nn}
    exec(compile(ast.Module(keep, []), "sampling.py", "exec"), names)
    return names["DPMSolver"]


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("evaluations", [4, 5, 6, 7, 12])
def test_dpm_fast(evaluations, double_by_default):
    """sample_dpm_fast is the single-step solver on even blocks in log-SNR, orders 3, ... (2,) 1."""
    schedule = EDM(0.03, 15.0)
    ends = torch.linspace(-math.log(15.0), -math.log(0.03), evaluations // 3 + 2)
    x = 15 * start()
    wanted = dpm_solver_class()(denoiser).dpm_solver_fast(
        x, ends[0], ends[-1], evaluations, noise_sampler=lambda s, t: 0.0
    )
    full, rest = divmod(evaluations, 3)
    orders = [3] * full + [rest] if rest else [3] * (full - 1) + [2, 1]
    blocks = zip(orders, ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    points = [a + (b - a) * i / n for n, a, b in blocks for i in range(n)]
    times = schedule.time_at_ratio(np.exp(-np.array([*points, ends[-1].item()])))
    mine = ours(
        "dpm_solver_singlestep",
        times,
        x,
        schedule,
        denoiser,
        "data",
        order=3,
        prediction="noise",
        solver_type="dpmsolver",
        lower_order_final=True,
    )
    close(mine, wanted, 1e-10)
