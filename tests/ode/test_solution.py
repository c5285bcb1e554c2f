"""What cannot be solved ends with a status, or with an error that names the sample."""

import math

import pytest
import torch

import fastgen
from fastgen.ode import Controller, Execution, Status, Through


def blow_up(t, y):
    """dy/dt = y^2 from y0 > 0 is infinite at t = 1 / y0."""
    return y * y


Y0 = torch.tensor([[0.1], [2.0], [0.2]], dtype=torch.float64)


def test_underflow(backend):
    with pytest.raises(RuntimeError, match=r"sample 1 stopped at t=0\.5.*1 of 3 samples failed"):
        fastgen.odeint(blow_up, Y0, [0.0, 1.0], backend=backend)
    found = fastgen.odeint(
        blow_up, Y0, [0.0, 0.4, 1.0], on_failure="return", return_solution=True, backend=backend
    )
    assert found.success.tolist() == [True, False, True]
    assert found.status[1] in (Status.UNDERFLOW, Status.NON_FINITE)
    assert found.reached[1].item() == pytest.approx(0.5, abs=1e-3)
    exact = 1 / (1 / Y0 - 1.0)
    assert torch.allclose(found.ys[-1, [0, 2]], exact[[0, 2]], rtol=1e-4)
    assert found.ys[1, 1].item() == pytest.approx(1 / (0.5 - 0.4), rel=1e-3)
    assert math.isfinite(found.ys[2, 1])  # the best so far


def test_exhausted_steps(backend):
    with pytest.raises(RuntimeError, match=r"sample 0 .* max_steps=5 steps were not enough"):
        fastgen.odeint(
            lambda t, y: -50 * (y - t.cos()[:, None]), Y0, [0.0, 5.0], max_steps=5, backend=backend
        )
    found = fastgen.odeint(
        lambda t, y: -y,
        Y0,
        torch.tensor([[0.0, 1e-3], [0.0, 100.0], [0.0, -1e-3]]).double(),
        max_steps=8,
        max_step=0.5,
        on_failure="return",
        return_solution=True,
        backend=backend,
    )
    assert found.status.tolist() == [Status.DONE, Status.MAX_STEPS, Status.DONE]
    assert (found.stats.accepted + found.stats.rejected)[1] == 8
    reached = found.reached[1].item()
    assert found.ys[-1, 1].item() == pytest.approx(2 * math.exp(-reached), rel=1e-4)


@pytest.mark.parametrize("compact", [False, True])
def test_nan_in_one_sample_spares_the_others(compact, backend):
    def f(t, y):
        return torch.where((y > 1.5) & (t[:, None] > 0.3), math.nan, -y * 0.1)

    found = fastgen.odeint(
        f,
        Y0,
        [0.0, 1.0],
        on_failure="return",
        return_solution=True,
        execution=Execution(compact=compact),
        backend=backend,
    )
    assert found.status.tolist() == [Status.DONE, Status.NON_FINITE, Status.DONE]
    assert found.reached[1].item() == pytest.approx(0.3, abs=1e-6)
    assert torch.allclose(found.ys[-1, [0, 2]], Y0[[0, 2]] * math.exp(-0.1), rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"sample 1 .* f is not finite"):
        fastgen.odeint(f, Y0, [0.0, 1.0], backend=backend)


