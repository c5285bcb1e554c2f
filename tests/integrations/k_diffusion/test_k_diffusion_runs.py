"""Runs of k-diffusion's samplers: dtypes, callbacks, backends, nesting, and what may go wrong."""

import math

import pytest
import torch

from fastgen.integrations.k_diffusion import sampling
from fastgen.sampling import prepared
from tests.integrations.k_diffusion.denoising import DTYPE, Noise, close, denoiser


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
