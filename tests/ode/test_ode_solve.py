"""Solutions against closed forms, orders, dense output, layouts and independence of samples."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import fastgen
from fastgen.ode import Controller, Execution, tableaus
from tests.support.closed_forms import slope

ADAPTIVE, FIXED = list(tableaus.ADAPTIVE), [*tableaus.FIXED, "explicit_adams"]
ORDER = {n: t.order for n, t in {**tableaus.ADAPTIVE, **tableaus.FIXED}.items()}
ORDER["explicit_adams"] = 4
MATRIX = torch.tensor([[-0.4, 1.3, 0.2], [-1.1, -0.3, 0.5], [0.1, -0.6, -0.9]]).double()


def linear(t, y):
    # Element by element, so that rows do not depend on the batch.
    return torch.stack([sum(MATRIX[i, j].to(y) * y[:, j] for j in range(3)) for i in range(3)], 1)


def van_der_pol(mu):
    def f(t, y):
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    return f


def logistic(t, y):
    return y * (1 - y)


def starts(rows=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 3, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_linear_system_follows_its_exponential(method, backend):
    y0, t = starts(), torch.linspace(0, 3, 7).double()
    tolerance = {2: 1e-5, 3: 1e-7}.get(ORDER[method], 1e-9)
    ys = fastgen.odeint(
        linear, y0, t, rtol=tolerance, atol=tolerance, method=method, backend=backend
    )
    exact = torch.stack([y0 @ torch.from_numpy(expm(MATRIX.numpy() * s)).T for s in t.tolist()])
    # Fehlberg's RK1(2) knows its error to a factor 1/512 only.
    assert (ys - exact).abs().max() < (2e-2 if method == "fehlberg2" else 100 * tolerance)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_logistic_and_sine(method):
    y0 = torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 2.0, 5.0]).double()
    ys = fastgen.odeint(logistic, y0, t, rtol=1e-10, atol=1e-12, method=method)
    growth = y0 / (1 - y0) * t.exp()[:, None, None]
    assert torch.allclose(ys, growth / (1 + growth), rtol=0, atol=1e-8)
    ys = fastgen.odeint(
        lambda t, y: t.cos()[:, None].expand_as(y), y0, t, rtol=1e-10, atol=1e-12, method=method
    )
    assert torch.allclose(ys, y0 + t.sin()[:, None, None], rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_van_der_pol_against_dop853(method):
    y0 = torch.tensor([[2.0, 0.0], [0.5, -1.0]], dtype=torch.float64)
    t = torch.linspace(0, 12, 5).double()
    ys = fastgen.odeint(van_der_pol(5.0), y0, t, rtol=1e-9, atol=1e-10, method=method)
    for row in range(2):
        peer = solve_ivp(
            lambda t, y: [y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]],
            (0, 12),
            y0[row].numpy(),
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=t.numpy(),
        )
        assert np.abs(peer.y.T - ys[:, row].numpy()).max() < 2e-6


@pytest.mark.parametrize("method", FIXED)
def test_order_of_fixed_steps(method):
    y0 = torch.tensor([[0.2], [0.7]], dtype=torch.float64)
    exact = y0 / (1 - y0) * math.e**2
    counts = [10, 20, 40, 80]
    found = [
        fastgen.odeint(logistic, y0, [0.0, 2.0], method=method, step_size=2 / n)[-1] for n in counts
    ]
    errors = [(x - exact / (1 + exact)).abs().max().item() for x in found]
    assert slope(counts, errors) > ORDER[method] - 0.25
    assert slope(counts, errors) < ORDER[method] + 0.8


@pytest.mark.parametrize("method", ADAPTIVE)
def test_order_of_adaptive_methods_at_fixed_steps(method):
    """With steps pinned by min_step = max_step the method is a plain Runge-Kutta method."""
    y0 = torch.tensor([[0.2, 0.6]], dtype=torch.float64)
    exact = y0 / (1 - y0) * math.e**2
    counts = [3, 4, 6, 8] if method == "dopri8" else [8, 16, 32, 64]
    errors = []
    for n in counts:
        pinned = Controller(min_step=2 / n, max_step=2 / n, first_step=2 / n)
        y = fastgen.odeint(logistic, y0, [0.0, 2.0], method=method, controller=pinned)[-1]
        errors.append((y - exact / (1 + exact)).abs().max().item())
    assert slope(counts, errors) > ORDER[method] - 0.4


@pytest.mark.parametrize("method", ADAPTIVE)
def test_order_of_dense_output(method):
    """Inside one step the interpolant's error falls with step^(order + 1)."""
    theta = torch.tensor([0.0, 0.21, 0.5, 0.83, 1.0]).double()
    steps, errors = [0.4, 0.2, 0.1], []
    y0 = torch.tensor([[0.3, -0.4, 0.9]], dtype=torch.float64)
    f = van_der_pol_like = lambda t, y: torch.sin(y) * (1 + t[:, None])  # noqa: F841
    for h in steps:
        pinned = Controller(min_step=h, max_step=h, first_step=h)
        ys = fastgen.odeint(f, y0, theta * h, method=method, controller=pinned)
        exact = fastgen.odeint(
            f, y0, theta * h, rtol=1e-13, atol=1e-13, method="dopri8", max_step=h / 8
        )
        errors.append((ys - exact)[1:-1].abs().max().item())
    order = slope([1 / h for h in steps], errors)
    assert order > tableaus.ADAPTIVE[method].dense_order + 1 - 0.5


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8"])
def test_error_is_proportional_to_tolerance(method):
    y0, t = starts(), [0.0, 4.0]
    exact = y0 @ torch.from_numpy(expm(MATRIX.numpy() * 4.0)).T
    tolerances = [1e-4, 1e-6, 1e-8]
    errors = [
        (fastgen.odeint(linear, y0, t, rtol=e, atol=e, method=method)[-1] - exact).abs().max()
        for e in tolerances
    ]
    for tolerance, error in zip(tolerances, errors, strict=True):
        assert error < 50 * tolerance
    exponent = -slope([1 / e for e in tolerances], [float(e) for e in errors]) * -1
    assert 0.6 < exponent < 1.4


