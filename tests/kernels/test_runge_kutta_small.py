"""Samples of few elements, which C++ works on several at a time: each as the reference has it."""

import math

import pytest
import torch

from fastgen.kernels.runge_kutta.contract import Control, Count, Status, Workspace
from fastgen.kernels.runge_kutta.reference import ReferenceOperations
from fastgen.ode import Controller, tableaus
from tests.kernels.test_runge_kutta import agree, operations, steps, twin


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def instructions(request):
    from fastgen import _C

    if request.param not in _C.supported_isas():
        pytest.skip(f"this CPU has no {request.param}")
    before = _C.isa()
    _C.set_isa(request.param)
    yield
    _C.set_isa(before)


def workspace(rows, elements, dtype, method="dopri5", outputs=40, by_row=False, **options):
    """Rows in all states; the last output of every third is at its step's very end, and twice."""
    generator = torch.Generator().manual_seed(100 * rows + elements)

    def drawn(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    tableau = tableaus.ADAPTIVE[method]
    step = 0.3 * drawn(rows) + 1e-3
    times = torch.linspace(0, 1, outputs).double()
    if by_row:
        direction = torch.where(drawn(rows) < 0.5, -1.0, 1.0).double()
        times, step = times * direction[:, None], step * direction
        times[:, 20:22] = (0.1 * direction + step)[:, None]
        times = times.sort(-1).values
        times[direction < 0] = times[direction < 0].flip(-1)
    segments = options.pop("segments", [elements])
    rule = Controller.of("pid", min_step=1e-9, max_step=0.5).step_size(tableau.order, 100)
    w = Workspace.allocate(
        *((drawn(rows, elements) - 0.5).to(dtype), tableau.matrix, tableau.nodes, tableau.errors),
        *(tableau.polynomials, torch.tensor(segments), times, rule),
        **options,
    )
    w.k.copy_(drawn(*w.k.shape) - 0.5)
    for buffer in (w.y_new, w.stage, w.ys):
        buffer.fill_(math.nan)
    w.count[Count.ROW] = torch.randperm(rows, generator=generator)
    own = times[w.count[Count.ROW]] if by_row else times.expand(rows, -1)
    control, end = w.control, own[:, -1]
    control[Control.TIME], control[Control.END] = 0.1 * end, end
    control[Control.STEP] = step[w.count[Count.ROW]] if by_row else step
    control[Control.RTOL] = control[Control.ATOL] = 0.01 + 0.3 * drawn(rows)
    control[Control.PROPOSAL] = drawn(rows) - 0.5
    control[Control.ERROR] = 1.0
    control[Control.ERROR_1], control[Control.ERROR_2] = drawn(rows), drawn(rows)
    ended = drawn(rows) < 0.2
    control[Control.STEP, ended] = 0
    w.count[Count.STATUS, ended] = Status.DONE
    w.count[Count.ACCEPTED] = torch.randint(90, 101, (rows,), generator=generator)
    w.count[Count.CURSOR] = 4
    return w


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("elements", range(1, 8))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_row", [False, True])
def test_groups_and_what_is_left_over_are_the_references(elements, dtype, by_row):
    for rows, method in ((1, "tsit5"), (27, "dopri5"), (79, "bosh3")):
        expected = workspace(rows, elements, dtype, method, by_row=by_row)
        found = twin(expected)
        for _ in range(2):
            steps(ReferenceOperations(expected), len(expected.c))
            steps(operations("cpp")(found), len(found.c))
            agree(expected, found, exact=True)
        if rows > 1:
            written = (~expected.ys.isnan()).all(-1).sum(0)
            assert written.max() > 8  # more than a vector of outputs
            assert 0 < int(expected.count[Count.TAKEN].sum()) < rows


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_with_and_without_padding(dtype):
    live = torch.tensor([[1, 2], [1, 0], [0, 3]]).repeat(9, 1)
    for options in ({}, {"live": live}):
        expected = workspace(27, 5, dtype, segments=[2, 5], **options)
        found = twin(expected)
        steps(ReferenceOperations(expected), len(expected.c))
        steps(operations("cpp")(found), len(found.c))
        agree(expected, found, exact=True)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("elements", [5, 9])
def test_a_part_that_is_not_a_number_is_not_forgotten_for_later_parts(elements):
    expected = workspace(27, elements, torch.float64, segments=[2, elements])
    expected.k[2, ::2, 1] = math.nan
    found = twin(expected)
    for w, ops in ((expected, ReferenceOperations(expected)), (found, operations("cpp")(found))):
        for i in range(1, len(w.c)):
            ops.stage(i)
        ops.control()
        assert w.count[Count.TAKEN, ::2].sum() == 0
        running = w.count[Count.STATUS, ::2] == Status.RUNNING
        assert w.control[Control.ERROR, ::2][running].isnan().all()
    found.stage.copy_(expected.stage)  # where C++ puts the errors of longer rows
    agree(expected, found, exact=True)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("elements", [1, 2, 3, 7])
def test_steps_in_one_call_are_the_same_steps(elements):
    """`advance`, by which whole solves are made, and a sample's numbers in batches of all sizes."""
    y0 = workspace(21, elements, torch.float32).y
    times = torch.linspace(0, 2, 30).double()
    tableau = tableaus.ADAPTIVE["dopri5"]
    rule = Controller.of("pi").step_size(tableau.order, 100)

    def solved(y):
        w = Workspace.allocate(
            *(y, tableau.matrix, tableau.nodes, tableau.errors, tableau.polynomials),
            *(torch.tensor([elements]), times, rule),
        )
        ops = operations("cpp")(w)
        ops.begin(*(torch.tensor(x).double() for x in (1e-4, 1e-4, 0.0)))
        ops.expect(w.y.shape)
        while ops.advance(torch.sin(3 * w.stage) - w.stage_times[:, None]) != 1:
            assert ops.evaluated[0] < 1000
        return w

    whole = solved(y0)
    assert (whole.count[Count.STATUS] == Status.DONE).all()
    assert not whole.ys.isnan().any()
    for part in (slice(0, 1), slice(3, 9), slice(4, 21)):
        some = solved(y0[part])
        assert torch.equal(some.ys, whole.ys[:, part])
        assert torch.equal(some.control, whole.control[:, part])
