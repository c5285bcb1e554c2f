"""Whole sampling loops against the textbook, diffusers, k-diffusion and azula, with equal noise.

Tolerances are relative to the state's scale: 1e-5 in float32 and 1e-10 where the peer computes in
float64. Where a peer differs, the test says why and undoes just that.
"""

import types
import warnings

import numpy as np
import pytest
import torch

import fastgen
from fastgen.kernels import Stream
from fastgen.schedules import EDM, CosineVP, DiscreteVP, LinearVP, Rectified
from tests.support.peers import k_diffusion

SHAPE, SEED = (3, 6), 21
N = 1000
VP = DiscreteVP.linear(N)
_weights = torch.Generator().manual_seed(0)
FIRST = torch.randn(6, 16, generator=_weights, dtype=torch.float64) / 2
LAST = torch.randn(16, 6, generator=_weights, dtype=torch.float64) / 4


def mlp(x, t):
    """A smooth network of x [B, 6] and t, a number or [B]."""
    t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1)
    return torch.tanh(x @ FIRST.to(x) + torch.sin(t / 300)) @ LAST.to(x) + 0.6 * torch.tanh(x)


def start(dtype):
    return fastgen.randn(SHAPE, seed=5, dtype=dtype)


class SameNoise:
    """The solver noises of fastgen's run with SEED, one after the other."""

    def __init__(self):
        self.draws = 0

    def __call__(self, shape, *args, dtype=torch.float32, **kwargs):
        self.draws += 1
        return fastgen.randn(shape, seed=SEED, draw=self.draws, stream=Stream.SOLVER, dtype=dtype)


def ours(solver, schedule, x, *, predicts="noise", net=mlp, time_input="index", **options):
    model = fastgen.Model(net, schedule, predicts, time_input=time_input, time_dtype=torch.float64)
    return fastgen.sample(model, x, solver, dtype=x.dtype, seed=SEED, **options)


def assert_close(mine, theirs, tolerance):
    assert mine.dtype == theirs.dtype
    difference = (mine - theirs).abs().max() / theirs.abs().max()
    assert difference < tolerance, f"relative difference {difference:.2e}"


def diffusers_scheduler(name, steps, double=False, betas=VP.betas, **config):
    pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        scheduler = getattr(diffusers, name)(
            **({"trained_betas": betas} if betas is not None else {}), **config
        )
        scheduler.set_timesteps(steps)
    if double:  # its tables are float32; its steps compute in the dtype of the tables
        scheduler.alphas_cumprod = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    return scheduler


def diffusers_loop(scheduler, x, net=mlp, **step_options):
    for t in scheduler.timesteps:
        output = net(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **step_options).prev_sample
    return x


