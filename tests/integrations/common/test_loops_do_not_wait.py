"""The drop-ins' loops read nothing back from the device, so the host never waits for it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen.integrations.flow_matching.solver import ODESolver
from fastgen.integrations.k_diffusion import sampling
from tests.support.tape import WAITING


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait if the tensors were on a GPU."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation._schema.name not in WAITING, f"{operation} waits for the device"
        return operation(*args, **(kwargs or {}))


def denoiser(x, sigma):
    return torch.tanh(x) / (1 + sigma[:, None])


RUNS = [
    ("euler", {}),
    ("heun", {"s_churn": 5.0}),
    ("dpmpp_2m", {}),
    ("lms", {}),
    ("euler_ancestral", {}),
    ("dpmpp_2m_sde", {"noise": "contract", "seed": 3}),
    ("sa_solver", {}),
    ("dpm_fast", {}),
]


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_k_diffusion(name, options):
    """Of a second run, given the levels as numbers; from a tensor they are read once."""
    x, function = torch.randn(3, 4), getattr(sampling, f"sample_{name}")
    levels = (0.1, 9.0, 7) if name == "dpm_fast" else ([9.0, 4.0, 1.0, 0.3, 0.1, 0.0],)

    def run():
        torch.manual_seed(0)
        return function(denoiser, x, *levels, disable=True, **options)

    expected = run()
    with NoWaiting():
        result = run()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_flow_matching(method):
    x, solver = torch.randn(3, 4), ODESolver(lambda x, t: torch.tanh(x) * t)

    def run():
        grid = [0.0, 0.5, 1.0]
        return solver.sample(
            x, step_size=0.2, method=method, time_grid=grid, return_intermediates=True
        )

    expected = run()
    with NoWaiting():
        result = run()
    assert torch.equal(result, expected)
