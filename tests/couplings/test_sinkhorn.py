"""Entropic transport against dense float64, POT, limits of the regularisation and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.couplings import SinkhornError, sinkhorn, sinkhorn_divergence
from fastgen.couplings.clouds import prepare
from fastgen.couplings.potentials import EntropicSolver, Marginals, Start, solve
from fastgen.kernels.pairwise import Kept

F64 = torch.float64


def clouds(n, m, d, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    x0 = torch.randn(n, d, generator=g, dtype=F64) + 2
    x1 = 0.7 * torch.randn(m, d, generator=g, dtype=F64) - 1
    a, b = (torch.rand(k, generator=g, dtype=F64) + 0.1 for k in (n, m))
    return x0.to(dtype), x1.to(dtype), a / a.sum(), b / b.sum()


def cost(x0, x1):
    return torch.cdist(x0.double(), x1.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2


def dense_sinkhorn(c, a, b, reg, sweeps=5000):
    """Plain log-domain iterations on the matrix."""
    g = torch.zeros_like(b)
    for _ in range(sweeps):
        f = -reg * ((g - c) / reg + b.log()).logsumexp(1)
        g = -reg * ((f[:, None] - c) / reg + a.log()[:, None]).logsumexp(0)
    return ((f[:, None] + g - c) / reg).exp() * a[:, None] * b


def test_streamed_is_dense(backend):
    x0, x1, a, b = clouds(37, 50, 3)
    found = sinkhorn(
        x0, x1, 0.5, weights0=a, weights1=b, tolerance=1e-11, backend=backend, max_iterations=5000
    )
    expected = dense_sinkhorn(cost(x0, x1), a, b, 0.5)
    torch.testing.assert_close(found.plan(), expected, rtol=1e-8, atol=1e-13)
    c = cost(x0, x1)
    assert found.transport_cost() == pytest.approx((expected * c).sum().item(), rel=1e-9)
    entropy = (expected * (expected / (a[:, None] * b)).log()).sum()
    value = ((expected * c).sum() + 0.5 * entropy).item()
    assert found.value.item() == pytest.approx(value, rel=1e-9)
    for marginal, weights in zip(found.marginals(), (a, b), strict=True):
        torch.testing.assert_close(marginal, weights, rtol=0, atol=1e-10)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30]),
    st.sampled_from([0.0, 1.0, 1000.0]),
    st.floats(0.03, 10),
    st.booleans(),
)
@settings(max_examples=30)
def test_marginals_of_any_shape_scale_and_position(n, m, d, scale, offset, reg, single):
    x0, x1, a, b = clouds(n, m, d, seed=n * 41 + m)
    x0, x1 = scale * (x0 + offset), scale * (x1 + offset)
    dtype = torch.float32 if single else F64
    found = sinkhorn(x0.to(dtype), x1.to(dtype), reg, reg_scale="mean_cost", weights0=a, weights1=b)
    tolerance = 1e-4 if single else 1e-7
    assert found.converged
    assert found.marginal_error <= tolerance
    rows, columns = found.marginals()
    # As many digits as float32 keeps of potentials in units of reg.
    slack = 1e-4 if single else 1e-8
    assert (rows - a).abs().sum() <= tolerance + slack
    assert (columns - b).abs().sum() <= tolerance + slack


def test_small_regularisation_is_the_assignment():
    optimize = pytest.importorskip("scipy.optimize")
    x0, x1, _, _ = clouds(30, 30, 2)
    c = cost(x0, x1)
    rows, columns = optimize.linear_sum_assignment(c.numpy())
    exact = c[rows, columns].mean().item()
    costs = []
    for reg in (1e-1, 1e-2, 1e-3):
        found = sinkhorn(x0, x1, reg, reg_scale="mean_cost", max_iterations=20000, tolerance=1e-5)
        costs.append(found.transport_cost())
    assert costs[0] > costs[1] > costs[2] > exact - 1e-3
    assert costs[2] - exact < 1e-3 * exact
    assert torch.equal(found.plan().argmax(1), torch.tensor(columns))


def test_large_regularisation_is_independence():
    x0, x1, a, b = clouds(20, 30, 2)
    found = sinkhorn(x0, x1, 1e7, weights0=a, weights1=b)
    torch.testing.assert_close(found.plan(), a[:, None] * b, rtol=1e-4, atol=0)


def test_regularisation_beside_which_costs_are_lost_is_refused():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    assert sinkhorn(x, x + 1, reg=1e3).value.isfinite()
    with pytest.raises(ValueError, match=r"reg: it is .* times the scale of the costs"):
        sinkhorn(x, x + 1, reg=1e30)


def test_regularisation_relative_to_the_mean_cost():
    x0, x1, a, b = clouds(20, 30, 2)
    mean = (cost(x0, x1) * a[:, None] * b).sum().item()
    found = sinkhorn(x0, x1, 0.1, reg_scale="mean_cost", weights0=a, weights1=b)
    assert found.reg == pytest.approx(0.1 * mean, rel=1e-12)


@pytest.mark.parametrize("penalty", [1.0, (math.inf, 1.0), (5.0, 0.3)])
def test_unbalanced_against_pot(penalty, backend):
    ot = pytest.importorskip("ot")
    x0, x1, a, b = clouds(25, 35, 3)
    b = 1.5 * b
    found = sinkhorn(
        x0, x1, 0.5, weights0=a, weights1=b, penalty=penalty, tolerance=1e-11, backend=backend
    )
    expected = ot.unbalanced.sinkhorn_unbalanced(
        a.numpy(),
        b.numpy(),
        cost(x0, x1).numpy(),
        0.5,
        penalty,
        reg_type="kl",
        numItermax=100000,
        stopThr=1e-13,
    )
    torch.testing.assert_close(found.plan(), torch.tensor(expected), rtol=1e-7, atol=1e-13)
    assert found.mass == pytest.approx(expected.sum(), rel=1e-8)


@pytest.mark.parametrize("mass", [0.3, 0.9])
def test_partial_against_pot(mass):
    ot = pytest.importorskip("ot")
    x0, x1, _, _ = clouds(25, 35, 3)
    found = sinkhorn(x0, x1, 0.5, mass=mass, tolerance=1e-10)
    a, b = torch.full((25,), 1 / 25, dtype=F64), torch.full((35,), 1 / 35, dtype=F64)
    expected = ot.partial.entropic_partial_wasserstein(
        a.numpy(), b.numpy(), cost(x0, x1).numpy(), 0.5, m=mass, numItermax=100000, stopThr=1e-14
    )
    torch.testing.assert_close(found.plan(), torch.tensor(expected), rtol=1e-6, atol=1e-11)
    assert found.mass == pytest.approx(mass)


def test_balanced_against_pot():
    ot = pytest.importorskip("ot")
    x0, x1, a, b = clouds(60, 80, 5)
    found = sinkhorn(x0, x1, 0.3, weights0=a, weights1=b, tolerance=1e-10)
    expected = ot.sinkhorn(
        a.numpy(),
        b.numpy(),
        cost(x0, x1).numpy(),
        0.3,
        method="sinkhorn_log",
        stopThr=1e-12,
        numItermax=100000,
    )
    torch.testing.assert_close(found.plan(), torch.tensor(expected), rtol=1e-6, atol=1e-12)


def test_partial_of_all_mass_is_balanced():
    x0, x1, a, b = clouds(10, 12, 2)
    whole = sinkhorn(x0, x1, 0.5, weights0=a, weights1=b, tolerance=1e-10)
    found = sinkhorn(x0, x1, 0.5, weights0=a, weights1=b, mass=1.0, tolerance=1e-10)
    torch.testing.assert_close(found.plan(), whole.plan(), rtol=1e-6, atol=1e-12)


def test_large_penalties_converge_as_fast_as_none():
    x0, x1, a, b = clouds(30, 30, 2)
    found = sinkhorn(x0, x1, 0.5, weights0=a, weights1=2 * b, penalty=1e4, tolerance=1e-8)
    balanced = sinkhorn(x0, x1, 0.5, weights0=a, weights1=b, tolerance=1e-8, relax=False)
    assert found.iterations <= balanced.iterations + 10
    torch.testing.assert_close(found.plan() / found.mass, balanced.plan(), rtol=1e-2, atol=1e-6)


def test_points_without_weight_change_nothing():
    x0, x1, a, b = clouds(10, 12, 2)
    a[3] = 0
    a = a / a.sum()
    kept = a > 0
    found = sinkhorn(x0, x1, 0.5, weights0=a, weights1=b, tolerance=1e-10)
    smaller = sinkhorn(x0[kept], x1, 0.5, weights0=a[kept], weights1=b, tolerance=1e-10)
    torch.testing.assert_close(found.plan()[kept], smaller.plan(), rtol=1e-7, atol=1e-12)
    assert found.plan()[3].sum() == 0


def test_relaxation_saves_sweeps_and_changes_no_plan():
    x0, x1, _, _ = clouds(100, 100, 2)
    slow = sinkhorn(x0, x1, 0.5, relax=False, tolerance=1e-9, max_iterations=20000)
    fast = sinkhorn(x0, x1, 0.5, tolerance=1e-9)
    assert fast.iterations < slow.iterations / 2
    torch.testing.assert_close(fast.plan(), slow.plan(), rtol=1e-4, atol=1e-12)


def test_relaxation_is_not_carried_away():
    """A rate once seen too near to 1 made steps of 1.998, slower than those of 1."""
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(50, 2, generator=g).double()
    x1 = (torch.randn(50, 2, generator=g) * 1.5 + 1).double()
    sweeps = [
        sinkhorn(
            x0,
            x1,
            0.005,
            reg_scale="mean_cost",
            tolerance=1e-4,
            relax=relax,
            max_iterations=9000,
            on_failure="return",
        ).iterations
        for relax in (True, False)
    ]
    assert sweeps[0] < 0.5 * sweeps[1]


def test_rare_looks_at_the_error_cost_few_sweeps():
    """As on a GPU, where each look waits for the device."""
    x0, x1, a, b = clouds(100, 100, 2)
    problem = prepare(x0, x1, a, b)
    solver = EntropicSolver(problem, 0.02, Marginals())
    sweeps = [
        solve(
            solver,
            Start(-problem.rows),
            tolerance=1e-8,
            max_iterations=5000,
            relax=relax,
            check_every=every,
        ).iterations
        for relax, every in ((True, 1), (True, 10), (False, 1))
    ]
    assert sweeps[1] <= 2 * sweeps[0] + 20
    assert sweeps[1] < sweeps[2]


@pytest.mark.slow
def test_memory_is_that_of_the_points():
    """The matrix of pairs would take 256 MB."""
    resource = pytest.importorskip("resource")
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(8000, 4, generator=g), torch.randn(8000, 4, generator=g) + 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sinkhorn(x0, x1, 0.2, reg_scale="mean_cost", tolerance=1e-2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000  # KiB


def test_warm_start_is_done_at_once():
    x0, x1, _, _ = clouds(100, 100, 2)
    cold = sinkhorn(x0, x1, 0.5)
    warm = sinkhorn(x0, x1, 0.5, warm_start=cold)
    assert warm.iterations < cold.iterations / 3
    again = sinkhorn(x0, x1, 0.5, warm_start=cold.g)
    assert again.iterations == warm.iterations


def test_annealing_changes_no_plan():
    x0, x1, _, _ = clouds(50, 50, 2)
    plans = [
        sinkhorn(x0, x1, 0.5, anneal=anneal, tolerance=1e-10).plan() for anneal in (True, False)
    ]
    torch.testing.assert_close(*plans, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"penalty": 1.0}, {"penalty": (math.inf, 0.5)}, {"mass": 0.4}]
)
def test_gradients(options):
    x0, x1, a, b = (t.requires_grad_() for t in clouds(4, 3, 2))

    def value(x0, x1, a, b):
        return sinkhorn(
            x0,
            x1,
            2.0,
            weights0=a.softmax(0),
            weights1=b.softmax(0),
            tolerance=1e-11,
            max_iterations=20000,
            **options,
        ).value

    assert torch.autograd.gradcheck(value, (x0, x1, a, b), atol=1e-6)


@pytest.mark.parametrize("penalty", [None, 1.0])
def test_gradients_of_the_divergence(penalty):
    x0, x1, a, b = (t.requires_grad_() for t in clouds(4, 3, 2))

    def value(x0, x1, a, b):
        return sinkhorn_divergence(
            x0,
            x1,
            2.0,
            weights0=a.softmax(0),
            weights1=b.softmax(0),
            penalty=penalty,
            tolerance=1e-11,
            max_iterations=20000,
        )

    assert torch.autograd.gradcheck(value, (x0, x1, a, b), atol=1e-6)


def test_divergence_is_zero_for_equal_measures_only():
    x0, x1, _, _ = clouds(40, 50, 3)
    shuffled = x0[torch.randperm(40)]
    assert abs(sinkhorn_divergence(x0, shuffled, 0.5).item()) < 1e-8
    assert sinkhorn_divergence(x0, x1, 0.5) > 1
    assert sinkhorn_divergence(x0, x1, 0.5, penalty=1.0) > 0.1


def test_divergence_of_shifted_gaussians():
    """At a common covariance the debiased value is the squared distance of the means."""
    x0, _, _, _ = clouds(300, 1, 2)
    shift = torch.tensor([3.0, -1.0], dtype=F64)
    found = sinkhorn_divergence(x0, x0 + shift, 0.5).item()
    assert found == pytest.approx(10.0, rel=1e-6)


def test_single_precision_is_double_precision():
    x0, x1, a, b = clouds(200, 300, 8)
    exact = sinkhorn(x0, x1, 0.5, weights0=a, weights1=b)
    found = sinkhorn(x0.float(), x1.float(), 0.5, weights0=a, weights1=b, tolerance=2e-6)
    assert found.value.item() == pytest.approx(exact.value.item(), rel=1e-5)
    torch.testing.assert_close(found.plan(), exact.plan(), rtol=1e-2, atol=1e-7)


def test_failure_is_never_silent():
    x0, x1, _, _ = clouds(50, 50, 2)
    with pytest.raises(SinkhornError, match=r"marginal error is .* after 3 sweeps") as caught:
        sinkhorn(x0, x1, 0.01, max_iterations=3, anneal=False)
    assert not caught.value.result.converged
    found = sinkhorn(x0, x1, 0.01, max_iterations=3, anneal=False, on_failure="return")
    assert not found.converged
    assert found.marginal_error > 1e-7
    assert "n=50, m=50, reg=0.01" in repr(found)
    assert "iterations=3, converged=False" in " ".join(repr(found).split())


def test_malformed_calls_name_the_argument():
    x0, x1, a, b = clouds(6, 5, 2)
    bad = x0.clone()
    bad[4, 1] = math.nan
    infinite = x1.clone()
    infinite[2, 0] = math.inf
    cases = [
        ((bad, x1, 0.5), {}, "x0: point 4"),
        ((x0, infinite, 0.5), {}, "x1: point 2"),
        ((x0[:0], x1, 0.5), {}, "x0: expected"),
        ((x0, x1[:, :1], 0.5), {}, "x1: expected points of shape"),
        ((x0.long(), x1, 0.5), {}, "x0: expected floating"),
        ((x0, x1, 0.0), {}, "reg=0.0"),
        ((x0, x1, math.nan), {}, "reg=nan"),
        ((x0, x1, 0.5), {"reg_scale": "mean"}, "reg_scale='mean': did you mean 'mean_cost'"),
        ((x0, x1, 0.5), {"weights0": a[:3]}, "weights0: expected"),
        ((x0, x1, 0.5), {"weights1": -b}, "weights1: expected finite numbers >= 0"),
        ((x0, x1, 0.5), {"weights1": 2 * b}, "weights1: expected the sum"),
        ((x0, x1, 0.5), {"mass": 1.5}, "mass=1.5"),
        ((x0, x1, 0.5), {"mass": 0.5, "penalty": 1.0}, "mass, penalty"),
        ((x0, x1, 0.5), {"penalty": (1.0, 2.0, 3.0)}, "penalty: expected one number or two"),
        ((x0, x1, 0.5), {"penalty": -1.0}, "penalty=-1.0"),
        ((x0, x1, 0.5), {"warm_start": b[:2]}, "warm_start"),
        ((x0, x1, 0.5), {"tolerance": 0.0}, "tolerance"),
        ((x0, x1, 0.5), {"max_iterations": 0}, "max_iterations"),
        ((x0, x1, 0.5), {"memory": -1}, "memory=-1"),
        ((x0, x1, 0.5), {"on_failure": "ignore"}, "on_failure"),
        ((x0[:1], x0[:1], 0.5), {"reg_scale": "mean_cost"}, "all points of x0 and x1 are equal"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            sinkhorn(*arguments, **options)
    with pytest.raises(TypeError, match="x0: expected a tensor"):
        sinkhorn([[1.0]], x1, 0.5)


def test_equal_points():
    x = torch.ones(5, 2)
    found = sinkhorn(x, x, 0.5)
    torch.testing.assert_close(found.plan(), torch.full((5, 5), 1 / 25, dtype=F64))


def test_images_are_points():
    x0, x1, _, _ = clouds(6, 5, 12)
    flat = sinkhorn(x0, x1, 0.5)
    found = sinkhorn(x0.reshape(6, 3, 2, 2), x1.reshape(5, 3, 2, 2), 0.5)
    assert torch.equal(found.g, flat.g)


def test_error_is_that_of_the_plan():
    x0, x1, a, b = clouds(80, 90, 5)
    for tolerance in (1e-2, 1e-4):
        found = sinkhorn(x0, x1, 0.5, weights0=a, weights1=b, tolerance=tolerance)
        plan = found.plan()
        assert (plan.sum(0) - b).abs().sum().item() == pytest.approx(found.marginal_error, rel=1e-6)
        torch.testing.assert_close(plan.sum(1), a, rtol=1e-9, atol=0)
        assert found.marginal_error <= tolerance


@pytest.mark.parametrize("kept", [None, Kept(2**20)])
def test_sweeps_are_half_steps(kept):
    """One pass and two passes over the pairs find the same, over-relaxed or not."""
    x0, x1, a, b = clouds(150, 120, 4)
    clouds_of = prepare(x0, x1, a, b)
    solver = EntropicSolver(clouds_of, 0.02, Marginals(), kept=kept)
    g = torch.Generator().manual_seed(3)
    F = -clouds_of.rows + 0.01 * torch.randn(150, generator=g, dtype=F64)
    G = -clouds_of.columns + 0.01 * torch.randn(120, generator=g, dtype=F64)
    for omega, far in ((1.0, 0), (1.6, 0), (1.6, 0.5), (1.6, 40)):
        G[:2] -= far  # at last the mass of these columns is below any number
        u, v = F / solver.eps, G / solver.eps + clouds_of.log_b
        sums, missed, excess = solver.sweep(u, v, omega)
        torch.testing.assert_close(sums, solver.log_sum_rows(G))
        fitted, level = solver.fit(sums, 0)
        best = solver.fit(solver.log_sum_columns(F + omega * (fitted - F)), 1)[0]
        torch.testing.assert_close(
            v - excess, best / solver.eps + clouds_of.log_b, rtol=0, atol=1e-11
        )
        expected = solver.error(G, level, solver.log_sum_columns(fitted), 1).item()
        assert missed == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("part", [0.5, 0.003])
def test_memory_changes_no_plan(dtype, part):
    x0, x1, a, b = clouds(300, 280, 6)
    x0, x1 = x0.to(dtype), x1.to(dtype)
    plans = [
        sinkhorn(x0, x1, part, reg_scale="mean_cost", weights0=a, weights1=b, memory=memory)
        for memory in (0, 2**27)
    ]
    assert all(p.converged for p in plans)
    missed = (plans[0].plan() - plans[1].plan()).abs().sum().item()
    assert missed <= 4 * max(p.marginal_error for p in plans)
    torch.testing.assert_close(plans[0].value, plans[1].value, rtol=1e-4, atol=0)


def test_a_gradient_of_a_value_has_no_derivative_and_says_so():
    x0, x1 = (x.requires_grad_() for x in clouds(5, 6, 2)[:2])
    for value in (
        sinkhorn_divergence(x0, x1, 0.5),
        sinkhorn(x0, x1, 0.5).value,
    ):
        (slope,) = torch.autograd.grad(value, x0, create_graph=True)
        with pytest.raises(RuntimeError, match="this gradient has no derivative"):
            slope.sum().backward()


def test_first_derivatives_of_the_divergence_in_every_mode():
    (x0, x1, *_), (u, *_) = clouds(5, 6, 2), clouds(5, 6, 2, seed=2)
    a, b = torch.linspace(0.1, 0.3, 5).double(), torch.full((6,), 1 / 6).double()
    a, du = a / a.sum(), torch.linspace(-1, 1, 5).double()

    def value(x0, a):
        return sinkhorn_divergence(
            x0, x1, 0.5, weights0=a, weights1=b, penalty=1.0, tolerance=1e-11
        )

    h = 1e-5
    wanted = (value(x0 + h * u, a + h * du) - value(x0 - h * u, a - h * du)) / (2 * h)
    found, tangent = torch.func.jvp(value, (x0, a), (u, du))
    assert torch.equal(found, value(x0, a))
    gx, ga = torch.func.grad(value, (0, 1))(x0, a)
    for slope in (tangent, (gx * u).sum() + (ga * du).sum()):
        assert slope.item() == pytest.approx(wanted.item(), rel=1e-6)
    with pytest.raises(ValueError, match="sinkhorn_divergence has first derivatives alone"):
        torch.func.hessian(value)(x0, a)
    with pytest.raises(ValueError, match="sinkhorn_divergence has first derivatives alone"):
        torch.autograd.functional.jvp(lambda x: torch.func.grad(value)(x, a), x0, u)
