"""The drop-in beside k-diffusion itself: whole loops, callbacks, random numbers, wrappers."""

import inspect
import math
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.integrations import k_diffusion as K  # noqa: N812
from fastgen.integrations.k_diffusion import external, sampling
from tests.support.peers import k_diffusion

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
CHURN = {"s_churn": 3.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.01}
CASES = [
    ("euler", {}),
    ("euler", CHURN),
    ("heun", {}),
    ("heun", CHURN),
    ("dpm_2", {}),
    ("dpm_2", CHURN),
    ("lms", {}),
    ("lms", {"order": 2}),
    ("dpmpp_2m", {}),
    ("euler_ancestral", {}),
    ("euler_ancestral", {"eta": 0.0}),
    ("euler_ancestral", {"eta": 0.6, "s_noise": 1.1}),
    ("dpm_2_ancestral", {}),
    ("dpm_2_ancestral", {"eta": 0.6, "s_noise": 1.1}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.6, "s_noise": 1.1}),
]
STOCHASTIC = [
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"eta": 0.0}),
    ("dpmpp_sde", {"eta": 0.6, "s_noise": 1.1, "r": 0.7}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", {"eta": 0.6, "s_noise": 1.1, "solver_type": "heun"}),
    ("dpmpp_2m_sde", {"eta": 0.0}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", {"eta": 0.6, "s_noise": 1.1}),
    ("euler_ancestral", {"eta": 0.0}),
    ("dpm_2_ancestral", {}),
]


@pytest.fixture(scope="module")
def peer():
    integrate = pytest.importorskip("scipy.integrate")
    prefixes = ("sample_", "to_d", "get_", "default_noise", "append", "linear", "DPMS", "PID")
    return k_diffusion(*prefixes, integrate=integrate)


def denoiser(x, sigma, shift=0.0):
    """Smooth in x and in log sigma."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return 0.7 * torch.tanh(x / (s**2 + 1).sqrt() + torch.sin(s.log() / 2) + shift) + 0.3 * x / (
        s**2 + 1
    )


def start(dtype, shape=(3, 6)):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=dtype) * 20


def levels(dtype, steps=9):
    return sampling.get_sigmas_karras(steps, 0.03, 20.0).to(dtype)


def close(mine, theirs, tolerance):
    assert mine.dtype == theirs.dtype
    assert ((mine - theirs).abs().max() / theirs.abs().max()).item() < tolerance


def both(peer, name, *arguments, seed=1, **options):
    """(theirs, mine), each with what its callback saw and the random number after it."""
    results = []
    for function in (peer[f"sample_{name}"], getattr(sampling, f"sample_{name}")):
        seen = []
        torch.manual_seed(seed)
        result = function(denoiser, *arguments, callback=seen.append, disable=True, **options)
        results.append((result, seen, torch.rand(3)))
    return results


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_same_pictures_from_the_same_seed(peer, name, options):
    """Also the same callbacks, and torch's generator ends where k-diffusion leaves it."""
    for dtype, tolerance in PRECISIONS:
        theirs, mine = both(
            peer, name, start(dtype), levels(dtype), extra_args={"shift": 0.2}, **options
        )
        close(mine[0], theirs[0], tolerance)
        assert torch.equal(mine[2], theirs[2])
        for a, b in zip(theirs[1], mine[1], strict=True):
            assert a.keys() == b.keys()
            assert a["i"] == b["i"]
            for key in ("x", "denoised", "sigma", "sigma_hat"):
                assert b[key].shape == a[key].shape
                close(b[key], a[key], 10 * tolerance)


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_the_callers_noise_sampler_is_asked_the_same(peer, name, options):
    for dtype, tolerance in PRECISIONS:
        results = []
        for function in (peer[f"sample_{name}"], getattr(sampling, f"sample_{name}")):
            generator, asked = torch.Generator().manual_seed(5), []

            def sampler(sigma, sigma_next, generator=generator, asked=asked, dtype=dtype):
                assert isinstance(sigma, torch.Tensor)
                asked.append((float(sigma), float(sigma_next)))
                return torch.randn(3, 6, generator=generator, dtype=dtype)

            x = function(
                denoiser,
                start(dtype),
                levels(dtype),
                noise_sampler=sampler,
                disable=True,
                **options,
            )
            results.append((x, asked))
        close(results[1][0], results[0][0], tolerance)
        assert len(results[1][1]) == len(results[0][1])
        for a, b in zip(results[0][1], results[1][1], strict=True):
            assert b == pytest.approx(a, rel=1e-5)


NAMES = sorted({name for name, _ in CASES + STOCHASTIC})


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    exponents=st.lists(st.integers(-30, 30), min_size=2, max_size=7, unique=True),
    to_zero=st.booleans(),
    eta=st.sampled_from([0.0, 0.3, 1.0]),
    s_noise=st.sampled_from([0.0, 1.0, 1.1]),
    s_churn=st.sampled_from([0.0, 1.0, 50.0]),
    s_tmin=st.sampled_from([0.0, 0.5]),
    solver_type=st.sampled_from(["midpoint", "heun"]),
)
def test_any_levels_and_options(
    peer, name, exponents, to_zero, eta, s_noise, s_churn, s_tmin, solver_type
):
    """Falling levels of any kind, with and without a last one of 0, and options at random."""
    sigmas = torch.tensor([1.2**k for k in sorted(exponents, reverse=True)], dtype=torch.float64)
    sigmas = sampling.append_zero(sigmas) if to_zero else sigmas
    given_options = {"eta": eta, "s_noise": s_noise, "s_churn": s_churn, "s_tmin": s_tmin}
    given_options["solver_type"] = solver_type
    function = peer[f"sample_{name}"]
    known = inspect.signature(function).parameters
    options = {k: v for k, v in given_options.items() if k in known}
    x = start(torch.float64)
    if "noise_sampler" in known:
        options["noise_sampler"] = lambda sigma, sigma_next: torch.randn_like(x)
    theirs, mine = both(peer, name, x, sigmas, **options)
    close(mine[0], theirs[0], 1e-9)
    assert torch.equal(mine[2], theirs[2])


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 11])
def test_dpm_fast(peer, n, eta):
    for dtype, tolerance in PRECISIONS:
        torch.set_default_dtype(dtype)  # of its times
        try:
            theirs, mine = both(peer, "dpm_fast", start(dtype), 0.03, 20.0, n, eta=eta)
        finally:
            torch.set_default_dtype(torch.float32)
        close(mine[0], theirs[0], tolerance)
        assert torch.equal(mine[2], theirs[2])
        for a, b in zip(theirs[1], mine[1], strict=True):
            assert a.keys() == b.keys()
            for key in ("x", "denoised", "sigma", "sigma_hat", "t", "t_up"):
                close(b[key], a[key], 10 * tolerance)


