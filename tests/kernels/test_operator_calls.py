"""Calls of `torch.ops.fastgen` itself, as saved graphs hold them: each argument wrong in turn."""

import math

import pytest
import torch

from fastgen import kernels
from tests.support.tensor_kinds import WITHOUT_MEMORY

OPS = torch.ops.fastgen
LONG, DOUBLE = torch.int64, torch.float64
X = torch.linspace(-1, 1, 24).reshape(4, 6)
SEEDS, IDS, DRAWS = torch.tensor([1]), torch.arange(4), torch.tensor([0])
QUANTILES = torch.linspace(0, 1, 5, dtype=DOUBLE)

CALLS = {
    "combine": {
        "inputs": [X, X],
        "table": torch.ones(1, 2, 4, dtype=DOUBLE),
        "dtypes": [0],
        "clip": [-1.0, 1.0],
        "seeds": SEEDS,
        "sample_ids": IDS,
        "draws": DRAWS,
        "stream": 1,
    },
    "gram": {"inputs": [X, X]},
    "stochastic_combine": {
        "inputs": [X],
        "table": torch.ones(1, 1, 1, 5, dtype=DOUBLE),
        "dtypes": [0],
        "seeds": SEEDS,
        "sample_ids": IDS,
        "draws": torch.arange(2),
        "stream": 1,
        "given": [],
    },
    "normals": {"elements": 5, "seeds": SEEDS, "sample_ids": IDS, "draw": DRAWS, "stream": 0},
    "brownian": {
        "elements": 5,
        "seeds": SEEDS,
        "sample_ids": IDS,
        "tree": 0,
        "times": torch.tensor([0.1, 0.5], dtype=DOUBLE),
        "depth": 24,
    },
    "bridge": {
        "x0": X,
        "x1": X,
        "index0": torch.arange(4),
        "index1": torch.arange(4),
        "coefficients": torch.ones(1, 3, 5, dtype=DOUBLE),
        "times": None,
        "quantiles": QUANTILES,
        "sampling": 0,
        "seeds": SEEDS,
        "sample_ids": IDS,
        "draw": DRAWS,
        "stream": 2,
        "noisy": True,
        "dtypes": [0],
        "time_dtype": 0,
    },
    "times": {
        "seeds": SEEDS,
        "sample_ids": IDS,
        "draw": DRAWS,
        "quantiles": QUANTILES,
        "sampling": 0,
    },
}
# What else is right: another number of rows or times, more to choose from, no clip, no index.
ALLOWED = {
    *[
        (name, "elements", number)
        for name in ("normals", "brownian")
        for number in ("7", "60", "999")
    ],
    *[
        (name, "sample_ids", label)
        for name in ("normals", "brownian", "times")
        for label in ("without entries", "longer", "shorter")
    ],
    *[("brownian", "times", label) for label in ("without entries", "longer", "shorter")],
    *[("bridge", "quantiles", "longer"), ("times", "quantiles", "longer")],
    *[("bridge", "x0", "longer"), ("bridge", "x1", "longer"), ("bridge", "times", "None")],
    *[("bridge", "index0", "None"), ("bridge", "index1", "None"), ("combine", "clip", "None")],
}
NUMBERS = [-1, -(2**40), 7, 60, 999, 2**31, 2**40, 2**62, 2**63 - 1]
# Right ones among them.
GOOD_NUMBERS = {"stream": range(256), "tree": range(128), "depth": range(1, 25)}


def wrong_tensors(x):
    """Tensors that differ from a right one in one respect, and are not right."""
    other = {torch.float32: LONG, DOUBLE: torch.float32, LONG: torch.float32}[x.dtype]
    yield "another dtype", x.to(other)
    yield "complex", x.to(torch.complex64)
    yield "half as wide", x.to({LONG: torch.int32}.get(x.dtype, torch.int8))
    yield "without entries", x.new_empty(0)
    yield "without axes", x.flatten()[0]
    yield "with another axis", x[None]
    yield "with two more axes", x[None, None]
    yield "longer", torch.cat([x, x, x])
    yield "sparse", x.to_sparse()
    yield "meta", x.to("meta")


