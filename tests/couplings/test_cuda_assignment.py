"""The CUDA kernels: run on the CPU in full, compiled by NVRTC and nvcc, and run where a GPU is."""

import ctypes
import os
import re
import shutil
import subprocess

import cuda_on_host
import numpy as np
import pytest
import torch
from test_assignment import KINDS, TOLERANCE, check, random_problem, true_costs

from fastgen.couplings import Assignment, ExactOT, assign, costs
from fastgen.kernels.assignment import cuda, nvrtc
from fastgen.kernels.assignment.contract import Options
from tests.support.assignments import linear_sum_assignment

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return cuda_on_host.build(tmp_path_factory.mktemp("cuda_on_host"))


@pytest.fixture
def device(library, monkeypatch):
    """Sets how many blocks there are for each problem, and who runs first."""

    def use(processors=1, seed=1, threads=64):
        library.fastgen_test_seed(seed)
        found = cuda_on_host.runtime(library, processors, threads)
        monkeypatch.setattr(cuda, "runtime", lambda _: found)
        # Several blocks for small problems, too.
        monkeypatch.setattr(cuda, "ONE_BLOCK", 256 if processors == 1 else 20)

    use()
    return use


def numbers(found: Assignment) -> Assignment:
    """With cost and gap as numbers; on the device they are tensors."""
    assert found.cost.shape == found.gap.shape == ()
    return Assignment(found.permutation, found.cost.item(), found.gap.item(), found.duals)


def solve_random(g, kind, n, m):
    dtype = torch.float32 if g.random() < 0.5 else torch.float64
    scale = 10.0 ** g.integers(-30, 31) if g.random() < 0.3 else 1.0
    shift = 1000.0 if scale == 1 and g.random() < 0.3 else 0.0
    x0, x1, matrix = random_problem(g, kind, n, m, dtype, scale, shift)
    if matrix is not None:
        found = assign(cost=matrix, return_duals=True, backend="cuda")
        check(numbers(found), matrix, TOLERANCE[dtype])
        return
    root = bool(g.random() < 0.3)
    cost = "euclidean" if root else "sqeuclidean"
    found = assign(x0, x1, cost=cost, return_duals=True, backend="cuda")
    # In many dimensions costs are products in float64, of clouds that lost their means.
    check(numbers(found), true_costs(x0, x1, root), TOLERANCE[dtype], 1e-12)


def test_layout(library):
    """What Python and C++ say about sizes."""
    assert library.fastgen_test_problem_size() == ctypes.sizeof(cuda.Arguments)
    assert library.fastgen_test_shared_size() == cuda.SHARED
    assert library.fastgen_test_token_size() == cuda.TOKEN
    text = (cuda_on_host.SOURCES / "problem.cuh").read_text()
    body = text[text.index("struct Problem {") : text.index("enum Count")]
    body = re.sub(r"//.*", "", body)
    names = [
        name.strip(" *\n")
        for declaration in re.findall(r"\w+[ *]+(\w+(?:, \*?\w+)*);", body)
        for name in declaration.split(",")
    ]
    assert names == [name for name, _ in cuda.Arguments._fields_]
    counts = re.search(r"enum Count \{ (.*), COUNTS \}", text).group(1)
    assert [c.replace("_", " ").lower() for c in counts.split(", ")] == list(cuda.COUNTS)