def test_nan_from_the_start(backend):
    y0 = Y0.clone()
    y0[2] = math.nan
    found = fastgen.odeint(
        lambda t, y: -y, y0, [0.0, 1.0], on_failure="return", return_solution=True, backend=backend
    )
    assert found.status.tolist() == [Status.DONE, Status.DONE, Status.NON_FINITE]
    assert found.reached[2] == 0


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "T >= 1"),
        ([0.0, 1.0, 0.5], "increase or decrease"),
        ([0.0, math.nan], "finite"),
        ([[0.0, 1.0, 2.0], [0.0, 1.0, 0.5], [2.0, 1.0, 0.0]], "of sample 1"),
        ([[0.0, 1.0]], r"\[3, T\]"),
    ],
)
def test_times(times, message):
    with pytest.raises(ValueError, match=message):
        fastgen.odeint(lambda t, y: -y, Y0, torch.tensor(times, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rtol": math.inf}, ValueError, "rtol=inf"),
        ({"atol": -1.0}, ValueError, "atol=-1.0"),
        ({"rtol": torch.ones(2)}, ValueError, "rtol"),
        ({"method": "dopri4"}, ValueError, "did you mean 'dopri"),
        ({"controller": "pdi"}, ValueError, "did you mean"),
        ({"step": "joined"}, ValueError, "did you mean 'joint'"),
        ({"step_size": 0.1}, ValueError, "chooses its own steps"),
        ({"method": "rk4", "first_step": 0.1}, ValueError, "takes step_size"),
        ({"method": "rk4", "step_size": -1.0}, ValueError, "step_size=-1.0"),
        ({"first_step": 0.0}, ValueError, "first_step"),
        ({"controller": {"min_step": 2.0, "max_step": 1.0}}, ValueError, "min_step"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"on_failure": "return"}, ValueError, "return_solution=True"),
        ({"toll": 1}, TypeError, "toll"),
    ],
)
def test_options(options, error, message):
    def solve():
        if isinstance(options.get("controller"), dict):
            Controller(**options["controller"])
        fastgen.odeint(lambda t, y: -y, Y0, [0.0, 1.0], **options)

    with pytest.raises(error, match=message):
        solve()


@pytest.mark.parametrize(
    ("y0", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.float16), TypeError, r"y0\.float"),
        (torch.zeros(2, 3, dtype=torch.complex64), TypeError, "view_as_real"),
        (torch.tensor(1.0), ValueError, "step='joint'"),
        ((torch.zeros(2), torch.zeros(3)), ValueError, "one batch axis"),
        ((torch.zeros(2), torch.zeros(2).double()), TypeError, "dtype"),
        ((), TypeError, "at least one"),
        ("state", TypeError, "tensors"),
    ],
)
def test_states(y0, error, message):
    with pytest.raises(error, match=message):
        fastgen.odeint(lambda t, y: y, y0, [0.0, 1.0])


def test_values_of_the_wrong_kind(backend):
    for f, error in (
        (lambda t, y: y[:, :0], ValueError),
        (lambda t, y: y[:2], ValueError),
        (lambda t, y: None, TypeError),
        (lambda t, y: (y, y), TypeError),
        (lambda t, y: y.to(torch.complex64), ValueError),
    ):
        with pytest.raises(error, match="f: expected"):
            fastgen.odeint(f, Y0, [0.0, 1.0], backend=backend)
    with pytest.raises(TypeError, match="callable"):
        fastgen.odeint(None, Y0, [0.0, 1.0])


def test_float64_time_on_a_float32_state():
    """Times are held in float64: two that float32 cannot tell apart are an interval."""
    seen = []

    def f(t, y):
        seen.append(t.dtype)
        return torch.ones_like(y)

    t = torch.tensor([1.0, 1.0 + 1e-10], dtype=torch.float64)
    ys = fastgen.odeint(f, torch.zeros(2, 1), t)
    assert set(seen) == {torch.float32}
    assert ys[-1, 0].item() == pytest.approx(1e-10, rel=1e-5)


def test_zero_tolerance_at_zero_error():
    ys = fastgen.odeint(lambda t, y: torch.zeros_like(y), Y0 * 0, [0.0, 1.0], atol=0.0)
    assert torch.equal(ys[-1], Y0 * 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_step": 0.1}, "'rk4' takes step_size"),
        ({"controller": "i"}, "the steps of 'rk4' are fixed"),
        ({"gradient": Through("step")}, "'rk4' keeps everything"),
        ({"gradient": "throgh"}, "did you mean 'through'"),
    ],
)
def test_methods_of_fixed_steps_refuse_what_they_would_ignore(options, message):
    with pytest.raises(ValueError, match=message):
        fastgen.odeint(lambda t, y: -y, Y0, [0.0, 1.0], method="rk4", **options)


@pytest.mark.parametrize("given", ["yes", torch.ones(2)], ids=["text", "tensor"])
def test_return_solution_is_true_or_false(given):
    with pytest.raises(TypeError, match=r"^return_solution=.*expected True or False"):
        fastgen.odeint(lambda t, y: -y, torch.ones(2, 1), [0.0, 1.0], return_solution=given)