@pytest.mark.parametrize("controller", ["i", "pi", "pid", Controller(safety=0.8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("compact", [False, True])
def test_rows_are_the_same_alone_and_in_any_batch(controller, dtype, compact, backend):
    y0 = torch.cat([starts(6, dtype), 4 * starts(3, dtype)])[:, :2]
    t = torch.linspace(0, 1.5, 5).double()
    options = {"controller": controller, "backend": backend}
    options["execution"] = Execution(compact=compact)
    batch = fastgen.odeint(van_der_pol(3.0), y0, t, return_solution=True, **options)
    assert len(set(batch.stats.accepted.tolist())) > 3
    for rows in ([0], [7], [2, 8, 4]):
        part = fastgen.odeint(van_der_pol(3.0), y0[rows], t, return_solution=True, **options)
        assert torch.equal(part.ys, batch.ys[:, rows])
        assert torch.equal(part.stats.accepted, batch.stats.accepted[rows])
        assert torch.equal(part.stats.evaluations, batch.stats.evaluations[rows])
        assert torch.equal(part.reached, batch.reached[rows])


def test_compaction_leaves_out_ended_samples():
    y0 = torch.cat([starts(4), 4 * starts(2)])[:, :2]
    seen = []

    def told(t, y, rows):
        assert t.shape == rows.shape == y.shape[:1]
        seen.append(rows.tolist())
        return van_der_pol(3.0)(t, y)

    whole = fastgen.odeint(van_der_pol(3.0), y0, [0.0, 3.0], return_solution=True)
    less = fastgen.odeint(told, y0, [0.0, 3.0], return_solution=True)
    assert torch.equal(whole.ys, less.ys)
    assert less.stats.rows == sum(map(len, seen)) == int(less.stats.evaluations.sum())
    assert less.stats.rows < whole.stats.rows == 6 * whole.stats.calls
    for rows in range(6):
        assert sum(rows in s for s in seen) == int(less.stats.evaluations[rows])


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "tsit5"])
def test_the_exact_stage_times_are_evaluated(method):
    """A mock field records its times: t + c_i h, and never beyond the interval."""
    times = []

    def f(t, y):
        times.append(t.clone())
        return torch.ones_like(y)

    y0 = torch.zeros(1, 2, dtype=torch.float64)
    fastgen.odeint(f, y0, [1.0, 1.5], method=method, first_step=0.25, max_step=0.25)
    c = tableaus.ADAPTIVE[method].c[1:]
    expected = [1.0, *[1 + 0.25 * x for x in c], *[1.25 + 0.25 * x for x in c]]
    assert torch.cat(times).tolist() == pytest.approx(expected, abs=1e-15)
    assert max(torch.cat(times).tolist()) <= 1.5


def test_intervals_and_directions_of_their_own(backend):
    y0 = starts(4)
    t = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, -1.0], [0.5, 0.5, 0.75], [3.0, 3.0, 3.0]])
    ys = fastgen.odeint(linear, y0, t.double(), rtol=1e-10, atol=1e-12, backend=backend)
    for row in range(4):
        for j in range(3):
            step = float(t[row, j] - t[row, 0])
            exact = torch.from_numpy(expm(MATRIX.numpy() * step)) @ y0[row]
            assert torch.allclose(ys[j, row], exact, atol=1e-8)
    assert torch.equal(ys[1, 2], y0[2])
    assert torch.equal(ys[:, 3], y0[3].expand(3, 3))


def test_there_and_back():
    y0, t = starts(), torch.tensor([0.0, 1.0, 2.5]).double()
    there = fastgen.odeint(linear, y0, t, rtol=1e-10, atol=1e-12)
    back = fastgen.odeint(linear, there[-1], t.flip(0), rtol=1e-10, atol=1e-12)
    assert torch.allclose(back.flip(0), there, atol=1e-8)


