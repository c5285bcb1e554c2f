"""The rule of step sizes: limits, refusals, and values that do not depend on the batch."""

import math

import pytest
import torch

from fastgen.common.rounding import power, square_root
from fastgen.common.step_size import Controller, fitted


def test_factor_of_each_controller():
    error = torch.tensor([1.0, 0.5, 1e-30, 2.0, math.inf, math.nan], dtype=torch.float64)
    taken = error <= 1
    past = torch.full_like(error, 0.7), torch.full_like(error, 0.4)
    for name, (b0, b1, b2) in {
        "i": (1.0, 0.0, 0.0),
        "pi": (0.7, -0.4, 0.0),
        "pid": (0.7, -0.5, 0.1),
    }.items():
        rule = Controller.of(name).step_size(5, 10)
        found = rule.factor(error, taken, past)
        for e, ok, factor in zip(error.tolist(), taken.tolist(), found.tolist(), strict=True):
            if not math.isfinite(e):
                assert factor == 0.2
                continue
            free = 0.9 * max(e, 1e-10) ** (-b0 / 5) * 0.7 ** (-b1 / 5) * 0.4 ** (-b2 / 5)
            assert factor == pytest.approx(min(max(free, 0.2), 10.0 if ok else 0.9), rel=1e-14)


def test_a_refused_step_is_shorter_by_exactly_the_safety_at_least():
    rule = Controller(derivative=1.0).step_size(5, 10)
    error = torch.tensor([1.01], dtype=torch.float64)
    past = torch.ones(1, dtype=torch.float64), torch.full((1,), 1e-10, dtype=torch.float64)
    for most in (None, torch.tensor([10.0])):
        assert rule.factor(error, error < 1, past, most).item() == 0.9


def test_the_shortest_step_counts_whatever_its_error():
    rule = Controller(min_step=0.1).step_size(5, 10)
    error = torch.tensor([2.0, 2.0, math.nan], dtype=torch.float64)
    sizes = torch.tensor([0.1, 0.2, 0.1], dtype=torch.float64)
    assert rule.accepts(error, sizes).tolist() == [True, False, False]


def test_a_step_reaches_the_end_where_hardly_anything_would_be_left():
    rest = torch.tensor([1.0, 1.02, -1.0, -3.0, 0.0], dtype=torch.float64)
    assert fitted(rest, torch.ones_like(rest)).tolist() == [1.0, 1.0, -1.0, -1.0, 0.0]


def test_numbers_are_rounded_alone():
    x = torch.rand(33, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for function in (square_root, lambda x: power(x, -0.14)):
        whole = function(x)
        for n in range(33):
            assert torch.equal(function(x[n : n + 1]), whole[n : n + 1])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"safety": 0.0}, "safety=0.0"),
        ({"min_factor": 0.95}, "min_factor=0.95"),
        ({"max_factor": 1.0}, "max_factor=1.0"),
        ({"derivative": math.nan}, "derivative=nan"),
        ({"first_step": torch.tensor([0.1, 0.0])}, "first_step=tensor"),
        ({"min_step": -1.0}, "min_step=-1.0"),
        ({"max_step": 0.0}, "max_step=0.0"),
    ],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(ValueError, match=message):
        Controller(**numbers)


def test_names_and_changes():
    assert Controller.of("pi", min_step=0.5) == Controller(0.3, 0.4, min_step=0.5)
    with pytest.raises(ValueError, match="did you mean 'pid'"):
        Controller.of("pidd")
