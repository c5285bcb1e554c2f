"""Solves on the memory of earlier ones, and what C++ does at their beginning and with outputs."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fastgen
from fastgen.common.step_size import Controller
from fastgen.kernels import dispatch
from fastgen.kernels.runge_kutta.contract import Control, Workspace
from fastgen.ode import engine, tableaus
from fastgen.ode.memory import SMALL, FusedSolve

cpp = pytest.importorskip("fastgen.kernels.runge_kutta.cpp")
T = torch.linspace(0, 2, 7, dtype=torch.float64)


def field(t, y):
    return torch.sin(y) - 0.5 * y * t[:, None]


def states(rows=3, elements=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, elements, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_sample", [False, True])
def test_the_beginning_is_the_references(dtype, by_sample):
    times = T[None] * torch.tensor([1.0, 0.0, -1.0, 0.5])[:, None] if by_sample else T
    if by_sample:
        times[3, :3] = times[3, 0]  # outputs at the first time
    tableau, y = tableaus.ADAPTIVE["dopri5"], states(4, dtype=dtype)
    rtol, atol = torch.tensor([1e-3], dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    made = []
    for _ in range(2):
        w = Workspace.allocate(
            *(y, tableau.matrix, tableau.nodes, tableau.errors, tableau.polynomials),
            *(torch.tensor([2]), times, Controller.of("pid").step_size(5, 10)),
        )
        w.ys.fill_(7)
        made.append(w)
    w, other = made
    engine._begin(w, rtol.expand(4), atol, 0.25)
    ops = cpp.CppOperations(other)
    for table in (other.control, other.count, other.stage, other.stage_times):
        table.fill_(3)  # of an earlier solve
    first = torch.tensor(0.25, dtype=torch.float64)
    ops.begin(rtol.expand(4), atol, first)
    for name in ("control", "count", "stage", "stage_times"):
        assert torch.equal(getattr(w, name), getattr(other, name)), name
    known = w.count[engine.Count.CURSOR]
    for sample in range(4):  # the reference writes as many outputs of all
        own = slice(0, int(known[sample]))
        assert torch.equal(w.ys[own, sample], other.ys[own, sample])
    other.control[Control.STEP] = 0.01
    assert ops.far(100)
    assert not ops.far(201)


@pytest.mark.parametrize("elements", range(1, 10))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_of_rows_of_every_size_are_the_references(elements, dtype):
    y0, t = states(70, elements, dtype), torch.linspace(0, 3, 41, dtype=torch.float64)
    solve = {"rtol": 1e-4, "atol": 1e-4}
    found = [fastgen.odeint(field, y0, t, **solve, backend=b) for b in ("cpp", "reference")]
    tolerance = 1e3 * torch.finfo(dtype).eps  # powers of errors differ in their last digits
    assert torch.allclose(*found, rtol=tolerance, atol=tolerance)


def test_solves_on_kept_memory_are_their_own():
    FusedSolve.idle.clear()
    y0, t = states(), T.clone()
    first = fastgen.odeint(field, y0, t, return_solution=True)
    kept = first.ys.clone(), first.stats.accepted.clone(), first.reached.clone()
    assert len(FusedSolve.idle._kept) == 1
    other = fastgen.odeint(field, 2 * y0, t + 1, return_solution=True)  # on the same memory
    assert len(FusedSolve.idle._kept) == 1
    assert torch.equal(t, T)
    assert torch.equal(y0, states())
    for now, before in zip((first.ys, first.stats.accepted, first.reached), kept, strict=True):
        assert torch.equal(now, before)
    FusedSolve.idle.clear()
    fresh = fastgen.odeint(field, 2 * y0, t + 1, return_solution=True)
    assert torch.equal(other.ys, fresh.ys)
    assert torch.equal(other.stats.accepted, fresh.stats.accepted)


def test_nothing_of_an_earlier_solve_is_believed():
    factor = torch.nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
    y0, t = torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]

    def solve(f, **options):
        return fastgen.odeint(f, y0, t, rtol=1e-9, atol=1e-9, **options)[-1, 0, 0]

    def scaled(t, y):
        return factor * y

    with torch.no_grad():
        assert abs(solve(scaled).item() - math.exp(-1)) < 1e-7
        factor.fill_(-2.0)
        assert abs(solve(scaled).item() - math.exp(-2)) < 1e-7
    solve(scaled).backward()  # a closure's gradient, after solves without
    assert abs(factor.grad.item() - math.exp(-2)) < 1e-6
    with torch.inference_mode():
        assert abs(solve(scaled).item() - math.exp(-2)) < 1e-7
    assert solve(scaled, gradient="none").requires_grad is False
    assert abs(solve(lambda t, y: y).item() - math.e) < 1e-7
    with pytest.raises(ZeroDivisionError):
        solve(lambda t, y: 1 / 0)
    assert abs(solve(lambda t, y: -y).item() - math.exp(-1)) < 1e-7


def test_samples_that_have_ended_are_back_in_the_next_solve():
    ends = torch.tensor([[0.0, 0.1], [0.0, 3.0], [0.0, 0.0]], dtype=torch.float64)

    def told(t, y, rows):
        return -y * (1 + rows[:, None])

    for _ in range(2):
        y = fastgen.odeint(told, torch.ones(3, 1, dtype=torch.float64), ends, rtol=1e-9, atol=1e-9)
        expected = torch.exp(-ends[:, 1] * torch.tensor([1.0, 2.0, 3.0]))
        assert torch.allclose(y[-1, :, 0], expected, atol=1e-7)


def test_a_field_may_solve_and_threads_do_not_share():
    def nested(t, y):
        inner = fastgen.odeint(lambda s, z: -z, y.clone(), [0.0, 0.5])
        return -inner[-1]

    y0 = states()
    expected = fastgen.odeint(nested, y0, T)
    exact = y0 * torch.exp(-math.exp(-0.5) * T)[:, None, None]
    assert torch.allclose(expected, exact, atol=1e-3)
    single = [fastgen.odeint(field, states(3) * k, T) for k in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: fastgen.odeint(field, states(3) * k, T), range(16)))
    assert all(torch.equal(a, b) for a, b in zip(found, single, strict=True))


def test_large_states_and_other_backends_keep_nothing():
    FusedSolve.idle.clear()
    fastgen.odeint(field, torch.zeros(SMALL, 2), [0.0, 1.0])
    fastgen.odeint(field, states(), T, backend="reference")
    assert not FusedSolve.idle._kept
    assert dispatch.load("runge_kutta_fused", "reference") is None