def test_nested_states_and_joint_steps(backend):
    y0 = {"a": starts(3), "b": (starts(3)[:, 0], starts(3)[:, :2].reshape(3, 1, 2))}

    def f(t, y):
        scale = t[:, None] if t.ndim else t
        b = y["b"]
        return {"a": -y["a"] * scale, "b": (b[0] * 0.5, -2 * b[1])}

    options = {"rtol": 1e-9, "atol": 1e-10, "backend": backend}
    t = torch.tensor([0.0, 0.4, 1.0]).double()
    for step in ("per_sample", "joint"):
        ys = fastgen.odeint(f, y0, t, step=step, **options)
        assert ys["b"][1].shape == (3, 3, 1, 2)
        decay = torch.exp(-(t**2) / 2)[:, None, None]
        assert torch.allclose(ys["a"], y0["a"] * decay, atol=1e-7)
        assert torch.allclose(ys["b"][0], y0["b"][0] * torch.exp(t / 2)[:, None], atol=1e-7)
        for e in (1e-6,):
            assert torch.allclose(ys["b"][1][-1], y0["b"][1] * math.exp(-2), atol=e)
    scalar = fastgen.odeint(lambda t, y: -y, torch.tensor(2.0), t, step="joint", backend=backend)
    assert scalar.shape == (3,)
    assert scalar[-1].item() == pytest.approx(2 / math.e, rel=1e-4)


def test_tensors_of_a_state_have_error_norms_of_their_own():
    """One number beside ten thousand is not drowned in their mean."""

    def f(t, y):
        return torch.zeros_like(y[0]), 30 * torch.cos(30 * t)[:, None]

    y0 = torch.zeros(1, 10000).double(), torch.zeros(1, 1).double()
    _, ys = fastgen.odeint(f, y0, [0.0, 1.0], rtol=1e-7, atol=1e-7)
    assert abs(ys[-1].item() - math.sin(30)) < 1e-5


@pytest.mark.parametrize("step", ["per_sample", "joint"])
def test_values_that_need_conversion(step):
    """A field may return its own input, another dtype, or a tensor that is not contiguous."""
    y0 = starts(4, torch.float32)
    t = torch.tensor([0.0, 1.0])
    exact = y0 * math.e
    for f in (
        lambda t, y: y,
        lambda t, y: y.double(),
        lambda t, y: y.T.contiguous().T,
    ):
        ys = fastgen.odeint(f, y0, t, step=step)
        assert ys.dtype == torch.float32
        assert torch.allclose(ys[-1], exact, rtol=1e-4)
    assert torch.equal(ys[0], y0)


def test_inputs_are_left_alone():
    y0, t = starts(), torch.linspace(0, 1, 3).double()
    before = y0.clone()
    fastgen.odeint(lambda t, y: -y, y0, t)
    assert torch.equal(y0, before)
    with pytest.raises(ValueError, match="f: it changed its input in place"):
        fastgen.odeint(lambda t, y: y.neg_(), y0, t)
    assert torch.equal(y0, before)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree_to_the_bit(size, dtype):
    generator = torch.Generator().manual_seed(size)
    y0 = torch.randn(3, size, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.linspace(0, 2, 4).double()

    def f(t, y):
        return y * (1 - y * y) - t.to(y)[:, None]

    results = [
        fastgen.odeint(f, y0, t, method=m, backend=b, rtol=1e-4, atol=1e-4)
        for m in ("dopri5", "bosh3")
        for b in ("reference", "cpp")
    ]
    # pow differs in the last bit between libraries, so that step sizes may: then values do too.
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for a, b in pairwise(results[:2]):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    for a, b in pairwise(results[2:]):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def test_empty_batch_and_single_time():
    ys = fastgen.odeint(linear, torch.empty(0, 3), [0.0, 1.0])
    assert ys.shape == (2, 0, 3)
    y0 = starts()
    assert torch.equal(fastgen.odeint(linear, y0, [0.3]), y0[None])


def test_tolerances_by_sample():
    y0 = starts(1).expand(3, 3)
    rtol = torch.tensor([1e-3, 1e-6, 1e-9])
    found = fastgen.odeint(linear, y0, [0.0, 3.0], rtol=rtol, atol=rtol, return_solution=True)
    counts = found.stats.accepted.tolist()
    assert counts == sorted(counts)
    assert counts[0] < counts[2]
    for i in range(3):
        alone = fastgen.odeint(
            linear, y0[:1], [0.0, 3.0], rtol=rtol[i].double(), atol=rtol[i].double()
        )
        assert torch.equal(alone[:, 0], found.ys[:, i])


def test_threads_change_nothing():
    y0 = torch.linspace(0.1, 2, 36 * 2000).reshape(36, 2000)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(fastgen.odeint(logistic, y0, [0.0, 0.5], backend="cpp"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
