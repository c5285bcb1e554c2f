"""`odeint_dense`: a solution as a function of time."""

import pytest
import torch

from fastgen.integrations.torchdiffeq import odeint_dense

D = torch.float64


def ends():
    return torch.tensor(0.0, dtype=D), torch.tensor(3.0, dtype=D)


def test_it_is_the_solution_everywhere():
    y0 = torch.tensor([1.0, -2.0], dtype=D)
    with torch.no_grad():
        solution = odeint_dense(lambda t, y: -y + t, y0, *ends(), rtol=1e-9, atol=1e-11)
        for t in torch.linspace(0, 3, 17, dtype=D):
            exact = (y0 + 1) * torch.exp(-t) + t - 1
            assert torch.allclose(solution(t), exact, rtol=1e-7, atol=1e-9)
    with pytest.raises(ValueError, match=r"t=3\.5: the solution is known on \[0\.0, 3\.0\]"):
        solution(torch.tensor(3.5))


def test_its_values_take_few_evaluations():
    calls = []

    def field(t, y):
        calls.append(1)
        return torch.cos(t) * y

    with torch.no_grad():
        solution = odeint_dense(field, torch.ones(2, dtype=D), *ends())
        before = len(calls)
        found = solution(torch.tensor(1.4, dtype=D))
    assert before > 60
    assert len(calls) - before < 30
    assert torch.allclose(found, torch.exp(torch.sin(torch.full((2,), 1.4, dtype=D))), rtol=1e-6)


def test_gradients_lead_back():
    a = torch.tensor(0.7, dtype=D, requires_grad=True)
    y0 = torch.tensor([1.5], dtype=D, requires_grad=True)
    solution = odeint_dense(lambda t, y: -a * y, y0, *ends())
    t = torch.tensor(2.0, dtype=D)
    found = torch.autograd.grad(solution(t).sum(), [a, y0])
    decayed = torch.exp(-a * t)
    assert torch.allclose(found[0], (-t * y0 * decayed).sum(), rtol=1e-6)
    assert torch.allclose(found[1], decayed, rtol=1e-6)


def test_other_methods_are_refused():
    with pytest.raises(ValueError, match="method='rk4'"):
        odeint_dense(lambda t, y: y, torch.ones(1), *ends(), method="rk4")