TIGHT = {"rtol": 1e-3, "atol": 1e-4, "h_init": 0.3, "pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1}


@pytest.mark.parametrize("options", [{}, {**TIGHT, "accept_safety": 0.9}, {"eta": 0.5}])
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive(peer, order, options):
    """The same steps. In float32 k-diffusion rounds its times, so with noise only its law is kept.

    A rejected step is tried again without evaluating its first point again.
    """
    for dtype, tolerance in PRECISIONS[1:] if options.get("eta") else PRECISIONS:
        torch.set_default_dtype(dtype)
        try:
            theirs, mine = both(
                peer, "dpm_adaptive", start(dtype), 0.03, 20.0, order=order, return_info=True,
                **options,
            )  # fmt: skip
        finally:
            torch.set_default_dtype(torch.float32)
        (x, info), (own, mine_info) = theirs[0], mine[0]
        close(own, x, tolerance)
        assert torch.equal(mine[2], theirs[2])
        assert mine_info == info | {"nfe": info["nfe"] - info["n_reject"]}
        for a, b in zip(theirs[1], mine[1], strict=True):
            assert a.keys() == b.keys()
            if dtype == torch.float64:  # in float32 steps differ a little, and make up for it
                close(b["x"], a["x"], 10 * tolerance)
                close(b["error"], a["error"], 1e-8)


def test_dpm_adaptive_per_sample_does_not_depend_on_the_batch():
    x = start(torch.float64)
    options = {"per_sample": True, "disable": True, "rtol": 1e-3, "eta": 0.3, "noise": "contract"}
    together, info = sampling.sample_dpm_adaptive(
        denoiser, x, 0.03, 20.0, return_info=True, seed=[1, 2, 3], **options
    )
    assert len(set(info["steps"].tolist())) > 1
    alone = sampling.sample_dpm_adaptive(denoiser, x[:1], 0.03, 20.0, seed=[1], **options)
    close(alone, together[:1], 1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
def test_dpm_adaptive_converges(per_sample):
    """D of Gaussian data with standard deviation 1: x falls as sqrt(1 + sigma^2)."""
    x = start(torch.float64)

    def gaussian(x, sigma):
        return x / (1 + sigma[:, None] ** 2)

    exact = x * math.sqrt((1 + 0.03**2) / (1 + 20.0**2))
    errors = []
    for rtol in (1e-3, 1e-5):
        y = sampling.sample_dpm_adaptive(
            gaussian, x, 0.03, 20.0, disable=True, rtol=rtol, atol=rtol / 10, per_sample=per_sample
        )
        errors.append(((y - exact).abs().max() / exact.abs().max()).item())
    assert errors[0] < 0.03
    assert errors[1] < errors[0] / 30


def test_noise_levels(peer):
    for name, arguments in (
        ("get_sigmas_karras", (7, 0.1, 10.0, 5.0)),
        ("get_sigmas_exponential", (7, 0.1, 10.0)),
        ("get_sigmas_polyexponential", (7, 0.1, 10.0, 1.5)),
        ("get_sigmas_vp", (7,)),
    ):
        torch.testing.assert_close(getattr(sampling, name)(*arguments), peer[name](*arguments))
    for arguments in ((3.0, 2.0), (3.0, 2.0, 0.4), (3.0, 2.0, 0.0), (3.0, 2.9, 5.0)):
        mine = sampling.get_ancestral_step(*arguments)
        assert mine == pytest.approx(peer["get_ancestral_step"](*arguments))


def test_every_sampler_of_k_diffusion_has_its_signature(peer):
    """The same parameters, in order, with the same defaults; more only by keyword."""
    checked = 0
    for name, function in peer.items():
        if name.startswith("sample_"):
            theirs = inspect.signature(function).parameters.values()
            mine = inspect.signature(getattr(sampling, name)).parameters.values()
            positional = [p for p in mine if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert [(p.name, p.default) for p in positional] == [
                (p.name, p.default) for p in theirs
            ]
            checked += 1
    assert checked == 13


def test_wrappers():
    append_zero = types.SimpleNamespace(append_zero=sampling.append_zero)
    peer = k_diffusion("V", "D", "O", "C", module="external", sampling=append_zero)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

    def net(x, t):
        return torch.tanh(x * (1 + t.reshape(-1, 1, 1, 1) / 1000))

    class Latent:
        alphas_cumprod = alphas

        def apply_model(self, x, t, cond):
            return net(x, t) + cond

    learned = types.SimpleNamespace(alphas_cumprod=alphas.numpy())
    x, noise = start(torch.float32, (4, 3, 2, 2)), torch.randn(4, 3, 2, 2)
    sigma = torch.tensor([0.001, 0.5, 3.0, 200.0])
    for quantize in (False, True):
        for name, arguments, extra in (
            ("DiscreteEpsDDPMDenoiser", (net, alphas, quantize), {}),
            ("DiscreteVDDPMDenoiser", (net, alphas, quantize), {}),
            ("CompVisDenoiser", (Latent(), quantize), {"cond": 0.1}),
            ("CompVisVDenoiser", (Latent(), quantize), {"cond": 0.1}),
            ("OpenAIDenoiser", (lambda x, t: torch.cat([net(x, t), x], 1), learned, quantize), {}),
            ("VDenoiser", (net,), {}),
        ):
            theirs, mine = peer[name](*arguments), getattr(external, name)(*arguments)
            torch.testing.assert_close(mine(x, sigma, **extra), theirs(x, sigma, **extra))
            torch.testing.assert_close(
                mine.loss(x, noise, sigma, **extra), theirs.loss(x, noise, sigma, **extra)
            )
            if name == "VDenoiser":
                torch.testing.assert_close(
                    mine.t_to_sigma(mine.sigma_to_t(sigma)), sigma, rtol=1e-5, atol=0.0
                )
                continue
            assert mine.state_dict().keys() == theirs.state_dict().keys()
            assert mine.sigma_min == theirs.sigma_min
            assert mine.sigma_max == theirs.sigma_max
            for n in (None, 7):
                torch.testing.assert_close(mine.get_sigmas(n), theirs.get_sigmas(n))
            many = torch.rand(200) * 20 + 0.001
            torch.testing.assert_close(mine.sigma_to_t(many), theirs.sigma_to_t(many))


def test_code_written_against_k_diffusion():
    """A sampling script as its users write it: K.sampling, K.external, a guided wrapper."""

    class Guided(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner_model = inner

        def forward(self, x, sigma, uncond, cond, cond_scale):
            both = self.inner_model(torch.cat([x] * 2), torch.cat([sigma] * 2), cond=uncond + cond)
            low, high = both.chunk(2)
            return low + (high - low) * cond_scale

    class Latent:
        alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

        def apply_model(self, x, t, cond):
            return torch.tanh(x + torch.tensor(cond)[:, None, None, None] + t.sum() / 1e6)

    wrapped = K.external.CompVisDenoiser(Latent())
    sigmas = wrapped.get_sigmas(8)
    torch.manual_seed(3)
    x = torch.randn(2, 4, 8, 8) * sigmas[0]
    shown = []
    arguments = {"uncond": [0.0, 0.0], "cond": [0.5, -0.5], "cond_scale": 3.0}
    for name in ("euler_ancestral", "heun", "dpmpp_2m_sde", "lms"):
        y = getattr(K.sampling, f"sample_{name}")(
            Guided(wrapped),
            x,
            sigmas,
            extra_args=arguments,
            callback=lambda d: shown.append((d["i"], d["denoised"])),
        )
        assert y.shape == x.shape
        assert torch.isfinite(y).all()
        if name != "lms":  # all but the multistep method end at the last denoised state
            close(y, shown[-1][1], 1e-5)
    assert [i for i, _ in shown] == [*range(8)] * 4