@pytest.mark.parametrize("n", range(1, 65))
def test_every_small_size(device, n):
    g = np.random.default_rng(n)
    device(1 + (n % 8 == 0) * 2, n)
    solve_random(g, KINDS[n % 5], n, n if n % 2 else int(g.integers(1, 65)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many(device, seed):
    g = np.random.default_rng(seed)
    for k in range(100):
        device(int(g.integers(1, 5)), k)
        n = int(g.integers(1, 65))
        m = n if g.random() < 0.5 else int(g.integers(1, 65))
        solve_random(g, g.choice(KINDS), n, m)


@pytest.mark.parametrize(
    ("kind", "n", "m"),
    [
        ("matrix", 150, 150),
        ("points", 129, 129),
        ("many dimensions", 96, 100),
        ("lattice", 90, 90),
        ("ties", 90, 70),
        ("points", 30, 90),
    ],
)
@pytest.mark.parametrize("buffered", [True, False])
def test_larger(device, monkeypatch, kind, n, m, buffered):
    """With levels in memory, and computed when they are needed."""
    if not buffered:
        if kind not in ("points", "lattice"):
            pytest.skip("costs that are given are always in memory")
        monkeypatch.setattr(cuda, "BUFFERED_BYTES", 0)
    device(2)
    solve_random(np.random.default_rng(n), kind, n, m)


@pytest.mark.parametrize("kind", ["points", "ties", "lattice"])
@pytest.mark.parametrize("buffered", [True, False])
def test_no_order_shows(device, monkeypatch, kind, buffered):
    """Same bits whatever the number of blocks and threads and the order in which they run."""
    if not buffered:
        monkeypatch.setattr(cuda, "BUFFERED_BYTES", 0)
    g = np.random.default_rng(3)
    x0, x1, matrix = random_problem(g, kind, 50, 50, torch.float32)
    options = {"return_duals": True, "backend": "cuda"}
    options |= {} if matrix is None else {"cost": matrix}
    found = []
    for processors, seed, threads in ((2, 1, 64), (2, 2, 64), (3, 3, 128)):
        device(processors, seed, threads)
        found.append(assign(x0, x1, **options))
    for other in found[1:]:
        assert torch.equal(found[0].permutation, other.permutation)
        assert torch.equal(found[0].gap, other.gap)
        assert torch.equal(found[0].duals[0], other.duals[0])
        assert torch.equal(found[0].duals[1], other.duals[1])


def test_paths_alone(tmp_path, monkeypatch):
    """Phases that end at once leave all rows to the searches, many of which meet."""
    library = cuda_on_host.build(tmp_path, "-DFASTGEN_PHASE_ENDS=2", "-DFASTGEN_FACTOR=100")
    found = cuda_on_host.runtime(library, 3)
    monkeypatch.setattr(cuda, "runtime", lambda _: found)
    monkeypatch.setattr(cuda, "ONE_BLOCK", 20)
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 150, 3, generator=g).unbind()
    for target in (x1, x1[:4].repeat(38, 1)[:150], x1[:149]):
        check(
            numbers(assign(x0, target, backend="cuda", return_duals=True)),
            true_costs(x0, target),
            1e-6,
        )
    problem = costs.problem(x0, x1, "sqeuclidean", False)
    counts = cuda.solve_with(problem, Options(), found).counts[0].tolist()
    counts = dict(zip(cuda.COUNTS, counts, strict=True))
    assert (counts["rounds"], counts["free"]) == (0, 150)
    # Two rounds for 128 searches and the rest, if no trees met; one after another, 150.
    assert 2 < counts["search rounds"] < 150


@pytest.mark.parametrize("processors", [1, 8])
def test_batched(device, processors):
    g = torch.Generator().manual_seed(2)
    device(processors)
    for d in (2, 20):
        x0, x1 = torch.randn(3, 30, d, generator=g), torch.randn(3, 40, d, generator=g)
        for first, second in ((x0, x1), (x1, x0)):
            many = assign(first, second, batched=True, return_duals=True, backend="cuda")
            for k in range(3):
                one = assign(first[k], second[k], return_duals=True)
                assert torch.equal(many.permutation[k], one.permutation)
                assert many.cost[k].item() == pytest.approx(one.cost, rel=1e-6)
                costs = true_costs(first[k], second[k])
                found = Assignment(
                    many.permutation[k],
                    many.cost[k].item(),
                    many.gap[k].item(),
                    (many.duals[0][k], many.duals[1][k]),
                )
                check(found, costs, 1e-6)


def test_epsilon_and_warm_start(device):
    x0, x1 = torch.randn(2, 80, 2, generator=torch.Generator().manual_seed(4)).unbind()
    exact = assign(x0, x1, backend="cuda", return_duals=True)
    for epsilon in (1e-1, 1e-3):
        found = assign(x0, x1, mode="eps", epsilon=epsilon, backend="cuda")
        assert sorted(found.permutation.tolist()) == list(range(80))
        assert -1e-6 <= found.cost - exact.cost <= found.gap + 1e-6
    for start in (exact, torch.randn(80), torch.full((80,), torch.nan)):
        warm = assign(x0, x1, warm_start=start, backend="cuda")
        assert torch.equal(warm.permutation, exact.permutation)


def test_numbers_that_are_not_finite(device):
    """The result says so, and cannot be used as an index."""
    good = torch.randn(2, 6, 3)
    bad = good.clone()
    bad[1, 2, 1] = torch.nan
    found = assign(bad, good, batched=True, backend="cuda")
    assert found.cost.isnan().tolist() == found.gap.isnan().tolist() == [False, True]
    assert (found.permutation[1] == 6).all()
    assert sorted(found.permutation[0].tolist()) == list(range(6))
    for value in (torch.inf, -torch.inf, torch.nan):
        costs = torch.rand(5, 7)
        costs[4, 6] = value
        for given in (costs, costs.T):
            found = assign(cost=given, backend="cuda")
            assert found.cost.isnan()
            with pytest.raises(IndexError):
                torch.arange(given.shape[1])[found.permutation]


KINDS_OF_NUMBERS = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)


