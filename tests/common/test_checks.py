"""Refusals of arguments, and numbers of rows as factors of a batch."""

import math

import pytest
import torch

import fastgen
from fastgen.common import checks


def test_what_is_allowed_is_returned():
    assert checks.check_choice("kind", "a", ("a", "b")) == "a"
    assert checks.check_nonnegative("eta", 0) == 0
    assert checks.check_positive("sigma", 0.5) == 0.5
    assert checks.check_positive("clip", math.inf, infinite=True) == math.inf
    assert checks.check_whole("order", 3, 1, 3) == 3
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    assert checks.check_tensor("x", x) is x
    assert checks.check_floating("x", x, axes=2) is x
    checks.check_fraction("share", 1)
    checks.check_at_least("batch", 1, 1)
    checks.check_shape("x", x, (2, 3))
    checks.check_finite("x", x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: checks.check_choice("kind", "lineer", ("linear",)), ValueError, "'linear'"),
        (lambda: checks.check_nonnegative("eta", -1), ValueError, "eta=-1: expected a finite"),
        (lambda: checks.check_positive("s", math.nan), ValueError, "s=nan: expected a positive"),
        (lambda: checks.check_positive("s", math.inf), ValueError, "s=inf: expected a positive"),
        (lambda: checks.check_positive("s", 0, "drop it"), ValueError, "number; drop it"),
        (lambda: checks.check_fraction("share", 0), ValueError, "share=0: expected 0 < share"),
        (lambda: checks.check_whole("order", 2.0, 1), ValueError, "order=2.0: expected a whole"),
        (lambda: checks.check_at_least("batch", 0, 1), ValueError, "batch=0: expected at least 1"),
        (lambda: checks.check_tensor("x", [1.0]), TypeError, "x: expected a tensor, got list"),
        (lambda: checks.check_floating("x", 1.0), TypeError, "x: expected a tensor, got float"),
        (
            lambda: checks.check_floating("x", torch.arange(3)),
            ValueError,
            r"x: expected floating \[B, ...\], got torch.int64 \[3\]",
        ),
        (
            lambda: checks.check_floating("x", torch.zeros(3), "[n, d]", axes=2),
            ValueError,
            r"x: expected floating \[n, d\], got torch.float32 \[3\]",
        ),
        (
            lambda: checks.check_shape("x", torch.zeros(2, 3), (2,), like="y"),
            ValueError,
            r"x: expected shape \[2\] like y, got \[2, 3\]",
        ),
        (
            lambda: checks.check_finite("x", torch.tensor([0.0, math.inf])),
            ValueError,
            "x: expected finite numbers",
        ),
    ],
)
def test_refusals_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_factors_of_rows_are_a_view():
    values, batch = torch.arange(4.0)[::2], torch.zeros(2, 3, 5)
    found = checks.per_row(values, batch)
    assert found.shape == (2, 1, 1)
    assert found.data_ptr() == values.data_ptr()
    assert checks.per_row(values, torch.zeros(2)).shape == (2,)


NO_ARRAYS = {
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1, :1]]),
    "jagged": lambda x: torch.nested.nested_tensor([x[0], x[1, :1]], layout=torch.jagged),
    "coo": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
}
ROUTES = {
    "odeint": lambda x: fastgen.odeint(lambda t, y: -y, x, [0.0, 1.0]),
    "sdeint": lambda x: fastgen.sdeint(lambda t, y: -y, lambda t, y: y, x, [0.0, 1.0], steps=2),
    "assign": lambda x: fastgen.couplings.assign(x, torch.zeros(4, 3)),
    "costs": lambda x: fastgen.couplings.assign(cost=x),
    "sinkhorn": lambda x: fastgen.couplings.sinkhorn(torch.zeros(4, 3), x, 0.5),
    "wasserstein": lambda x: fastgen.wasserstein(x, torch.zeros(4, 3)),
    "path": lambda x: fastgen.training.paths.Linear().sample(x, torch.zeros(4, 3)),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_tensors_that_are_no_arrays_are_named(kind, route):
    x = NO_ARRAYS[kind](torch.ones(4, 3))
    with pytest.raises(TypeError, match=r"^(y0|x0|x1|cost).*(dense|float32)"):
        ROUTES[route](x)


@pytest.mark.parametrize("route", sorted(ROUTES.keys() - {"assign", "costs", "path"}))
def test_the_meta_device_is_named_where_numbers_decide(route):
    with pytest.raises(ValueError, match=r"^(y0|x0|x1): .*meta"):
        ROUTES[route](torch.ones(4, 3, device="meta"))
