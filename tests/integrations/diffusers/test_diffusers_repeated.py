"""Grids that have a level twice: the step between goes nowhere, and nothing divides by zero."""

import pytest
import torch

pytest.importorskip("diffusers")

import fastgen.integrations.diffusers as schedulers

SCHEDULERS = {
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "SASolver": ("SASolverScheduler", {"tau_func": lambda t: 0.0}),
    "Singlestep 2": ("DPMSolverSinglestepScheduler", {"solver_order": 2}),
    "Singlestep 3": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "Singlestep 3 heun": (
        "DPMSolverSinglestepScheduler",
        {"solver_order": 3, "solver_type": "heun"},
    ),
    "Multistep 3": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DEIS 3": ("DEISMultistepScheduler", {"solver_order": 3}),
}


def run(name, options, repeated):
    """From data that is known, so that every solver is exact on every grid."""
    scheduler = getattr(schedulers, name)(prediction_type="sample", **options)
    scheduler.set_timesteps(9)
    if repeated is not None:
        scheduler.sigmas[repeated + 1] = scheduler.sigmas[repeated]
    data = torch.linspace(-1, 1, 6).reshape(2, 3)
    x = torch.linspace(2, -1, 6).reshape(2, 3)
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(data, t, x).prev_sample
        states.append(x)
    return states


@pytest.mark.parametrize("repeated", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_level_twice_changes_nothing_but_its_own_step(name, repeated):
    kind, options = SCHEDULERS[name]
    expected, found = run(kind, options, None), run(kind, options, repeated)
    for k, (x, y) in enumerate(zip(found, expected, strict=True)):
        if k != repeated:
            assert torch.allclose(x, y, atol=1e-5), (k, x, y)
    assert torch.allclose(found[repeated], found[repeated - 1], atol=1e-6)


@pytest.mark.parametrize("repeated", [1, 3, 5])
def test_lms_on_a_level_twice(repeated):
    """Of slopes that are constant every order is exact."""

    def states(repeated):
        scheduler = schedulers.LMSDiscreteScheduler()
        scheduler.set_timesteps(8)
        if repeated is not None:
            scheduler.sigmas[repeated + 1] = scheduler.sigmas[repeated]
        x, noise = torch.ones(2, 3), torch.linspace(-1, 1, 6).reshape(2, 3)
        for t in scheduler.timesteps:
            x = scheduler.step(noise, t, x).prev_sample
        return x

    assert torch.allclose(states(repeated), states(None), atol=1e-4)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDIMInverseScheduler", "PNDMScheduler"])
def test_a_timestep_beyond_the_chain_is_named(name):
    scheduler = getattr(schedulers, name)()
    scheduler.set_timesteps(6)
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"timestep=\d+: expected one of the chain's 1000"):
        scheduler.step(x, torch.tensor(1234), x)


def test_too_few_steps_for_a_start_of_runge_kutta():
    scheduler = schedulers.PNDMScheduler()
    with pytest.raises(ValueError, match=r"^num_inference_steps=3: .*skip_prk_steps=True"):
        scheduler.set_timesteps(3)
    scheduler.set_timesteps(4)
    assert len(scheduler.timesteps) == 13


@pytest.mark.parametrize(
    "generator", [1, "a", torch.ones(2), [1]], ids=["whole", "text", "tensor", "list"]
)
def test_what_is_no_generator_is_named(generator):
    scheduler = schedulers.DDPMScheduler()
    scheduler.set_timesteps(4)
    x = torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"^generator=.*manual_seed"):
        scheduler.step(x, scheduler.timesteps[0], x, generator=generator)
