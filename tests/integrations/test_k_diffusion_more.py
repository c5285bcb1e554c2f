"""ComfyUI's samplers beside their equations, noise of every kind, and what may go wrong."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen.integrations.k_diffusion import sampling
from fastgen.integrations.k_diffusion.programs import VP_SIGMA_MAX, VP_SIGMA_MIN, vp_time
from fastgen.kernels import Stream
from fastgen.sampling import prepared

DTYPE = torch.float64


def denoiser(x, sigma):
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return 0.7 * torch.tanh(x / (s**2 + 1).sqrt() + torch.sin(s.log() / 2)) + 0.3 * x / (s**2 + 1)


def slope(x, s):
    return (x - denoiser(x, torch.tensor([s], dtype=DTYPE))) / s


@pytest.fixture
def problem():
    torch.manual_seed(0)
    x = torch.randn(3, 6, dtype=DTYPE) * 20
    return x, sampling.get_sigmas_karras(9, 0.03, 20.0).to(DTYPE)


class Noise:
    """The same numbers for us and for the textbook."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, sigma, sigma_next):
        return torch.randn(3, 6, generator=self.generator, dtype=DTYPE)


def close(mine, theirs, tolerance=1e-10):
    assert ((mine - theirs).abs().max() / theirs.abs().max()).item() < tolerance


def test_heunpp2(problem):
    x, sigmas = problem
    mine = sampling.sample_heunpp2(denoiser, x, sigmas, disable=True)
    s = sigmas.tolist()
    for i in range(9):
        d, dt = [slope(x, s[i])], s[i + 1] - s[i]
        points = [x]
        for k in range(1, min(3, 9 - i)):
            points.append(points[-1] + (s[i + k] - s[i + k - 1]) * d[-1])
            d.append(slope(points[-1], s[i + k]))
        w = [s[i + k] / (len(d) * s[0]) for k in range(1, len(d))]
        x = x + dt * sum(a * b for a, b in zip([1 - sum(w), *w], d, strict=True))
    close(mine, x)


def adams(x, s, weights, order):
    past = []
    for i in range(len(s) - 1):
        past = [slope(x, s[i]), *past][:order]
        if s[i + 1] == 0:
            return denoiser(x, torch.tensor([s[i]], dtype=DTYPE))
        x = x + sum(w * d for w, d in zip(weights(i, len(past)), past, strict=True))
    return x


def test_ipndm(problem):
    x, sigmas = problem
    s = sigmas.tolist()
    table = {1: [1.0], 2: [1.5, -0.5], 3: [23 / 12, -16 / 12, 5 / 12]}
    table[4] = [55 / 24, -59 / 24, 37 / 24, -9 / 24]
    for order in (1, 2, 3, 4):
        theirs = adams(x, s, lambda i, n: [w * (s[i + 1] - s[i]) for w in table[n]], order)
        mine = sampling.sample_ipndm(denoiser, x, sigmas, disable=True, max_order=order)
        close(mine, theirs)