@pytest.mark.parametrize("dtype", KINDS_OF_NUMBERS, ids=str)
def test_numbers_of_every_kind(device, dtype):
    """Whole numbers count exactly, and views are read as they are."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.randint(0, 2 if dtype == torch.bool else 60, (12, 17), generator=generator)
    rows, columns = linear_sum_assignment(whole.numpy())
    best = whole[rows, columns].sum()
    for given in (whole.to(dtype), whole.to(dtype).T):
        found = assign(cost=given, backend="cuda")
        assert found.cost == best
        assert found.gap < 1e-4
    if dtype == torch.int64:
        assert assign(cost=whole + 2**45, backend="cuda").cost == best + 12 * 2**45
        with pytest.raises(ValueError, match="cost: whole numbers beyond 2\\^53"):
            assign(cost=whole + 2**53 + 1, backend="cuda")
    if dtype.is_floating_point:
        found = assign(cost=torch._neg_view(-whole.to(dtype)), backend="cuda")
        assert found.cost == best
        x = whole.to(dtype)
        expected = assign(x, x.flip(0) + 1, backend="reference")
        found = assign(torch._neg_view(-x), x.flip(0) + 1, backend="cuda")
        assert found.cost == pytest.approx(expected.cost)
    with pytest.raises(TypeError, match="cost: expected real numbers"):
        assign(cost=whole.to(torch.complex64), backend="cuda")


def test_no_gap_is_too_small_whatever_the_range(device):
    """A pairing is what the gap says, or cannot be used."""
    generator = torch.Generator().manual_seed(0)
    for size in (1e3, 1e8, 1e12, 1e15, 1e100, 1e279, 1e300, 1.7e308):
        costs = torch.rand(9, 9, generator=generator, dtype=torch.float64)
        costs[0, 0], costs[1, 1] = size, -size
        costs[2, 3:6] = size
        found = assign(cost=costs, backend="cuda")
        if size > 1e280:
            assert found.cost.isnan()
            assert (found.permutation == 9).all()
            continue
        rows, columns = linear_sum_assignment(costs.numpy())
        best = costs[rows, columns].sum()
        assert found.cost - best <= found.gap + 1e-12 * best.abs()


@pytest.mark.parametrize("n", [1, 3, 200])
def test_no_range(device, n):
    assert assign(torch.ones(n, 2), torch.ones(n, 2), backend="cuda").gap == 0
    found = assign(cost=torch.full((n, n), -2.0), backend="cuda")
    assert found.cost == -2 * n
    assert sorted(found.permutation.tolist()) == list(range(n))


def test_too_large(device, library, monkeypatch):
    limited = cuda.Runtime(nvrtc.Module(library, b""), 1, 3000)
    monkeypatch.setattr(cuda, "runtime", lambda _: limited)
    with pytest.raises(ValueError, match="x1: 1 problems of 300 points"):
        assign(torch.randn(300, 2), torch.randn(300, 2), backend="cuda")


def test_switch(monkeypatch):
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="backend='cuda' is for tensors on an NVIDIA GPU"):
        assign(x, x, backend="cuda")
    monkeypatch.setenv("FASTGEN_CUDA_ASSIGN", "1")
    assert assign(x, x).cost == 0  # tensors on the CPU stay there
    monkeypatch.setenv("FASTGEN_CUDA_ASSIGN", "yes")
    with pytest.raises(ValueError, match="FASTGEN_CUDA_ASSIGN='yes'"):
        assign(x, x)


def nvrtc_library():
    try:
        return nvrtc.library()
    except OSError as error:
        pytest.skip(str(error))


def test_the_file_beside_nvrtc_is_loaded(tmp_path):
    """NVRTC asks for it by its bare name, which finds what is loaded."""
    if os.name == "nt" or shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    for name, source in (
        ("libnvrtc.so.99", "int nvrtcVersion(void) { return 0; }"),
        ("libnvrtc-builtins.so.99.1", "int there(void) { return 7; }"),
    ):
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(tmp_path / name)]
        command.append(f"-Wl,-soname,{name}")
        subprocess.run(command, input=source, text=True, check=True)
    with pytest.raises(OSError, match="libnvrtc-builtins"):
        ctypes.CDLL("libnvrtc-builtins.so.99.1")
    nvrtc.load_builtins(ctypes.CDLL(str(tmp_path / "libnvrtc.so.99")))
    assert ctypes.CDLL("libnvrtc-builtins.so.99.1").there() == 7


def test_nvrtc(tmp_path, monkeypatch):
    nvrtc_library()
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path))
    image = nvrtc.cached(*cuda.sources(), "sm_90")
    assert image[:4] == b"\x7fELF"
    assert b"fastgen_assign_levels" in image
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"kept")
    assert nvrtc.cached(*cuda.sources(), "sm_90") == b"kept"
    with pytest.raises(RuntimeError, match="nonsense"):
        nvrtc.compile_source("nonsense", {}, "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ahead_of_time(architecture):
    """By nvcc, without a stack and without spills."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    from fastgen.kernels.assignment.cuda_aot import judge

    for figures in judge(architecture):
        assert (figures.stack, figures.spills) == (0, 0), figures


