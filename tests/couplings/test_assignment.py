"""Exact assignment against scipy, and the properties that make it one."""

import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgen import _C
from fastgen.couplings import Assignment, assign
from tests.support.assignments import linear_sum_assignment

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-11}
KINDS = ("matrix", "ties", "points", "lattice", "many dimensions")


def true_costs(x0, x1, root=False):
    squares = (x0.double()[:, None] - x1.double()[None]).square().sum(2)
    return squares.sqrt() if root else squares


def check(found: Assignment, costs: torch.Tensor, tolerance: float, rounding: float = 1e-13):
    """A pairing of least cost, with a proof; `rounding` of single costs, of the largest."""
    costs = costs.double()
    rows, columns = linear_sum_assignment(costs.numpy())
    least = costs[rows, columns].sum().item()
    i, j = found.indices()
    assert len(i) == min(costs.shape) == len(set(j.tolist()))
    cost = costs[i, j].sum().item()
    largest = costs.abs().max().item()
    allowed = tolerance * abs(least) + rounding * largest * len(i)
    assert cost - least <= allowed
    assert abs(found.cost - cost) <= allowed
    assert 0 <= found.gap <= 1.01 * allowed
    if found.duals is not None:
        u, v = found.duals
        assert (costs - u[:, None] - v[None]).min() >= -2 * rounding * largest
        slack = 4 * rounding * largest * sum(costs.shape)
        assert abs(cost - found.gap - (u.sum() + v.sum()).item()) <= slack


def random_problem(g, kind, n, m, dtype, scale=1.0, shift=0.0):
    """x0, x1, matrix (some None)."""

    def tensor(x):
        return torch.tensor(x * scale + shift, dtype=dtype)

    if kind == "matrix":
        matrix = g.random((n, m))
        if scale < 1e20 and g.random() < 0.2:
            matrix[g.integers(n), g.integers(m)] = 1e9  # one cost far above the others
        return None, None, tensor(matrix)
    if kind == "ties":
        return None, None, tensor(g.integers(0, 4, (n, m)).astype(float))
    d = int(g.integers(9, 40)) if kind == "many dimensions" else int(g.integers(1, 6))
    if kind == "lattice":
        return tensor(1.0 * g.integers(0, 3, (n, d))), tensor(1.0 * g.integers(0, 3, (m, d))), None
    return tensor(g.normal(size=(n, d))), tensor(g.normal(size=(m, d))), None


def check_random(g, kind, n, m, backend="auto"):
    dtype = torch.float32 if g.random() < 0.5 else torch.float64
    scale = 10.0 ** g.integers(-30, 31) if g.random() < 0.3 else 1.0
    shift = 1000.0 if scale == 1 and g.random() < 0.3 else 0.0
    x0, x1, matrix = random_problem(g, kind, n, m, dtype, scale, shift)
    if matrix is not None:
        found = assign(cost=matrix, return_duals=True, backend=backend)
        check(found, matrix, TOLERANCE[dtype])
        return
    root = bool(g.random() < 0.3)
    cost = "euclidean" if root else "sqeuclidean"
    found = assign(x0, x1, cost=cost, return_duals=True, backend=backend)
    product = kind == "many dimensions" and dtype == torch.float32
    # Products of float32 lose digits of single costs, more if the clouds are far from 0.
    rounding = (1e-4 if shift else 1e-6) if product else 1e-12
    check(found, true_costs(x0, x1, root), TOLERANCE[dtype], rounding)