@pytest.fixture
def same_noise(monkeypatch):
    schedulers = pytest.importorskip("diffusers.schedulers")
    noise = SameNoise()
    for module in ("scheduling_ddpm", "scheduling_ddim", "scheduling_euler_ancestral_discrete"):
        __import__(f"diffusers.schedulers.{module}")
        monkeypatch.setattr(getattr(schedulers, module), "randn_tensor", noise)
    return noise


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_equals_the_textbook(variance, backend):
    """Ho et al. 2020, Algorithm 2, over all N steps of a chain."""
    schedule = DiscreteVP.linear(100, 1e-3, 0.1)
    beta = np.array(schedule.betas)
    alpha_bar = np.cumprod(1 - beta)
    previous = np.append(1.0, alpha_bar[:-1])
    var = beta * (1 - previous) / (1 - alpha_bar) if variance == "small" else beta
    x, noise = start(torch.float64), SameNoise()
    for i in reversed(range(100)):
        eps = mlp(x, float(i))
        x = (x - beta[i] / np.sqrt(1 - alpha_bar[i]) * eps) / np.sqrt(1 - beta[i])
        if i > 0:
            x = x + np.sqrt(var[i]) * noise(SHAPE, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        mine = ours(
            "ddpm",
            schedule,
            start(dtype),
            steps=100,
            timesteps="trailing",
            variance=variance,
            backend=backend,
        )
        assert_close(mine, x.to(dtype), tolerance)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("clip", [None, (-0.8, 0.8)])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddpm_equals_diffusers(variance, clip, spacing, same_noise):
    options = {"variance_type": f"fixed_{variance}", "timestep_spacing": spacing}
    options |= {"clip_sample": clip is not None, "clip_sample_range": 0.8}
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        same_noise.draws = 0
        scheduler = diffusers_scheduler("DDPMScheduler", 50, dtype == torch.float64, **options)
        theirs = diffusers_loop(scheduler, start(dtype))
        if spacing == "trailing":
            # Its noise is left out at index 0 only, and a trailing grid ends at index 19: its last
            # step, to data itself, adds noise of standard deviation 1e-10 (a clamp) with
            # "fixed_small", and of the whole sqrt(beta) with "fixed_large".
            assert same_noise.draws == 50
            std = 1e-10 if variance == "small" else (1 - scheduler.alphas_cumprod[19]).sqrt()
            z = fastgen.randn(SHAPE, seed=SEED, draw=50, stream=Stream.SOLVER, dtype=dtype)
            theirs = theirs - std * z
        mine = ours(
            "ddpm", VP, start(dtype), steps=50, timesteps=spacing, variance=variance, clip=clip
        )
        assert_close(mine, theirs, tolerance)


@pytest.mark.slow
def test_ddpm_of_a_thousand_steps_equals_diffusers(same_noise):
    scheduler = diffusers_scheduler("DDPMScheduler", N, True, clip_sample=False)
    theirs = diffusers_loop(scheduler, start(torch.float64))
    mine = ours("ddpm", VP, start(torch.float64), steps=N, timesteps="leading")
    assert_close(mine, theirs, 1e-10)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_ddpm_of_other_predictions_equals_diffusers(kind, same_noise):
    predicts = {"sample": "data", "v_prediction": "v"}[kind]
    scheduler = diffusers_scheduler(
        "DDPMScheduler", 50, True, clip_sample=False, prediction_type=kind
    )
    theirs = diffusers_loop(scheduler, start(torch.float64))
    mine = ours("ddpm", VP, start(torch.float64), predicts=predicts, steps=50, timesteps="leading")
    assert_close(mine, theirs, 1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddim_equals_diffusers(eta, spacing, same_noise):
    steps = 10
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        same_noise.draws = 0
        scheduler = diffusers_scheduler(
            "DDIMScheduler",
            steps,
            dtype == torch.float64,
            timestep_spacing=spacing,
            clip_sample=False,
        )
        if spacing == "linspace":
            # It always steps by N // steps = 100, whatever the grid (diffusers #9261); the grid
            # 999, 888, ..., 0 has stride 111 = 1000 // 9. Told so, it agrees.
            wrong = diffusers_loop(scheduler, start(dtype), eta=eta)
            same_noise.draws = 0
            scheduler.num_inference_steps = 9
        theirs = diffusers_loop(scheduler, start(dtype), eta=eta)
        mine = ours("ddim", VP, start(dtype), steps=steps, timesteps=spacing, eta=eta)
        assert_close(mine, theirs, tolerance)
        if spacing == "linspace":
            assert (wrong - mine).abs().max() > 0.01


def alpha_at_start(timesteps, **options):
    times = fastgen.timesteps.times(timesteps, VP, 12, **options)
    return VP.alpha(times[0])


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddim_equals_diffusers_euler(spacing):
    """EulerDiscrete steps in sigma / alpha on x / alpha, and that is DDIM on x."""
    options = {"rounded": False} if spacing == "linspace" else {}
    scheduler = diffusers_scheduler("EulerDiscreteScheduler", 12, timestep_spacing=spacing)
    x = start(torch.float32)
    theirs = diffusers_loop(scheduler, x / alpha_at_start(spacing, **options))
    mine = ours("ddim", VP, x, steps=12, timesteps=spacing, **options)
    assert_close(mine, theirs, 1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_euler_ancestral_equals_diffusers(spacing, same_noise):
    scheduler = diffusers_scheduler("EulerAncestralDiscreteScheduler", 12, timestep_spacing=spacing)
    x = start(torch.float32)
    theirs = diffusers_loop(scheduler, x / alpha_at_start(spacing))
    mine = ours("euler_ancestral", VP, x, steps=12, timesteps=spacing)
    assert_close(mine, theirs, 1e-5)


def on_sigmas(sigmas):
    """An EDM schedule and the times at which its sigma takes the given values."""
    sigmas = np.asarray(sigmas, dtype=np.float64)
    return EDM(sigmas[sigmas > 0].min() / 2, sigmas[0]), sigmas / sigmas[0]


def test_heun_equals_diffusers():
    """On the variance-exploding process x / alpha, which is where HeunDiscrete integrates.

    "heun" on a VP schedule is another method: the trapezoidal rule in t for x, not in sigma / alpha
    for x / alpha.
    """
    scheduler = diffusers_scheduler("HeunDiscreteScheduler", 12)
    sigmas = [*scheduler.sigmas[:-1:2].tolist(), 0.0]  # it lists inner ones twice
    indices = scheduler.timesteps[[0, *range(1, 23, 2)]].double().numpy()
    schedule, times = on_sigmas(sigmas)
    x = start(torch.float32) * sigmas[0]
    theirs = diffusers_loop(scheduler, x)

    def net(x, sigma):
        index = np.interp(float(sigma[0]), sigmas[-2::-1], indices[::-1])
        return mlp(x / (sigma[:, None] ** 2 + 1).sqrt().to(x), index)

    mine = ours("heun", schedule, x, net=net, time_input="sigma", timesteps=times)
    assert_close(mine, theirs, 1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [5, 20])
def test_dpmpp_2m_equals_diffusers(spacing, steps):
    """The grid is theirs: their "linspace" has steps + 1 points of which the last is left out."""
    scheduler = diffusers_scheduler(
        "DPMSolverMultistepScheduler", steps, timestep_spacing=spacing, final_sigmas_type="zero"
    )
    indices = scheduler.timesteps.double().numpy()
    x = start(torch.float32)
    theirs = diffusers_loop(scheduler, x)
    mine = ours("dpmpp_2m", VP, x, timesteps=[*VP.time_of_index(indices), 0.0])
    assert_close(mine, theirs, 1e-5)


def test_dpmpp_2m_to_a_positive_sigma_differs_from_diffusers_in_its_last_step():
    """Below 15 steps diffusers' last step is of first order ("lower_order_final") wherever it ends.

    Here a step is of first order only where it must be, at sigma = 0.
    """
    x, results = start(torch.float32), {}
    for lower in (True, False):
        scheduler = diffusers_scheduler(
            "DPMSolverMultistepScheduler",
            8,
            timestep_spacing="leading",
            final_sigmas_type="sigma_min",
            lower_order_final=lower,
            steps_offset=60,
        )
        results[lower] = diffusers_loop(scheduler, x)
    indices = [*scheduler.timesteps.tolist(), 0]
    mine = ours("dpmpp_2m", VP, x, timesteps=VP.time_of_index(np.array(indices)))
    assert_close(mine, results[False], 1e-5)
    assert (mine - results[True]).abs().max() > 1e-3


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_equals_diffusers_flow_matching(shift):
    """With the sigmas that pipelines pass, 1 to 1 / steps: our "uniform" grid, shifted once."""
    scheduler = diffusers_scheduler("FlowMatchEulerDiscreteScheduler", 10, betas=None, shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10))
    x = start(torch.float32)
    theirs = x
    for t in scheduler.timesteps:
        theirs = scheduler.step(mlp(theirs, t), t, theirs).prev_sample
    mine = ours(
        "euler", Rectified(shift), x, predicts="velocity", time_input=lambda t: 1000 * t, steps=10
    )
    assert_close(mine, theirs, 1e-5)


def test_diffusers_own_flow_sigmas_apply_the_shift_twice():
    """Without explicit sigmas it spaces evenly between shifted ends, then shifts: #13243."""
    scheduler = diffusers_scheduler("FlowMatchEulerDiscreteScheduler", 10, betas=None, shift=3.0)
    theirs = scheduler.sigmas.double().numpy()
    smallest = 3 * 1e-3 / (1 + 2 * 1e-3)
    once = np.linspace(1.0, smallest, 10)
    np.testing.assert_allclose(theirs[:-1], 3 * once / (1 + 2 * once), rtol=1e-5)
    x = start(torch.float32)
    moved = x
    for t in scheduler.timesteps:
        moved = scheduler.step(mlp(moved, t), t, moved).prev_sample
    mine = ours(
        "euler",
        Rectified(),
        x,
        predicts="velocity",
        time_input=lambda t: 1000 * t,
        timesteps=theirs,
    )
    assert_close(mine, moved, 1e-5)


@pytest.mark.parametrize(
    ("theirs", "mine", "options"),
    [
        ("sample_euler", "euler", {}),
        ("sample_heun", "heun", {}),
        ("sample_euler_ancestral", "euler_ancestral", {}),
        ("sample_euler_ancestral", "euler_ancestral", {"eta": 0.6, "s_noise": 1.1}),
        ("sample_dpmpp_2m", "dpmpp_2m", {}),
    ],
)
def test_k_diffusion(theirs, mine, options):
    """Whole loops in float64 on Karras' grid from sigma = 80 down to 0.

    Heun: a velocity network could be evaluated at t = 0, but the EDM schedule, as k-diffusion,
    takes an Euler step there.
    """
    functions = k_diffusion("sample_", "to_d", "get_ancestral_step", "default_noise_sampler")
    schedule = EDM()
    times = fastgen.timesteps.times("karras", schedule, 14)
    sigmas = torch.from_numpy(schedule.sigma(times))
    x = 80 * start(torch.float64)

    def denoised(x, sigma):
        return mlp(x / (sigma[:, None] ** 2 + 1).sqrt(), 100 * torch.log1p(sigma))

    extra = dict(options)
    if "ancestral" in theirs:
        noise = SameNoise()
        extra["noise_sampler"] = lambda sigma, sigma_next: noise(SHAPE, dtype=torch.float64)
    expected = functions[theirs](denoised, x, sigmas, disable=True, **extra)
    result = ours(
        mine,
        schedule,
        x,
        predicts="data",
        net=denoised,
        time_input="sigma",
        timesteps=times,
        **options,
    )
    assert_close(result, expected, 1e-10)


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), Rectified()], ids=repr)
@pytest.mark.parametrize(
    ("theirs", "mine", "options"),
    [
        ("DDPMSampler", "ddpm", {}),
        ("DDIMSampler", "ddim", {"eta": 0.0}),
        ("DDIMSampler", "ddim", {"eta": 0.5}),
        ("DDIMSampler", "ddim", {"eta": 1.0}),
        ("EulerSampler", "ddim", {}),
    ],
)
def test_azula(schedule, theirs, mine, options, monkeypatch):
    """azula's eta multiplies the variance, ours (as Song et al.) the standard deviation."""
    azula = pytest.importorskip("azula.sample")
    noise = SameNoise()
    monkeypatch.setattr(torch, "randn_like", lambda x: noise(x.shape, dtype=x.dtype))
    denoiser = types.SimpleNamespace

    class Denoiser:
        def schedule(self, t):
            return schedule.alpha(t), schedule.sigma(t)

        def __call__(self, x, t):
            return denoiser(mean=mlp(x, 1000 * t))

    squared = {"eta": options["eta"] ** 2} if options else {}
    sampler = getattr(azula, theirs)(
        Denoiser(), start=0.9, stop=0.05, steps=9, silent=True, dtype=torch.float64, **squared
    )
    expected = sampler(start(torch.float64))
    result = ours(
        mine,
        schedule,
        start(torch.float64),
        predicts="data",
        time_input=lambda t: 1000 * t,
        start=0.9,
        end=0.05,
        steps=9,
        timesteps="uniform",
        **options,
    )
    assert_close(result, expected, 1e-10)
