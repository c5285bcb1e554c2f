"""ComfyUI's samplers beside their equations."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen.integrations.k_diffusion import sampling
from fastgen.integrations.k_diffusion.programs import VP_SIGMA_MAX, VP_SIGMA_MIN, vp_time
from tests.integrations.k_diffusion.denoising import DTYPE, Noise, close, denoiser


def slope(x, s):
    return (x - denoiser(x, torch.tensor([s], dtype=DTYPE))) / s


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