@pytest.mark.parametrize("n", range(1, 65))
def test_every_small_size(n):
    g = np.random.default_rng(n)
    for kind in KINDS:
        check_random(g, kind, n, n)
        check_random(g, kind, n, int(g.integers(1, 65)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand(seed):
    g = np.random.default_rng(1000 + seed)
    for _ in range(1000):
        n = int(g.integers(1, 65))
        check_random(g, g.choice(KINDS), n, n if g.random() < 0.5 else int(g.integers(1, 65)))


@pytest.mark.parametrize("isa", _C.supported_isas())
def test_isas_agree(isa):
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(1300, 2, generator=g), torch.randn(1300, 2, generator=g)
    y0, y1 = torch.randn(600, 20, generator=g), torch.randn(600, 20, generator=g)
    before = _C.isa()
    expected = [assign(x0, x1).permutation, assign(y0, y1).permutation]
    try:
        _C.set_isa(isa)
        assert torch.equal(assign(x0, x1).permutation, expected[0])
        assert torch.equal(assign(y0, y1).permutation, expected[1])
    finally:
        _C.set_isa(before)


@pytest.mark.parametrize("kind", KINDS)
def test_reference(kind):
    g = np.random.default_rng(5)
    for n, m in [(1, 1), (1, 5), (7, 7), (20, 13), (13, 20)]:
        check_random(g, kind, n, m, backend="reference")


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        (600, 600, 2),
        (650, 650, 3),
        (500, 700, 2),
        (300, 900, 2),
        (700, 700, 5),
        (700, 700, 12),
        (1100, 1100, 2),
        (1100, 1100, 3),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large(n, m, d, dtype):
    g = torch.Generator().manual_seed(n)
    x0 = torch.randn(n, d, generator=g, dtype=dtype)
    x1 = torch.rand(m, d, generator=g, dtype=dtype) * 2
    found = assign(x0, x1, return_duals=True)
    rounding = 1e-6 if d > 8 and dtype == torch.float32 else 1e-12
    check(found, true_costs(x0, x1), TOLERANCE[dtype], rounding)
    check(assign(cost=true_costs(x0, x1)), true_costs(x0, x1), 1e-11)


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_equivariance(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2))
    perm, cost, _ = assign(x0, x1)
    close = {"rel": 1e-10, "abs": 1e-12}
    p, q = torch.randperm(n, generator=g), torch.randperm(n, generator=g)
    assert torch.equal(q[assign(x0[p], x1[q]).permutation], perm[p])
    assert torch.equal(assign(x1, x0).permutation[perm], torch.arange(n))
    assert torch.equal(assign(x0 + 3, x1 - 5).permutation, perm)
    assert torch.equal(assign(x0 * 2, x1 * 2).permutation, perm)
    assert assign(x0 * 2, x1 * 2).cost == pytest.approx(4 * cost, **close)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    assert assign(x0 @ rotation, x1 @ rotation).cost == pytest.approx(cost, **close)


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_warm_start_has_the_same_cost(n, seed):
    g = torch.Generator().manual_seed(seed)
    for d in (2, 12):
        x0, x1 = (torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2))
        cold = assign(x0, x1, return_duals=True)
        warm = assign(x0, x1, warm_start=cold)
        other = assign(x0, x1, warm_start=torch.randn(n, generator=g))
        assert torch.equal(cold.permutation, warm.permutation)
        assert torch.equal(cold.permutation, other.permutation)


@pytest.mark.parametrize(("n", "d"), [(1500, 2), (1500, 16), (200, 3)])
def test_threads_change_nothing(n, d):
    g = torch.Generator().manual_seed(1)
    x0, x1 = torch.randn(n, d, generator=g), torch.rand(n, d, generator=g)
    one = assign(x0, x1, threads=1, return_duals=True)
    for threads in (2, 3, 2**40):
        many = assign(x0, x1, threads=threads, return_duals=True)
        assert torch.equal(one.permutation, many.permutation)
        assert (one.cost, one.gap) == (many.cost, many.gap)
        assert torch.equal(one.duals[1], many.duals[1])


