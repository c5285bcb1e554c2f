"""The operations of error-controlled steps: C++ and Triton against the reference, one by one.

Where Triton runs: `tests/support/triton_device.py`.
"""

import math

import pytest
import torch

from fastgen.kernels.runge_kutta.contract import (
    FEWER_ROWS,
    FINISHED,
    Control,
    Count,
    Status,
    Workspace,
)
from fastgen.kernels.runge_kutta.reference import ReferenceOperations, lane_sum
from fastgen.ode import Controller, Execution, tableaus
from tests.support import triton_device

ROWS = 6
DEVICE = {"reference": "cpu", "cpp": "cpu", "triton": triton_device.DEVICE}
TRITON = pytest.param("triton", marks=triton_device.MARKS)


def triton_operations():
    pytest.importorskip("triton")
    with triton_device.defining_kernels():
        from fastgen.kernels.runge_kutta.triton import TritonOperations
    return TritonOperations


def operations(name):
    if name == "triton":
        return triton_operations()
    from fastgen.kernels.runge_kutta.cpp import CppOperations

    return CppOperations


def workspace(method, elements, dtype, controller="pid", segments=None, by_row=False, **options):
    """A workspace in the middle of a solve: some rows about to be refused, one ended, one NaN."""
    generator = torch.Generator().manual_seed(elements)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tableau = tableaus.ADAPTIVE[method]
    times = torch.linspace(0, 1, 5).double()
    if by_row:
        times = times * torch.tensor([1, 1, -1, 1, 1, -1.0]).double()[:, None]
    control = Controller.of(controller, min_step=1e-9, max_step=0.5)
    sizes = control.step_size(tableau.order, 100)
    if "live" in options:  # of each sample's segments, some empty
        options["live"] = torch.tensor(options["live"]).repeat(ROWS // 2, 1)
    w = Workspace.allocate(
        normal(ROWS, elements).to(dtype),
        tableau.matrix,
        tableau.nodes,
        tableau.errors,
        tableau.polynomials,
        torch.tensor([elements] if segments is None else segments),
        times,
        sizes,
        **options,
    )
    w.k.copy_(normal(*w.k.shape))
    for buffer in (w.y_new, w.stage, w.ys):
        buffer.fill_(math.nan)
    end = times[..., -1].expand(ROWS)
    w.control[Control.TIME] = 0.1 * end
    w.control[Control.END] = end
    w.control[Control.RTOL] = torch.tensor([1e-1, 1e-3, 1e-2, 1e-1, 1e-1, 1.0])
    w.control[Control.ATOL] = torch.tensor([1e-1, 1e-4, 1e-2, 1e-1, 1e-1, 1.0])
    w.control[Control.STEP] = torch.tensor([0.3, 0.2, 0.5, 0.0, 0.9, 0.6]) * end
    w.control[Control.PROPOSAL] = torch.tensor([0.3, -0.2, 0.5, 0.1, 0.9, -0.6])
    w.control[Control.ERROR] = 1.0
    w.control[Control.ERROR_1] = torch.tensor([0.5, 0.9, 0.1, 1.0, 1.0, 0.7])
    w.control[Control.ERROR_2] = torch.tensor([0.2, 1.0, 0.3, 1.0, 1.0, 0.6])
    w.count[Count.STATUS, 3] = Status.DONE
    w.count[Count.ACCEPTED] = torch.tensor([3, 0, 98, 7, 2, 1])
    w.count[Count.CURSOR] = 1
    w.count[Count.ROW] = torch.tensor([2, 0, 1, 3, 5, 4])
    return w


TABLES = ("y", "y_new", "k", "stage", "stage_times", "ys", "control", "count")


def twin(w, name="cpp"):
    """A copy for an implementation, on its device."""
    moved = (*TABLES, "segment_ends", "live", "output_times")
    changed = {n: getattr(w, n).to(DEVICE[name], copy=True) for n in moved}
    return Workspace(**{**vars(w), **changed})


def agree(a, b, exact):
    for name in TABLES:
        x, y = getattr(a, name), getattr(b, name).cpu()
        if exact or name not in ("control", "stage_times", "ys", "stage", "y", "y_new"):
            assert torch.equal(torch.nan_to_num(x, 7.0), torch.nan_to_num(y, 7.0)), name
        else:
            tolerance = 1e-12 if x.dtype == torch.float64 else 1e-6
            assert torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True), name


def steps(ops, stages):
    """One attempted step, with the slopes that are there."""
    for i in range(1, stages):
        ops.stage(i)
    ops.control()
    ops.commit()


def taken_step(ops, slopes):
    """The same as an engine makes it: slopes [S, R, N] from elsewhere."""
    ops.stage(1)
    for i in range(1, len(slopes)):
        ops.take(i, slopes[i])