def lagrange_integrals(nodes, variable, start, end):
    """By scipy's quadrature in sigma."""
    integrate = pytest.importorskip("scipy.integrate")

    def basis(j):
        others = [n for k, n in enumerate(nodes) if k != j]
        return lambda r: math.prod((variable(r) - n) / (nodes[j] - n) for n in others)

    return [
        integrate.quad(basis(j), start, end, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
        for j in range(len(nodes))
    ]


@pytest.mark.parametrize("mode", ["tab", "rhoab", "ipndm_v"])
def test_deis_and_ipndm_v(problem, mode):
    x, sigmas = problem
    s = sigmas.tolist()
    variable = (lambda r: float(vp_time(np.array(r)))) if mode == "tab" else (lambda r: r)

    def weights(i, count):
        nodes = [variable(s[i - k]) for k in range(count)]
        return lagrange_integrals(nodes, variable, s[i], s[i + 1])

    for order in (2, 3):
        theirs = adams(x, s, weights, order)
        if mode == "ipndm_v":
            mine = sampling.sample_ipndm_v(denoiser, x, sigmas, disable=True, max_order=order)
        else:
            mine = sampling.sample_deis(
                denoiser, x, sigmas, disable=True, max_order=order, deis_mode=mode
            )
        close(mine, theirs)


def test_vp_time_is_1_at_the_highest_and_1e_3_at_the_lowest_level():
    assert vp_time(np.array([VP_SIGMA_MAX, VP_SIGMA_MIN])) == pytest.approx([1.0, 1e-3])


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_res_multistep(problem, eta):
    x, sigmas = problem
    draw, s = Noise(), sigmas.tolist()
    function = sampling.sample_res_multistep_ancestral if eta else sampling.sample_res_multistep
    options = {"eta": eta} if eta else {}
    mine = function(denoiser, x, sigmas, disable=True, noise_sampler=Noise(), **options)
    older, last_down = None, None
    for i in range(9):
        d = denoiser(x, torch.tensor([s[i]], dtype=DTYPE))
        down, up = sampling.get_ancestral_step(s[i], s[i + 1], eta)
        if older is None or down == 0:
            x = d + (x - d) * (down / s[i])
        else:
            h = math.log(s[i] / down)
            c = math.log(last_down / s[i - 1]) / h
            phi1 = -math.expm1(-h) / h
            phi2 = (1 - phi1) / h
            x = math.exp(-h) * x + h * ((phi1 - phi2 / c) * d + phi2 / c * older)
        if s[i + 1] > 0:
            x = x + up * draw(0, 0)
        older, last_down = d, down
    close(mine, x)


def test_gradient_estimation(problem):
    x, sigmas = problem
    s, older = sigmas.tolist(), None
    mine = sampling.sample_gradient_estimation(denoiser, x, sigmas, disable=True, ge_gamma=1.7)
    for i in range(8):
        d = slope(x, s[i])
        step = d if older is None else 1.7 * d - 0.7 * older
        x, older = x + (s[i + 1] - s[i]) * step, d
    close(mine, denoiser(x, sigmas[8:9]))


def test_lcm_and_ddpm(problem):
    x, sigmas = problem
    s = sigmas.tolist()
    for name in ("lcm", "ddpm"):
        draw, y = Noise(), x
        for i in range(9):
            d = denoiser(y, torch.tensor([s[i]], dtype=DTYPE))
            keep = 0.0 if name == "lcm" else (s[i + 1] / s[i]) ** 2
            std = s[i + 1] if name == "lcm" else s[i + 1] * math.sqrt(1 - keep)
            y = keep * y + (1 - keep) * d
            y = y + std * draw(0, 0) if s[i + 1] else y
        mine = getattr(sampling, f"sample_{name}")(
            denoiser, x, sigmas, disable=True, noise_sampler=Noise()
        )
        close(mine, y)


def test_er_sde_takes_the_callers_scale(problem):
    """phi as a function of tensors, as ComfyUI's; the built-in one gives the same."""
    x, sigmas = problem

    def scaler(r):
        return r * ((r**0.3).exp() + 10.0)

    for stage in (1, 2, 3):
        mine, own = (
            sampling.sample_er_sde(
                denoiser, x, sigmas, disable=True, noise_sampler=Noise(), max_stage=stage, **options
            )
            for options in ({}, {"noise_scaler": scaler})
        )
        close(mine, own, 1e-12)
    # phi(r) = r^2 is the reverse SDE with an exact step: dpmpp_sde's law, seeds_1's numbers
    mine = sampling.sample_er_sde(
        denoiser, x, sigmas, disable=True, noise_sampler=Noise(), max_stage=1,
        noise_scaler=lambda r: r**2,
    )  # fmt: skip
    draw, s = Noise(), sigmas.tolist()
    for i in range(9):
        d, keep = denoiser(x, torch.tensor([s[i]], dtype=DTYPE)), (s[i + 1] / s[i]) ** 2
        x = keep * x + (1 - keep) * d
        x = x + s[i + 1] * math.sqrt(1 - keep) * draw(0, 0) if s[i + 1] else x
    close(mine, x)


def test_sa_solver_is_the_librarys(problem):
    x, sigmas = problem
    seen = []

    def tau(sigma):
        seen.append(sigma)
        return 0.8 if 0.1 < sigma < 8 else 0.0

    y = sampling.sample_sa_solver(denoiser, x, sigmas, tau_func=tau, disable=True, noise="contract",
                                  seed=4, predictor_order=2, corrector_order=2)  # fmt: skip
    inside = [i for i in range(8) if 0.1 < sigmas[i + 1] < 8]
    schedule = fastgen.schedules.EDM(sigma_max=20.0)
    model = fastgen.Model(denoiser, schedule, "data", time_input="sigma", time_dtype=DTYPE)
    times = sigmas.numpy() / 20.0
    expected = fastgen.sample(
        model, x, "sa_solver", timesteps=times, dtype=DTYPE, seed=4, tau=0.8,
        lower_order_final=True, tau_interval=(times[inside[-1]], times[inside[0]]),
    )  # fmt: skip
    close(y, expected)
    assert seen == sigmas[1:].tolist()
    with pytest.raises(ValueError, match="tau_func"):
        sampling.sample_sa_solver(denoiser, x, sigmas, tau_func=lambda s: s)
    with pytest.raises(ValueError, match="s_noise"):
        sampling.sample_sa_solver(denoiser, x, sigmas, s_noise=0.5)


def test_contract_noise_is_the_librarys_and_each_samples_own(problem):
    x, sigmas = problem
    options = {"disable": True, "noise": "contract"}
    y = sampling.sample_euler_ancestral(denoiser, x, sigmas, seed=[7, 8, 9], **options)
    alone = sampling.sample_euler_ancestral(denoiser, x[:1], sigmas, seed=[7], **options)
    assert torch.equal(y[:1], alone)
    draws = iter(range(1, 100))

    def sampler(sigma, sigma_next):
        draw = next(draws)
        return fastgen.randn(x.shape, seed=6, draw=draw, stream=Stream.SOLVER, dtype=DTYPE)

    given = sampling.sample_euler_ancestral(
        denoiser, x, sigmas, disable=True, noise_sampler=sampler
    )
    close(sampling.sample_euler_ancestral(denoiser, x, sigmas, seed=6, **options), given)
    torch.manual_seed(1)
    first = sampling.sample_euler_ancestral(denoiser, x, sigmas, **options)
    again = sampling.sample_euler_ancestral(denoiser, x, sigmas, **options)
    assert not torch.equal(first, again)
    torch.manual_seed(1)
    assert torch.equal(first, sampling.sample_euler_ancestral(denoiser, x, sigmas, **options))


def test_comfyuis_noise_is_seeded_by_its_extra_arguments_and_leaves_torch_alone(problem):
    x, sigmas = problem

    def net(x, sigma, seed):
        return denoiser(x, sigma)

    generator = torch.Generator().manual_seed(12)  # on a CPU: one more than the seed

    def sampler(sigma, sigma_next):
        return torch.randn(x.shape, generator=generator, dtype=DTYPE)

    state = torch.get_rng_state()
    options = {"extra_args": {"seed": 11}, "disable": True}
    for name in ("euler_ancestral", "euler"):
        function = getattr(sampling, f"sample_{name}")
        y = function(net, x, sigmas, noise="comfyui", **options)
        assert torch.equal(torch.get_rng_state(), state)
        if name == "euler_ancestral":
            close(y, function(net, x, sigmas, noise_sampler=sampler, **options))
    paths = [
        sampling.sample_dpmpp_2m_sde(net, x, sigmas, noise="comfyui", **options) for _ in range(2)
    ]
    assert torch.equal(*paths)
    heun = sampling.sample_dpmpp_2m_sde_heun(net, x, sigmas, noise="comfyui", **options)
    options["solver_type"] = "heun"
    same = sampling.sample_dpmpp_2m_sde_gpu(net, x, sigmas, noise="comfyui", **options)
    assert torch.equal(heun, same)
    assert not torch.equal(heun, paths[0])


def test_brownian_noise_has_the_law_of_increments_and_one_path_per_seed():
    x = torch.empty(2, 4000, dtype=DTYPE)
    tree = sampling.BatchedBrownianTree(x, 0.0, 4.0, seed=3)
    whole, first, second = tree(0.5, 3.5), tree(0.5, 2.0), tree(2.0, 3.5)
    close(first + second, whole, 1e-12)
    assert torch.equal(tree(3.5, 0.5), -whole)
    for part in (first, second):
        assert part.var().item() == pytest.approx(1.5, rel=6 * math.sqrt(2 / 8000))
    assert abs((first * second).mean().item()) < 6 * 1.5 / math.sqrt(8000)
    # reversed ends give increments of the other sign, as torchsde does
    assert torch.equal(sampling.BatchedBrownianTree(x, 4.0, 0.0, seed=3)(0.5, 3.5), -whole)
    seeds = sampling.BatchedBrownianTree(x, 0.0, 4.0, seed=[5, 9])
    other = sampling.BatchedBrownianTree(x[:1], 0.0, 4.0, seed=[9])
    assert torch.equal(seeds(1.0, 2.0)[1:], other(1.0, 2.0))
    sampler = sampling.BrownianTreeNoiseSampler(
        x, 0.1, 10.0, seed=3, transform=lambda s: -s.log(), cpu=True
    )
    z = sampler(torch.tensor(5.0), torch.tensor(0.7))
    assert z.var().item() == pytest.approx(1.0, rel=6 * math.sqrt(2 / 8000))
    for bad in ((0.0, 5.0), (-1.0, 2.0)):
        with pytest.raises(ValueError, match="outside"):
            tree(*bad)
    with pytest.raises(ValueError, match="seeds"):
        sampling.BatchedBrownianTree(x, 0.0, 4.0, seed=[1, 2, 3])
    with pytest.raises(ValueError, match="different times"):
        sampling.BatchedBrownianTree(x, 4.0, 4.0)


def test_sde_runs_of_one_seed_follow_one_path(problem):
    """Twice the steps, the same Brownian path: nearer than runs of different seeds."""
    x, _ = problem

    def run(steps, seed):
        torch.manual_seed(seed)
        sigmas = sampling.get_sigmas_exponential(steps, 0.03, 20.0).to(DTYPE)
        return sampling.sample_dpmpp_2m_sde(denoiser, x, sigmas, disable=True)

    base = run(64, 1)
    assert (run(128, 1) - base).norm() < 0.3 * (run(128, 2) - base).norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_state_in_float32(problem, dtype):
    x, sigmas = problem
    seen = []

    def net(x, sigma):
        seen.append((x.dtype, sigma.dtype))
        return denoiser(x.double(), sigma.double()).to(dtype)

    exact = sampling.sample_dpmpp_2m(denoiser, x.to(dtype).double(), sigmas, disable=True)
    y = sampling.sample_dpmpp_2m(net, x.to(dtype), sigmas.float(), disable=True)
    assert y.dtype == dtype
    assert set(seen) == {(dtype, dtype)}
    close(y.double(), exact, 20 * torch.finfo(dtype).eps)


def test_callbacks_may_keep_and_change_the_state(problem):
    x, sigmas = problem
    kept = []

    def callback(d):
        kept.append(d["x"])
        if d["i"] == 4:
            d["x"].mul_(0.5)
            d["denoised"].zero_()

    changed = sampling.sample_euler(denoiser, x, sigmas, callback=callback, disable=True)
    s, y = sigmas.tolist(), x
    for i in range(9):
        if i != 4:
            torch.testing.assert_close(kept[i], y)
        d = denoiser(y, sigmas[i : i + 1])
        if i == 4:
            y, d = y * 0.5, torch.zeros_like(d)
        y = d + (y - d) * (s[i + 1] / s[i])
    close(changed, y)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_backends_agree(backend, monkeypatch):
    torch.manual_seed(2)
    x = torch.randn(5, 7) * 20
    sigmas = sampling.get_sigmas_karras(6, 0.03, 20.0)
    results = []
    for name in ("auto", backend):
        monkeypatch.setenv("FASTGEN_BACKEND", name)
        prepared.PreparedProgram.idle.clear()  # runs that are bound to the kernels of the other one
        results.append(
            sampling.sample_dpmpp_sde(denoiser, x, sigmas, noise="contract", seed=3, disable=True)
        )
    close(*results, 1e-6)


def test_runs_do_not_disturb_each_other(problem):
    """A sampler inside the model of another, with the same plan."""
    x, sigmas = problem
    alone = sampling.sample_euler(denoiser, x, sigmas, disable=True)

    def nested(y, sigma):
        close(sampling.sample_euler(denoiser, x, sigmas, disable=True), alone, 1e-14)
        return denoiser(y, sigma)

    close(sampling.sample_euler(nested, x, sigmas, disable=True), alone, 1e-14)
    kept = x.clone()
    sampling.sample_heun(denoiser, x, sigmas, disable=True)
    assert torch.equal(x, kept)


def test_deterministic_samplers_also_run_upwards(problem):
    """Inversion: from data to noise and back, in many steps."""
    x = torch.tanh(problem[0])
    up = torch.logspace(-2, 1, 80, dtype=DTYPE)
    for name in ("heun", "dpmpp_2m", "dpm_2"):
        function = getattr(sampling, f"sample_{name}")
        z = function(denoiser, x, up, disable=True)
        close(function(denoiser, z, up.flip(0), disable=True), x, 3e-2)


def test_levels_may_be_numbers_and_are_shown_as_tensors(problem):
    x, sigmas = problem
    seen = []

    def sampler(sigma, sigma_next):
        seen.append((sigma, sigma_next))
        return Noise()(sigma, sigma_next)

    given = sampling.sample_euler_ancestral(
        denoiser, x, sigmas.tolist(), callback=lambda d: seen.append((d["sigma"], d["sigma_hat"])),
        noise_sampler=sampler, disable=True,
    )  # fmt: skip
    close(
        given,
        sampling.sample_euler_ancestral(denoiser, x, sigmas, noise_sampler=sampler, disable=True),
    )
    sampling.sample_dpm_fast(denoiser, x, 0.1, 10.0, 5, noise_sampler=sampler, disable=True)
    assert len(seen) == 9 + 2 * 8 + 2
    assert all(isinstance(v, torch.Tensor) and v.ndim == 0 for pair in seen for v in pair)


def test_nothing_to_do(problem):
    x, sigmas = problem
    assert sampling.sample_dpmpp_2m_sde(denoiser, x, sigmas[:1]) is x
    y = sampling.sample_dpmpp_2m_sde(denoiser, x, sigmas[-2:], disable=True)
    close(y, denoiser(x, sigmas[-2:-1]))


def test_errors_name_the_argument(problem):
    x, sigmas = problem
    run = sampling.sample_euler_ancestral
    for bad, match in (
        (sigmas.flip(0), r"sigmas\[0\] = 0"),
        (-sigmas, r"sigmas\[0\]"),
        (sigmas * math.nan, r"sigmas\[0\] = nan"),
        (sigmas[None], "noise levels"),
    ):
        with pytest.raises(ValueError, match=match):
            run(denoiser, x, bad)
    with pytest.raises(ValueError, match="no two of them equal"):
        sampling.sample_dpmpp_2m(denoiser, x, torch.tensor([4.0, 2.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="model: expected a real tensor"):
        run(lambda x, s: x[:1], x, sigmas)
    with pytest.raises(ValueError, match="noise='contracts'"):
        run(denoiser, x, sigmas, noise="contracts")
    with pytest.raises(ValueError, match="noise_sampler"):
        run(denoiser, x, sigmas, noise="contract", noise_sampler=Noise())
    with pytest.raises(ValueError, match="seed=3"):
        run(denoiser, x, sigmas, seed=3)
    with pytest.raises(TypeError, match="s_churm"):
        sampling.sample_euler(denoiser, x, sigmas, s_churm=1.0)
    with pytest.raises(ValueError, match="eta"):
        run(denoiser, x, sigmas, eta=-1.0)
    with pytest.raises(ValueError, match="sigma_min=0"):
        sampling.sample_dpm_fast(denoiser, x, 0.0, 20.0, 5)
    with pytest.raises(ValueError, match="order=4"):
        sampling.sample_dpm_adaptive(denoiser, x, 0.1, 20.0, order=4)
    with pytest.raises(RuntimeError, match="not a number"):
        sampling.sample_dpm_adaptive(lambda x, s: x * math.nan, x, 0.1, 20.0, disable=True)
    with pytest.raises(RuntimeError, match="max_steps=2"):
        sampling.sample_dpm_adaptive(denoiser, x, 0.1, 20.0, disable=True, max_steps=2)
    with pytest.raises(ValueError, match="deis_mode"):
        sampling.sample_deis(denoiser, x, sigmas, deis_mode="tabs")
