"""Steps and samplers of the drop-ins in forward mode: linear, so known by differences."""

import pytest
import torch
from torch import func
from torch.autograd import forward_ad

from fastgen.training import paths

diffusers = pytest.importorskip("fastgen.integrations.diffusers")
D = torch.float64
X, OUT = (torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
ONES = torch.ones_like(X)
SCHEDULERS = ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"]
SCHEDULERS += ["HeunDiscreteScheduler", "UniPCMultistepScheduler"]


def made(name):
    options = {"clip_sample": False} if name == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(8)
    return scheduler


def three_steps(scheduler, x, out):
    scheduler.set_timesteps(8)
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(out, t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_of_schedulers(name):
    """Steps are linear in state and output, also where earlier runs have left direct calls."""
    scheduler = made(name)
    for _ in range(2):
        at = three_steps(scheduler, X, OUT)
    for move in ((ONES, 0 * ONES), (0 * ONES, ONES)):
        wanted = three_steps(scheduler, X + move[0], OUT + move[1]) - at
        with forward_ad.dual_level():
            pair = (forward_ad.make_dual(a, b) for a, b in zip((X, OUT), move, strict=True))
            found = forward_ad.unpack_dual(three_steps(scheduler, *pair))
        assert torch.allclose(found.primal, at, atol=1e-10)
        assert torch.allclose(found.tangent, wanted, atol=1e-6)
        assert found.tangent.any()
    assert torch.equal(three_steps(scheduler, X, OUT), at)


def test_the_jacobian_of_a_step_of_ddim():
    """Of x' = a x + b out: a at all places of the diagonal."""
    scheduler = made("DDIMScheduler")
    t = scheduler.timesteps[2]
    one, other = (int(scheduler.timesteps[k]) for k in (2, 3))
    before, after = (scheduler.alphas_cumprod[k].double() for k in (one, other))

    def step(x):
        return scheduler.step(OUT, t, x, return_dict=False)[0]

    step(X)
    for jacobian in (func.jacfwd(step)(X), func.jacrev(step)(X)):
        own = jacobian.reshape(6, 6)
        assert torch.allclose(own, (after / before).sqrt() * torch.eye(6, dtype=D), atol=1e-6)


def test_paths_after_a_batch_of_the_same_kind():
    path = paths.Linear()

    def state(x):
        return path.sample(X, x, seed=3).x_t

    for _ in range(3):
        plain = state(X)
    found = func.jvp(state, (X,), (ONES,))
    assert torch.equal(found[0], plain)
    assert torch.allclose(found[1], state(X + ONES) - plain, atol=1e-12)


@pytest.mark.parametrize("what", ["x", "model"])
def test_samplers_in_buffers_refuse(what):
    sampling = pytest.importorskip("fastgen.integrations.k_diffusion.sampling")
    sigmas = torch.tensor([3.0, 1.0, 0.0], dtype=D)

    def run(x):
        held = x if what == "model" else 1.0
        state = x if what == "x" else X
        return sampling.sample_euler(lambda x, s: 0.5 * x * held, state, sigmas, disable=True)

    with forward_ad.dual_level():
        x = forward_ad.make_dual(X, ONES)
        with pytest.raises(ValueError, match=f"{what}: a sampler that runs in buffers"):
            run(x)
