"""Levels between which a drop-in has no step, and batches without samples."""

import pytest
import torch

import fastgen.integrations.diffusers as ours
from fastgen.integrations.edm import edm_sampler
from fastgen.integrations.k_diffusion import sampling


class Net:
    sigma_min, sigma_max = 0.0, float("inf")

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, labels=None):
        return x / (1 + sigma * sigma)


def test_edm_of_no_samples():
    assert edm_sampler(Net(), torch.zeros(0, 3, 4, 4), num_steps=4).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "name",
    ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde"],
)
def test_levels_that_rise_are_named(name):
    sampler = getattr(sampling, f"sample_{name}")
    levels = torch.tensor([1.0, 2.0, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"sigmas"):
        sampler(lambda x, sigma: x * 0.5, torch.zeros(1, 3), levels, disable=True)


def test_timesteps_that_come_twice_are_no_division_by_zero():
    scheduler = ours.DPMSolverMultistepScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(100)
    x = torch.ones(1, 3)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample
    assert x.isfinite().all()
