"""The samplers beside k-diffusion's: whole loops, callbacks, random numbers, signatures."""

import inspect
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.integrations.k_diffusion import sampling
from tests.integrations.k_diffusion.denoising import (
    PRECISIONS,
    both,
    close,
    denoiser,
    levels,
    start,
)

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


def test_samplers_are_functions_of_their_names_with_every_argument_documented():
    for name in sampling.__all__:
        function = getattr(sampling, name)
        if not name.startswith("sample_") or name.endswith("_gpu"):
            continue
        assert function.__name__ == function.__qualname__ == name
        assert pickle.loads(pickle.dumps(function)) is function
        if "samplers" in function.__module__:
            for argument in inspect.signature(function).parameters:
                assert f"    {argument}: " in function.__doc__


def test_arguments_are_taken_as_by_any_function():
    x, sigmas = start(torch.float64), levels(torch.float64)
    options = {"noise": "contract", "seed": 1}
    by_place = sampling.sample_euler(denoiser, x, sigmas, {}, None, True, 3.0, 0.1, **options)
    by_name = sampling.sample_euler(
        denoiser, sigmas=sigmas, x=x, disable=True, s_tmin=0.1, s_churn=3.0, **options
    )
    assert torch.equal(by_place, by_name)
    with pytest.raises(TypeError, match=r"sample_euler\(\).*'s_chrun': did you mean 's_churn'"):
        sampling.sample_euler(denoiser, x, sigmas, s_chrun=3.0)
    with pytest.raises(TypeError, match=r"sample_euler.*multiple values for argument 's_churn'"):
        sampling.sample_euler(denoiser, x, sigmas, {}, None, True, 3.0, s_churn=3.0)
    with pytest.raises(TypeError, match=r"sample_dpmpp_2m.*too many positional arguments"):
        sampling.sample_dpmpp_2m(denoiser, x, sigmas, {}, None, True, 3.0)
    with pytest.raises(TypeError, match=r"sample_dpmpp_2m.*'noise'"):  # it adds none
        sampling.sample_dpmpp_2m(denoiser, x, sigmas, noise="contract")
    with pytest.raises(TypeError, match=r"sample_euler.*sigmas"):
        sampling.sample_euler(denoiser, x)