@pytest.mark.gpu
class TestOnDevice:
    @pytest.fixture(autouse=True)
    def _device(self):
        if not torch.cuda.is_available() or torch.version.hip:
            pytest.skip("no NVIDIA GPU")

    @pytest.mark.parametrize("n", [1, 2, 31, 64, 200, 257, 700, 1500])
    @pytest.mark.parametrize("kind", KINDS)
    def test_beside_the_host(self, kind, n):
        g = np.random.default_rng(n)
        for m in (n, max(1, n - 7), n + 100):
            x0, x1, matrix = random_problem(g, kind, n, m, torch.float32)
            options = {"return_duals": True}
            if matrix is not None:
                found = assign(cost=matrix.cuda(), backend="cuda", **options)
                costs = matrix
            else:
                found = assign(x0.cuda(), x1.cuda(), backend="cuda", **options)
                costs = true_costs(x0, x1)
            duals = tuple(dual.cpu() for dual in found.duals)
            on_host = Assignment(found.permutation.cpu(), found.cost, found.gap, duals)
            check(numbers(on_host), costs, 1e-6, 1e-12)

    def test_same_bits_as_the_harness(self, library):
        """The kernels on the CPU and on the device, in float64 and integers throughout."""
        x0, x1 = torch.randn(2, 200, 2, generator=torch.Generator().manual_seed(0)).unbind()
        on_host = cuda_on_host.runtime(library, 1)
        problem = costs.problem(x0, x1, "sqeuclidean", False)
        expected = cuda.solve_with(problem, Options(), on_host)
        found = assign(x0.cuda(), x1.cuda(), backend="cuda")
        assert torch.equal(found.permutation.cpu(), expected.match[0])

    def test_deterministic(self):
        x0, x1 = torch.randn(2, 2000, 2, device="cuda").unbind()
        first = assign(x0, x1, backend="cuda", return_duals=True)
        for _ in range(5):
            again = assign(x0, x1, backend="cuda", return_duals=True)
            assert torch.equal(first.permutation, again.permutation)
            assert torch.equal(first.duals[1], again.duals[1])

    def test_nothing_waits(self):
        x0, x1 = torch.randn(2, 600, 2, device="cuda").unbind()
        assign(x0, x1, backend="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = assign(x0, x1, backend="cuda")
            paired = x1[found.permutation]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert (x0 - paired).square().sum().item() == pytest.approx(found.cost.item(), rel=1e-5)

    def test_switch(self, monkeypatch):
        x0, x1 = torch.randn(2, 100, 2, device="cuda").unbind()
        copied = assign(x0, x1)
        assert isinstance(copied.cost, float)
        monkeypatch.setenv("FASTGEN_CUDA_ASSIGN", "1")
        found = assign(x0, x1)
        assert found.cost.device.type == "cuda"
        assert torch.equal(found.permutation, copied.permutation)
        _, j = ExactOT(backend="cuda")(x0, x1)
        assert torch.equal(j, found.permutation)