@pytest.mark.parametrize("d", [2, 20])
def test_batched(d):
    g = torch.Generator().manual_seed(2)
    x0, x1 = torch.randn(5, 30, d, generator=g), torch.randn(5, 40, d, generator=g)
    for first, second in ((x0, x1), (x1, x0)):
        many = assign(first, second, batched=True, threads=2, return_duals=True)
        for k in range(5):
            one = assign(first[k], second[k], return_duals=True)
            assert torch.equal(many.permutation[k], one.permutation)
            assert many.cost[k].item() == pytest.approx(one.cost, rel=1e-6)
            torch.testing.assert_close(many.duals[0][k], one.duals[0], rtol=1e-4, atol=1e-4)
    costs = torch.rand(3, 9, 8, generator=g)
    many = assign(cost=costs, batched=True)
    for k in range(3):
        assert torch.equal(many.permutation[k], assign(cost=costs[k]).permutation)


@pytest.mark.parametrize(("n", "d"), [(60, 2), (900, 2), (600, 16)])
def test_epsilon_keeps_its_promise(n, d):
    g = torch.Generator().manual_seed(3)
    x0, x1 = torch.randn(n, d, generator=g), torch.rand(n, d, generator=g)
    exact = assign(x0, x1)
    box = torch.cat([x0 - x0.mean(0), x1 - x1.mean(0)])
    span = (box.amax(0) - box.amin(0)).square().sum().item()
    for epsilon in (1e-1, 1e-3):
        found = assign(x0, x1, mode="eps", epsilon=epsilon)
        assert sorted(found.permutation.tolist()) == list(range(n))
        excess = found.cost - exact.cost
        assert -1e-6 * exact.cost <= excess <= found.gap + exact.gap
        assert found.gap <= 1.01 * n * epsilon * span


def test_result_unpacks():
    x = torch.randn(4, 3)
    found = assign(x, x)
    permutation, cost, gap = found
    assert found[0] is permutation
    assert (found[1], found[2], len(found)) == (cost, gap, 3)
    assert torch.equal(permutation, torch.arange(4))
    assert cost == 0
    left_over = assign(torch.randn(5, 3), x).permutation
    assert (left_over == -1).sum() == 1


def test_image_and_scalar_points():
    x = torch.randn(6, 3, 4, 4)
    assert torch.equal(assign(x, x.flip(0)).permutation, torch.arange(5, -1, -1))
    assert assign(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([5.0, 0.0, 1.0])).cost == 0
    assert assign(x.bfloat16(), x.flip(0).bfloat16()).permutation[0] == 5


