"""The Triton reductions equal the reference: under the interpreter, or on a real device."""

import pytest
import torch

from fastgen.kernels.pairwise import Keys, reference
from tests.support.triton_device import (
    DEVICE,
    MARKS,
    defining_kernels,
)

pytest.importorskip("triton")
with defining_kernels():
    from fastgen.kernels.pairwise import triton

pytestmark = MARKS

SHAPES = [
    (1, 1, 1, 1),
    (40, 300, 5, 17),
    (33, 513, 70, 70),
    (5, 256, 16, 3),
    (70, 300, 8, 36),
    (3, 40, 3, 65),
]


@pytest.fixture(params=[False, True], ids=["one", "twice"])
def twice(request, monkeypatch):
    """Whether programs take twice as many rows."""
    if request.param:
        monkeypatch.setattr(triton, "MANY", 1)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_triton_is_the_reference(shape, twice, poisoned_memory):
    rows, columns, dims, features = shape
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(rows, dims, generator=g), torch.randn(columns, dims, generator=g)
    values = torch.randn(columns, features, generator=g)
    bias = torch.randn(columns, generator=g, dtype=torch.float64)
    x, y, values, bias = (t.to(DEVICE) for t in (x, y, values, bias))
    within = {"rtol": 0, "atol": 2 * (64 + dims) * torch.finfo(torch.float32).eps}
    expected = reference.log_sum(x, y, bias, 0.7)
    torch.testing.assert_close(triton.log_sum(x, y, bias, 0.7), expected, **within)
    sums, mean = triton.mean(x, y, bias, 0.7, values)
    torch.testing.assert_close(sums, expected, **within)
    torch.testing.assert_close(mean, reference.mean(x, y, bias, 0.7, values)[1], **within)
    high, column = triton.best(x, y, bias, 0.7)
    top, place = reference.best(x, y, bias, 0.7)
    torch.testing.assert_close(high, top, **within)
    assert torch.equal(column, place)
    ids = torch.arange(rows, device=DEVICE) + 2**33
    for seeds in (torch.tensor([11], device=DEVICE), ids * 2**20):
        keys = Keys(seeds, ids, 5)
        sums, column = triton.sample(x, y, bias, 0.7, keys)
        torch.testing.assert_close(sums, expected, **within)
        same = column == reference.sample(x, y, bias, 0.7, keys)[1]
        # Rounding decides only where a uniform is within it of a step.
        assert same.float().mean() > 0.95


def test_columns_without_weight_are_never_drawn():
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 2, generator=g), torch.randn(300, 2, generator=g)
    bias = torch.full((300,), -torch.inf, dtype=torch.float64)
    bias[[3, 290]] = 0
    x, y, bias = (t.to(DEVICE) for t in (x, y, bias))
    keys = Keys(torch.tensor([1], device=DEVICE), torch.arange(32, device=DEVICE), 0)
    column = triton.sample(x, y, bias, 1.0, keys)[1]
    assert set(column.tolist()) == {3, 290}


def test_a_row_does_not_know_how_many_there_are(monkeypatch):
    """Sums and columns of a row have the same bits, however many rows a program takes."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(70, 6, generator=g), torch.randn(530, 6, generator=g)
    x, y, bias = x.to(DEVICE), y.to(DEVICE), torch.randn(530, generator=g).double().to(DEVICE)
    given = triton.log_sum(x, y, bias, 0.7), *triton.best(x, y, bias, 0.7)
    monkeypatch.setattr(triton, "MANY", 1)
    assert triton.cut(triton.BEST, 70, 0, False).twice
    found = triton.log_sum(x, y, bias, 0.7), *triton.best(x, y, bias, 0.7)
    assert all(torch.equal(a, b) for a, b in zip(given, found, strict=True))


def test_equal_scores_go_to_the_lowest_column():
    x, y = torch.ones(3, 2, device=DEVICE), torch.ones(600, 2, device=DEVICE)
    bias = torch.zeros(600, dtype=torch.float64, device=DEVICE)
    bias[[300, 301, 599]] = 1
    assert triton.best(x, y, bias, 1.0)[1].tolist() == [300] * 3


@pytest.mark.parametrize("columns", [3, 256, 600])
def test_far_scores_are_scores(columns):
    x = torch.full((4, 1), 1e18, device=DEVICE)
    y = -torch.arange(1.0, columns + 1, device=DEVICE)[:, None] * 1e15
    bias = torch.zeros(columns, dtype=torch.float64, device=DEVICE)
    high, column = triton.best(x, y, bias, 2.0)
    assert column.tolist() == [0] * 4
    torch.testing.assert_close(high, torch.full_like(high, -2e33), rtol=1e-6, atol=0)
    keys = Keys(torch.tensor([1], device=DEVICE), torch.arange(4, device=DEVICE), 0)
    assert triton.sample(x, y, bias, 2.0, keys)[1].tolist() == [0] * 4