CASES = [
    ("dopri5", 1, torch.float32, {}),
    ("dopri5", 7, torch.float64, {"by_row": True}),
    ("tsit5", 8, torch.float32, {"controller": "pi"}),
    ("dopri8", 33, torch.float64, {"segments": [1, 1, 20, 33]}),
    ("tsit5", 40, torch.float64, {"segments": [20, 40], "live": [[9, 20], [20, 0]]}),
    ("bosh3", 1025, torch.float32, {"segments": [1024, 1025], "by_row": True}),
    ("fehlberg45", 2500, torch.float64, {"controller": "i"}),
]


@pytest.mark.parametrize("name", ["cpp", TRITON])
@pytest.mark.parametrize(
    ("method", "elements", "dtype", "options"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)
def test_a_step_is_that_of_the_reference(name, method, elements, dtype, options):
    reference = workspace(method, elements, dtype, **options)
    reference.k[:, 4] = math.nan
    other = twin(reference, name)
    expected, found = ReferenceOperations(reference), operations(name)(other)
    stages = len(reference.c)
    for i in range(1, stages):
        expected.stage(i)
        found.stage(i)
    # The C++ kernel writes the error over the stage's input, which has been read.
    agree(reference, other, exact=True)
    expected.control()
    found.control()
    taken = reference.count[Count.TAKEN]
    assert 0 < int(taken.sum()) < ROWS - 1
    assert taken[3] == taken[4] == 0
    other.stage.copy_(reference.stage)
    # Sums in another order and exponentials differ in the last bits on GPUs.
    agree(reference, other, exact=name == "cpp")
    expected.commit()
    found.commit()
    agree(reference, other, exact=name == "cpp")


@pytest.mark.parametrize("name", ["reference", "cpp", TRITON])
@pytest.mark.parametrize(("method", "long"), [("dopri5", False), ("bosh3", True)])
def test_what_is_taken_goes_into_the_step(name, method, long, monkeypatch):
    """Slopes are f's own tensors, one of them of another dtype, another not contiguous."""
    if name == "triton":
        triton_operations()
        from fastgen.kernels.runge_kutta import triton as implementation

        monkeypatch.setattr(implementation, "MAX_BLOCK", 8)
        monkeypatch.setattr(implementation, "TILE", 16 if long else 64)
    expected = workspace(method, 40, torch.float64)
    expected.k[:] = expected.k.float()
    other = twin(expected, name)
    slopes = list(expected.k.clone().to(DEVICE[name]))
    slopes[1] = slopes[1].float()
    slopes[2] = slopes[2].T.contiguous().T
    other.k[1:] = math.nan
    reference = ReferenceOperations(expected)
    found = ReferenceOperations(other) if name == "reference" else operations(name)(other)
    for _ in range(2):  # the second begins where the first has left its row
        steps(reference, len(expected.c))
        reference.stage(1)
        taken_step(found, slopes)
        agree(expected, other, exact=name == "reference")
        expected.k[1:] = other.k[1:].cpu()
    if name == "triton":
        assert found._long == long
        assert not found._arrived.any()


@pytest.mark.parametrize("segments", [None, [5, 5, 140, 300]])
def test_long_rows_are_cut_into_tiles(segments, monkeypatch):
    """One step of dopri5 and its outputs, each row shared out over programs."""
    triton_operations()
    from fastgen.kernels.runge_kutta import triton as implementation

    monkeypatch.setattr(implementation, "MAX_BLOCK", 32)
    monkeypatch.setattr(implementation, "TILE", 64)
    reference = workspace("dopri5", 300, torch.float64, segments=segments)
    reference.k[:, 4] = math.nan
    other = twin(reference, "triton")
    found = operations("triton")(other)
    steps(ReferenceOperations(reference), len(reference.c))
    steps(found, len(reference.c))
    assert found._error_tiles == (5 if segments is None else 1 + 3 + 3)
    assert int(reference.count[Count.TAKEN].sum()) > 0
    agree(reference, other, exact=False)


@pytest.mark.slow
def test_a_joint_step_of_large_images():
    """128 x 3 x 256 x 256 in one row; with FASTGEN_TEST_PTX=1 the compiled kernels."""
    if triton_device.INTERPRETED:
        pytest.skip("the interpreter would take hours")
    elements = 128 * 3 * 256 * 256
    triton_operations()
    generator = torch.Generator().manual_seed(0)
    tableau = tableaus.ADAPTIVE["bosh3"]
    sizes = Controller.of("i", min_step=1e-9, max_step=0.5).step_size(tableau.order, 100)
    w = Workspace.allocate(
        torch.randn(1, elements, generator=generator),
        tableau.matrix,
        tableau.nodes,
        tableau.errors,
        tableau.polynomials,
        torch.tensor([elements]),
        torch.tensor([0.0, 0.5, 1.0]).double(),
        sizes,
    )
    for slope in w.k:
        slope[0].normal_(generator=generator)
    for row, value in (
        (Control.TIME, 0.4),
        (Control.END, 1.0),
        (Control.RTOL, 0.3),
        (Control.ATOL, 0.3),
        (Control.STEP, 0.3),
        (Control.PROPOSAL, 0.3),
        (Control.ERROR, 1.0),
        (Control.ERROR_1, 1.0),
        (Control.ERROR_2, 1.0),
    ):
        w.control[row] = value
    w.count[Count.CURSOR] = 1
    other = twin(w, "triton")
    for of, ops in ((w, operations("cpp")(w)), (other, operations("triton")(other))):
        taken_step(ops, of.k)
    assert w.count[Count.TAKEN].item() == 1
    for name in ("y", "stage", "control", "count"):
        torch.testing.assert_close(getattr(other, name).cpu(), getattr(w, name))
    torch.testing.assert_close(other.ys[1].cpu(), w.ys[1])


@pytest.mark.parametrize("name", ["cpp", TRITON])
def test_the_first_step(name):
    for given in (True, False):
        reference = workspace("dopri5", 9, torch.float64, first_step_given=given)
        reference.k[0, 2, 5] = math.inf
        reference.control[Control.PROPOSAL] = 0.07
        other = twin(reference, name)
        for ops in (ReferenceOperations(reference), operations(name)(other)):
            if given:
                ops.start()
            else:
                ops.probe()
                ops.first()
        agree(reference, other, exact=True)
        assert reference.count[Count.STATUS, 2] == Status.NON_FINITE
        assert (reference.control[Control.STEP, [0, 1, 4, 5]] != 0).all()


@pytest.mark.parametrize("name", ["reference", "cpp", TRITON])
def test_compaction_puts_running_rows_first(name):
    w = workspace("bosh3", 5, torch.float32, compact=True)
    w.count[Count.STATUS] = torch.tensor([0, 1, 0, 3, 0, 1])
    w = twin(w, name)
    before = {int(r): (w.y[i].clone(), w.k[0, i].clone()) for i, r in enumerate(w.count[Count.ROW])}
    ops = ReferenceOperations(w) if name == "reference" else operations(name)(w)
    assert ops.compacted() == FEWER_ROWS
    assert ops.rows == 3
    assert sorted(w.count[Count.ROW, :3].tolist()) == [1, 2, 5]
    assert sorted(w.count[Count.ROW].tolist()) == list(range(6))
    assert (w.count[Count.STATUS, :3] == Status.RUNNING).all()
    assert (w.count[Count.STATUS, 3:] != Status.RUNNING).all()
    for i, r in enumerate(w.count[Count.ROW, :3].tolist()):
        assert torch.equal(w.y[i], before[r][0])
        assert torch.equal(w.k[0, i], before[r][1])
    assert ops.compacted() == 0
    w.count[Count.STATUS] = Status.DONE
    assert ops.compacted() == FINISHED


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree_to_the_bit(isa):
    from fastgen import _C

    if isa not in _C.supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    before = _C.isa()
    try:
        _C.set_isa(isa)
        reference = workspace("dopri5", 300, torch.float32)
        other = twin(reference)
        steps(ReferenceOperations(reference), len(reference.c))
        steps(operations("cpp")(other), len(reference.c))
    finally:
        _C.set_isa(before)
    other.stage.copy_(reference.stage)
    agree(reference, other, exact=True)


@pytest.mark.parametrize("size", [1, 2, 3, 1024, 1025, 5000])
def test_sum_by_lanes_is_a_sum(size):
    x = torch.rand(3, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(lane_sum(x), x.sum(1), rtol=1e-14)
    assert torch.equal(lane_sum(x)[1:2], lane_sum(x[1:2]))


@pytest.mark.parametrize("name", [TRITON])
def test_a_whole_solve(name):
    import fastgen

    operations(name)
    y0 = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.25, 0.4]).double()
    options = {"method": "bosh3", "rtol": 1e-2, "return_solution": True}

    def f(t, y):
        return torch.sin(3 * y) - t[:, None]

    with triton_device.running_on_triton():
        found = [
            fastgen.odeint(
                f,
                y0.to(DEVICE[b]),
                t.to(DEVICE[b]),
                backend=b,
                execution=Execution(c, e),
                **options,
            )
            for b, c, e in (("cpp", False, 1), (name, False, 3), (name, True, 1))
        ]
    for other in found[1:]:
        assert torch.allclose(other.ys.cpu(), found[0].ys, rtol=0, atol=1e-11)
        assert torch.equal(other.stats.accepted.cpu(), found[0].stats.accepted)
