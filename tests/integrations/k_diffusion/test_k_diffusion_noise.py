"""Noise of every kind: the contract's, ComfyUI's, Brownian."""

import math

import pytest
import torch

import fastgen
from fastgen.integrations.k_diffusion import sampling
from fastgen.kernels import Stream
from tests.integrations.k_diffusion.denoising import DTYPE, close, denoiser


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