class TestTies:
    """With bounded time: a run that hangs fails by the clock."""

    N = 1024

    @pytest.fixture(autouse=True)
    def _clock(self):
        before = time.process_time()
        yield
        assert time.process_time() - before < 20

    def lattice(self):
        side = torch.arange(32.0)
        return torch.cartesian_prod(side, side)

    def test_identity(self):
        x = torch.randn(self.N, 2)
        found = assign(x, x)
        assert torch.equal(found.permutation, torch.arange(self.N))
        assert found.cost == 0

    def test_constant(self):
        found = assign(torch.zeros(self.N, 3), torch.ones(self.N, 3))
        assert sorted(found.permutation.tolist()) == list(range(self.N))
        assert found.cost == pytest.approx(3 * self.N)
        assert assign(cost=torch.full((5, 7), 2.0)).cost == 10

    @pytest.mark.parametrize("d", [2, 16])
    def test_four_targets(self, d):
        g = torch.Generator().manual_seed(0)
        x0 = torch.randn(self.N, d, generator=g)
        x1 = torch.randn(4, d, generator=g)[torch.randint(4, (self.N,), generator=g)]
        check(assign(x0, x1), true_costs(x0, x1), 1e-6, 1e-6)

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("d", [2, 16, 0])
    @pytest.mark.parametrize("kinds", [2, 5, 600])
    def test_copies_among_others(self, kinds, d, transposed):
        """Half of the points, or as many as are left, are copies of one; d = 0 gives the matrix."""
        g = torch.Generator().manual_seed(kinds)
        x0, x1 = torch.randn(2, 700, d or 12, generator=g).unbind(0)
        x1[kinds:] = x1[0]
        for rows in (700, 620, 200):  # all, most and few of the columns
            a, b = (x1, x0[:rows]) if transposed else (x0[:rows], x1)
            costs = true_costs(a, b)
            found = assign(cost=costs, return_duals=True) if d == 0 else assign(a, b)
            check(found, costs, 1e-12 if d == 0 else 1e-6, 1e-6 if d == 16 else 1e-12)

    def test_copies_of_rows_and_columns(self):
        g = torch.Generator().manual_seed(3)
        x0, x1 = torch.randn(2, 4, 16, generator=g).unbind(0)
        x0, x1 = (x.repeat(self.N // 4, 1).double() for x in (x0, x1))
        check(assign(x0, x1, return_duals=True), true_costs(x0, x1), 1e-12)

    def test_copies_up_to_rounding(self):
        """Products of equal points may differ in the last digit; the gap allows for that."""
        g = torch.Generator().manual_seed(4)
        costs = torch.rand(self.N, 4, generator=g).repeat(1, self.N // 4) + 1
        costs = costs * (1 + 6e-8 * (torch.rand(self.N, self.N, generator=g) - 0.5))
        assert len(costs[0].unique()) > 4
        check(assign(cost=costs), costs, 1e-6)

    def test_costs_near_for_the_largest_are_no_copies(self):
        for n in (1, 30):
            costs = torch.rand(n, 50, generator=torch.Generator().manual_seed(6))
            costs[0, 7] = 1e9
            check(assign(cost=costs), costs, 1e-6)

    @pytest.mark.parametrize("d", [2, 64])
    def test_kinds_in_turn_take_no_longer(self, d):
        """A sample of every fourth column would see one of the four clusters."""
        g = torch.Generator().manual_seed(0)
        x0, centres = torch.randn(self.N, d, generator=g), 2 * torch.randn(4, d, generator=g)
        in_turn = centres.repeat(self.N // 4, 1) + 1e-3 * torch.randn(self.N, d, generator=g)
        shuffled = in_turn[torch.randperm(self.N, generator=g)]
        times = []
        for x1 in (in_turn, shuffled):
            check(assign(x0, x1), true_costs(x0, x1), 1e-6, 1e-6)
            runs = []
            for _ in range(3):
                before = time.thread_time()
                assign(x0, x1, threads=1)
                runs.append(time.thread_time() - before)
            times.append(min(runs))
        assert times[0] < 6 * times[1]  # it was 12 times

    def test_copies_start_warm(self):
        g = torch.Generator().manual_seed(5)
        x0 = torch.randn(self.N, 2, generator=g)
        x1 = torch.randn(4, 2, generator=g).repeat(self.N // 4, 1)
        cold = assign(x0, x1, return_duals=True)
        for a, b in ((x0, x1), (x1, x0)):
            start = assign(a, b, return_duals=True)
            check(assign(a, b, warm_start=start), true_costs(a, b), 1e-6)
        assert cold.cost == pytest.approx(start.cost)

    def test_lattices(self):
        x = self.lattice()
        shuffled = x[torch.randperm(self.N, generator=torch.Generator().manual_seed(0))]
        assert assign(x, shuffled).cost == 0
        y = torch.randn(self.N, 2, generator=torch.Generator().manual_seed(1)) * 8 + 16
        check(assign(y, x), true_costs(y, x), 1e-6)

    def test_few_values(self):
        g = torch.Generator().manual_seed(0)
        costs = torch.randint(0, 3, (self.N, self.N), generator=g).float()
        assert assign(cost=costs).cost == 0
        assert assign(cost=costs[:, :700]).cost == 0


class TestRegressions:
    """Each was a bug of a prototype."""

    def test_far_from_the_origin(self):
        """Epsilon below the spacing of the prices: the auction never ended."""
        x0, x1 = torch.randn(300, 2), torch.randn(300, 2)
        far = assign(x0 + 1000, x1 + 1000)
        check(far, true_costs(x0 + 1000, x1 + 1000), 1e-6)

    def test_no_range(self):
        """Epsilon was a part of the range, and 0."""
        assert assign(cost=torch.zeros(3, 3)).cost == 0
        assert assign(torch.ones(600, 2), torch.ones(600, 2)).gap == 0

    def test_one_point(self):
        """No second-best bid."""
        assert assign(torch.tensor([[2.0]]), torch.tensor([[5.0]])).cost == 9
        assert assign(cost=torch.tensor([[-7.0]])).permutation.tolist() == [0]

    def test_costs_as_far_apart_as_can_be(self):
        """A sentinel overflowed and spoilt a path."""
        costs = torch.eye(200, dtype=torch.float64) * 1e300
        check(assign(cost=costs), costs, 1e-11)
        costs = torch.full((64, 64), -3e38)
        costs.fill_diagonal_(3e38)
        assert assign(cost=costs).cost == pytest.approx(64 * -3e38, rel=1e-6)

    def test_columns_left_over_are_not_centred_away(self):
        """Constants of columns matter where a column may stay free."""
        x0, x1 = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [9.0, 9.0], [2.0, 0.0]])
        assert assign(x0, x1).permutation.tolist() == [0]
        y0, y1 = torch.zeros(1, 12), torch.eye(12)[:3] * torch.tensor([[3.0], [1.0], [2.0]])
        assert assign(y0, y1).permutation.tolist() == [1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: assign(x * torch.nan, x), ValueError, "x0: expected finite"),
        (lambda x: assign(x, x / 0), ValueError, "x1: expected finite"),
        (lambda x: assign(x[:0], x), ValueError, "x0: .*not empty"),
        (lambda x: assign(x, x[:, :1]), ValueError, "x1: expected points of 2"),
        (lambda x: assign(x), TypeError, "x0 and x1"),
        (lambda x: assign(x, x, cost="cosine"), ValueError, "cost='cosine'"),
        (lambda x: assign(cost=-x * torch.inf), ValueError, "cost: expected finite"),
        (lambda x: assign(cost=(x * torch.nan).double()), ValueError, "cost: expected finite"),
        (lambda x: assign(cost=x[0]), ValueError, "cost: expected a matrix"),
        (lambda x: assign(cost=3), TypeError, "cost: "),
        (lambda x: assign(x, x, cost=x), ValueError, "x1: expected 2 points"),
        (lambda x: assign(x, x, mode="fast"), ValueError, "mode='fast'"),
        (lambda x: assign(x, x, epsilon=0.1), ValueError, "mode='exact'"),
        (lambda x: assign(x, x, mode="eps", epsilon=0), ValueError, "epsilon=0"),
        (lambda x: assign(x, x, backend="cuda"), ValueError, "backend='cuda'"),
        (lambda x: assign(x, x, threads=0), ValueError, "threads=0"),
        (lambda x: assign(x, x[:2], warm_start=torch.ones(2)), ValueError, "warm_start: for as"),
        (lambda x: assign(x, x, warm_start=torch.ones(2)), ValueError, "warm_start: expected 3"),
        (lambda x: assign(x, x, warm_start=assign(x, x)), ValueError, "warm_start: .*no duals"),
        (lambda x: assign(x.to(torch.cfloat), x), TypeError, "x0: expected real"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("bad", ["x0", "x1"])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 9), (9, 5)])
def test_bad_numbers_are_found(n, m, bad, d, backend):
    clouds = {"x0": torch.rand(n, d), "x1": torch.rand(m, d)}
    for value in (torch.nan, torch.inf, -torch.inf):
        clouds[bad][3, 1] = value
        with pytest.raises(ValueError, match=f"{bad}: expected finite numbers"):
            assign(clouds["x0"], clouds["x1"], backend=backend)


def test_ctrl_c():
    """SIGINT stops a run of minutes, soon."""
    program = textwrap.dedent("""
        import torch, fastgen, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
        x0, x1 = torch.randn(60000, 2), torch.rand(60000, 2)
        print("ready", flush=True)
        try:
            fastgen.couplings.assign(x0, x1)
        except KeyboardInterrupt:
            sys.exit(33)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 33
    finally:
        process.kill()
        process.stdout.close()