def cases():
    for name, good in CALLS.items():
        for argument, value in good.items():
            if isinstance(value, torch.Tensor):
                for label, wrong in wrong_tensors(value):
                    yield name, argument, label, wrong
                if len(value) > 1:
                    yield name, argument, "shorter", value[:1]
            elif isinstance(value, bool):
                continue
            elif isinstance(value, int):
                for number in NUMBERS:
                    if number not in GOOD_NUMBERS.get(argument, ()):
                        yield name, argument, str(number), number
            elif argument in ("inputs", "given"):
                yield name, argument, "one hundred", [X] * 100
                yield name, argument, "other shapes", [X, X[:2]]
                yield name, argument, "one is meta", [X, X.to("meta")]
                if argument == "inputs":
                    yield name, argument, "none", []
                    for label, wrong in wrong_tensors(X):
                        yield name, argument, f"{label} one", [X, wrong][: len(value) + 1]
            elif argument == "dtypes":
                for codes in ([], [9], [-1], [0] * 20, [0, 0]):
                    yield name, argument, str(codes), codes
            elif argument == "clip":
                for bounds in ([1.0], [], [1.0, -1.0], [0.0, math.nan], [0.0, 1.0, 2.0]):
                    yield name, argument, str(bounds), bounds
            yield name, argument, "None", None


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_right_as_they_are(name):
    result = getattr(OPS, name)(**CALLS[name])
    assert all(y.isfinite().all() for y in (result if isinstance(result, list) else [result]))


@pytest.mark.parametrize(
    ("name", "argument", "label", "wrong"),
    [
        pytest.param(*case, id=f"{case[0]}, {case[1]}, {case[2]}")
        for case in cases()
        if case[:3] not in ALLOWED
    ],
)
def test_a_wrong_argument_is_refused(name, argument, label, wrong):
    call = CALLS[name] | {argument: wrong}
    with pytest.raises((ValueError, RuntimeError, NotImplementedError, MemoryError, TypeError)):
        getattr(OPS, name)(**call)


def test_fake_tensors_are_checked_too():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        with pytest.raises(ValueError, match=r"table: expected float64 \[1 or 4, 1, 1\]"):
            OPS.combine([torch.ones(4, 6)], torch.ones(1, 1, 3).double(), [0], *[None] * 4, 0)
        (y,) = OPS.combine([torch.ones(4, 6)], torch.ones(1, 1, 1).double(), [0], *[None] * 4, 0)
    assert y.shape == (4, 6)


def test_tensors_of_any_strides_are_read_right():
    x = torch.linspace(-1, 1, 48).reshape(8, 6)[::2]
    seeds, ids = torch.tensor(7).expand(4), torch.arange(8)[::2]
    table = torch.tensor([0.5, 9.0, 2.0, 9.0], dtype=DOUBLE)[::2][None, None]
    (y,) = OPS.combine([x], table, [0], None, seeds, ids, torch.tensor([3, 4])[::2], 1)
    (z,) = OPS.combine(
        [x.clone()], table.clone(), [0], None, torch.tensor([7]), ids.clone(), torch.tensor([3]), 1
    )
    assert torch.equal(y, z)
    a = OPS.normals(5, seeds, ids, torch.tensor([3, 4])[::2], 1)
    assert torch.equal(a, OPS.normals(5, torch.tensor([7]), ids.clone(), torch.tensor([3]), 1))


def test_a_part_of_a_noise_is_refused():
    with pytest.raises(ValueError, match="sample_ids: expected all of"):
        OPS.combine([X], torch.ones(1, 1, 1).double(), [0], None, SEEDS, None, DRAWS, 1)


@pytest.mark.parametrize("draws", [0, 2])
def test_times_and_batches_take_one_draw(draws):
    noise = kernels.Noise(SEEDS, IDS, torch.arange(draws), 2)
    clock = kernels.Clock(QUANTILES)
    with pytest.raises(ValueError, match=r"noise\.draws: expected 1 draw id, got"):
        kernels.times(noise, clock)
    with pytest.raises(ValueError, match=r"noise\.draws: expected 1 draw id, got"):
        kernels.bridge(X, X, CALLS["bridge"]["coefficients"], clock, noise)
    with pytest.raises(ValueError, match=r"noise\.draws: expected 1 draw id, got"):
        kernels.normals(5, SEEDS, IDS, torch.arange(draws), 1)


@pytest.mark.parametrize("kind", ["sparse", "csr", "jagged", "quantized", "nested", "mkldnn"])
@pytest.mark.parametrize("name", CALLS)
def test_tensors_that_are_no_arrays_are_named(name, kind):
    made = WITHOUT_MEMORY | {
        "nested": lambda x: torch.nested.nested_tensor([x[0], x[1, :1]]),
        "mkldnn": lambda x: x.to_mkldnn(),
    }
    argument = next(k for k in ("inputs", "x0", "sample_ids") if k in CALLS[name])
    wrong = made[kind](X)
    wrong = [X, wrong][-len(CALLS[name][argument]) :] if argument == "inputs" else wrong
    with pytest.raises(ValueError, match=f"{argument}: expected a tensor with memory .*; give"):
        getattr(OPS, name)(**CALLS[name] | {argument: wrong})
