"""`odeint_dense`: a solution as a function of time."""

import pytest
import torch

from fastgen.integrations.torchdiffeq import odeint, odeint_dense

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


def test_its_values_take_no_evaluation():
    calls, steps = [], []

    class Field(torch.nn.Module):
        def forward(self, t, y):
            calls.append(1)
            return torch.cos(t) * y

        def callback_accept_step(self, t, y, size):
            steps.append(float(t))

    with torch.no_grad():
        solution = odeint_dense(Field(), torch.ones(2, dtype=D), *ends())
        before = len(calls)
        found = solution(torch.tensor(1.4, dtype=D))
        assert len(calls) == before
        assert before <= 13 * len(steps) + 9  # 6 evaluations of each, twice, and refused ones
        assert torch.allclose(found, torch.exp(torch.sin(torch.full((2,), 1.4, dtype=D))))
        # The slope has no jump between two steps.
        node, near = torch.tensor(steps[3], dtype=D), 1e-6
        left, here, right = (solution(node + k * near) for k in (-1, 0, 1))
        assert torch.allclose(right - here, here - left, rtol=1e-4)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_it_equals_torchdiffeqs_solution_at_many_times(shape):
    y0 = torch.linspace(1, 2, torch.Size(shape).numel(), dtype=D).reshape(shape)
    options = {"max_step": 0.5, "step_t": torch.tensor([1.1], dtype=D)}
    arguments = (lambda t, y: torch.sin(3 * t) - y**2, y0)
    solution = odeint_dense(*arguments, *ends(), options=options)
    times = torch.linspace(0, 3, 23, dtype=D)
    exact = odeint(*arguments, times, rtol=1e-11, atol=1e-12)
    assert torch.allclose(torch.stack([solution(t) for t in times]), exact, atol=1e-6)


def test_it_does_not_look_across_a_jump():
    """f = 1 before t = 1 and -2 from there on: the solution is a broken line, exactly."""
    solution = odeint_dense(
        lambda t, y: torch.where(t < 1, 1.0, -2.0).to(y) + 0 * y,
        torch.zeros(1, dtype=D),
        *ends(),
        options={"jump_t": torch.tensor([1.0], dtype=D)},
    )
    for t in (0.3, 0.999, 1.0, 1.001, 2.5):
        exact = t if t < 1 else 1 - 2 * (t - 1)
        assert abs(float(solution(torch.tensor(t, dtype=D))) - exact) < 1e-12


def test_gradients_lead_back():
    a = torch.tensor(0.7, dtype=D, requires_grad=True)
    y0 = torch.tensor([1.5], dtype=D, requires_grad=True)
    solution = odeint_dense(lambda t, y: -a * y, y0, *ends())
    t = torch.tensor(2.0, dtype=D, requires_grad=True)
    found = torch.autograd.grad(solution(t).sum(), [a, y0, t])
    decayed = torch.exp(-a * t)
    assert torch.allclose(found[0], (-t * y0 * decayed).sum(), rtol=1e-6)
    assert torch.allclose(found[1], decayed, rtol=1e-6)
    assert torch.allclose(found[2], (-a * y0 * decayed).sum(), rtol=1e-4)


def test_other_methods_are_refused():
    with pytest.raises(ValueError, match="method='rk4'"):
        odeint_dense(lambda t, y: y, torch.ones(1), *ends(), method="rk4")
    with pytest.raises(ValueError, match=r"options\['step'\]='per_sample'"):
        odeint_dense(lambda t, y: y, torch.ones(1), *ends(), options={"step": "per_sample"})
    with pytest.raises(ValueError, match="expected t0 < t1"):
        odeint_dense(lambda t, y: y, torch.ones(1), *reversed(ends()))
