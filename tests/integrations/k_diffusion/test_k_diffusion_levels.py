"""Grids with equal neighbouring levels, as clamping and rounding make them, and rising ones."""

import pytest
import torch

from fastgen.integrations.k_diffusion import sampling as mine
from fastgen.integrations.k_diffusion.noise import BrownianTreeNoiseSampler

X = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GRIDS = (
    [1.0, 1.0, 0.5, 0.0],
    [1.0, 0.5, 0.5, 0.5, 0.2, 0.0],
    [1.0, 0.5, 0.2, 0.2, 0.0],
    [1.0, 0.5, 0.2, 0.2],
    [0.7, 0.7, 0.7],
)
ANCESTRAL = ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde")
SDE = ("dpmpp_2m_sde", "dpmpp_3m_sde")
CHURNED = ("euler", "heun", "dpm_2")
MULTISTEP = ("lms", "dpmpp_2m")


def net(x, sigma, **_):
    return (x / (1 + sigma.reshape(-1, 1) ** 2)).tanh()


MINE = {name: getattr(mine, name) for name in dir(mine) if name.startswith("sample_")}


def sampled(library, name, levels, **options):
    """The result, the noise sampler's arguments, and the callback's steps and levels."""
    asked, seen, g = [], [], torch.Generator().manual_seed(9)

    def noise(a, b):
        asked.append((float(a), float(b)))
        return torch.randn(X.shape, dtype=X.dtype, generator=g)

    if name in ANCESTRAL + SDE:
        options["noise_sampler"] = noise
    torch.manual_seed(3)
    result = library[f"sample_{name}"](
        net,
        X,
        torch.tensor(levels, dtype=torch.float64),
        disable=True,
        callback=lambda d: seen.append((d["i"], float(d["sigma"]), d["denoised"].clone())),
        **options,
    )
    return result, asked, seen, torch.rand(1)


@pytest.mark.parametrize("levels", GRIDS)
@pytest.mark.parametrize("name", ANCESTRAL + CHURNED)
def test_a_step_of_no_length_stays_and_draws_as_in_k_diffusion(peer, name, levels):
    churn = {"s_churn": 2.0}
    for options in ({}, churn, churn | {"s_tmax": 0.6}) if name in CHURNED else ({},):
        theirs, found = (sampled(library, name, levels, **options) for library in (peer, MINE))
        assert (found[0] - theirs[0]).abs().max() < 1e-12
        assert torch.tensor(found[1]).allclose(torch.tensor(theirs[1]), atol=1e-12)
        assert torch.equal(found[3], theirs[3]), "torch's generator was used differently"
        assert [s[:2] for s in found[2]] == [s[:2] for s in theirs[2]]
        for own, other in zip(found[2], theirs[2], strict=True):
            assert (own[2] - other[2]).abs().max() < 1e-12


@pytest.mark.parametrize("levels", GRIDS)
@pytest.mark.parametrize("name", SDE + MULTISTEP)
def test_multistep_methods_step_over_equal_levels(name, levels):
    """k-diffusion divides by the step's length there; the result is that of the distinct levels."""
    distinct = sorted(set(levels), reverse=True)
    found = sampled(MINE, name, levels)
    if len(distinct) == 1:
        assert torch.equal(found[0], X)
        return
    if name in MULTISTEP:
        assert torch.equal(found[0], sampled(MINE, name, distinct)[0])
    assert found[0].isfinite().all()
    positive = [b for b in levels[1:] if b > 0]
    assert len(found[1]) == (len(positive) if name in SDE else 0)
    assert [s[0] for s in found[2]] == list(range(len(levels) - 1))


def test_default_brownian_noise_on_equal_levels():
    for levels in GRIDS:
        sigmas = torch.tensor(levels)
        assert mine.sample_dpmpp_sde(net, X.float(), sigmas, disable=True).isfinite().all()
    tree = BrownianTreeNoiseSampler(X, 0.1, 1.0, seed=0)
    assert torch.equal(tree(0.5, 0.5), torch.zeros_like(X))


@pytest.mark.parametrize("name", ANCESTRAL + SDE)
def test_rising_levels_run_or_are_named(name):
    with pytest.raises(ValueError, match=r"sigmas: .* no step from 1\.0 up to 2\.0"):
        sampled(MINE, name, [1.0, 2.0, 0.5, 0.0])
