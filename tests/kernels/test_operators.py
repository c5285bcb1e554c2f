"""The kernels as torch operators: schema, fake tensors, compilation, gradients, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen import kernels
from fastgen.kernels import Known, Noise
from fastgen.kernels.combine import reference


def noise(rows, draws=2, seed=3):
    return Noise(
        torch.tensor([seed]), torch.arange(rows), torch.arange(1, draws + 1, dtype=torch.int64)
    )


def example(rows=3, inputs=3, outputs=2, clip=None, draws=0, per_row=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(inputs + 10 * outputs)
    tensors = [
        torch.randn(rows, 4, generator=generator, dtype=dtype).requires_grad_()
        for _ in range(inputs)
    ]
    shape = (
        rows if per_row else 1,
        outputs + (clip is not None),
        inputs + (clip is not None) + draws,
    )
    table = torch.randn(shape, generator=generator, dtype=torch.float64)
    return tensors, table, noise(rows, draws) if draws else None


@pytest.mark.parametrize("clip", [None, (-0.5, 0.8)])
@pytest.mark.parametrize("draws", [0, 2])
@pytest.mark.parametrize("per_row", [False, True])
def test_opcheck(clip, draws, per_row):
    tensors, table, z = example(clip=clip, draws=draws, per_row=per_row)
    seeds, ids, numbers, stream = z if z else (None, None, None, 0)
    bounds = None if clip is None else list(clip)
    dtypes = [1, 0]  # codes of float64 and float32
    torch.library.opcheck(
        torch.ops.fastgen.combine,
        (tensors, table, dtypes, bounds, seeds, ids, numbers, stream),
    )


@pytest.mark.parametrize("clip", [None, [-0.5, 0.8]])
@pytest.mark.parametrize("mask", [torch.tensor([[True, False, True, False]]), torch.rand(3, 4)])
def test_opcheck_known(clip, mask):
    tensors, table, z = example(outputs=4, inputs=4, draws=1, clip=clip)
    values = torch.randn(1, 4, dtype=torch.float64).requires_grad_()
    torch.library.opcheck(
        torch.ops.fastgen.combine,
        (tensors[:3], table, [1, 0], clip, z.seeds, z.sample_ids, z.draws, 1, values, mask),
    )


def test_opcheck_normals():
    z = noise(4)
    torch.library.opcheck(torch.ops.fastgen.normals, (7, z.seeds, z.sample_ids, z.draws[:1], 1))


@pytest.mark.parametrize("own_times", [False, True])
def test_opcheck_brownian(own_times):
    z = noise(4)
    times = torch.tensor([0.25, 0.7], dtype=torch.float64)
    times = times[:, None].repeat(1, 4) if own_times else times
    torch.library.opcheck(torch.ops.fastgen.brownian, (7, z.seeds, z.sample_ids, 3, times))


def test_opcheck_draws_of_each_row():
    tensors, table, z = example(draws=2)
    draws = torch.arange(6).reshape(3, 2)
    torch.library.opcheck(
        torch.ops.fastgen.combine,
        (tensors, table, [1, 0], None, z.seeds, z.sample_ids, draws, 1),
    )


def loop(x, weight, tables, seeds, ids, times):
    """Every stage of a run with a network, noise and a motion, as operators."""
    for k, table in enumerate(tables):
        data = torch.tanh(x @ weight)
        draws = torch.full((ids.shape[0], 1), k, dtype=torch.int64)
        z = Noise(seeds, ids, draws)
        x, old = kernels.combine([x, data], table, [x.dtype] * 2, clip=(-0.9, 0.9), noise=z)
        w = kernels.brownian(x.shape[1], seeds, ids, 0, times[k : k + 1])[0]
        x = x + 0.1 * w.to(x.dtype) + 0.1 * kernels.normals(x.shape[1], seeds, ids, draws[0], 1)
        x = x + 0.5 * old
    return x


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_whole_loop_compiles_into_one_graph_and_differentiates(backend):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, generator=generator).requires_grad_()
    weight = torch.randn(4, 4, generator=generator).requires_grad_()
    tables = list(torch.randn(4, 1, 3, 4, generator=generator, dtype=torch.float64))
    times = torch.linspace(0.9, 0.1, 4, dtype=torch.float64)
    arguments = tables, torch.tensor([5]), torch.arange(3), times
    expected = loop(x, weight, *arguments)
    result = torch.compile(loop, fullgraph=True, backend=backend)(x, weight, *arguments)
    torch.testing.assert_close(result, expected)
    if backend == "aot_eager":
        assert torch.equal(result, expected)
    gradients = torch.autograd.grad(result.square().sum(), [x, weight])
    wanted = torch.autograd.grad(expected.square().sum(), [x, weight])
    torch.testing.assert_close(gradients, wanted)


@pytest.mark.parametrize("clip", [None, (-0.5, 0.8)])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("inputs", [1, 3, 11])
def test_first_and_second_derivatives(clip, per_row, inputs):
    tensors, table, z = example(inputs=inputs, clip=clip, draws=1, per_row=per_row)

    def f(*xs):
        return kernels.combine(list(xs), table, clip=clip, noise=z)

    assert torch.autograd.gradcheck(f, tensors)
    assert torch.autograd.gradgradcheck(f, tensors)


def test_gradient_of_an_unused_output_and_of_mixed_dtypes():
    x = torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True)
    y = torch.randn(2, 3, requires_grad=True)
    table = torch.tensor([[[0.5, 2.0], [1.0, -1.0]]], dtype=torch.float64)
    _, second = kernels.combine([x, y], table, [torch.bfloat16, torch.float32])
    second.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    torch.testing.assert_close(y.grad, -torch.ones_like(y))


@pytest.mark.parametrize("clip", [None, (-0.5, 0.8)])
def test_compiles_into_one_graph(clip):
    tensors, table, z = example(clip=clip, draws=1, dtype=torch.float32)

    def f(x, y, w):
        out = kernels.combine([x.sin(), y, w], table, [torch.float32] * 2, clip=clip, noise=z)
        return out[0] * 2 + out[1]

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    expected = f(*tensors)
    result = compiled(*tensors)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    gradients = torch.autograd.grad(result.sum(), tensors)
    for g, e in zip(gradients, torch.autograd.grad(expected.sum(), tensors), strict=True):
        torch.testing.assert_close(g, e)


@settings(max_examples=30)
@given(
    rows=st.integers(0, 4),
    tail=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 8),
    clip=st.sampled_from([None, (-0.2, 0.3)]),
    draws=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    transposed=st.booleans(),
)
def test_operator_equals_the_reference(rows, tail, inputs, outputs, clip, draws, dtype, transposed):
    tensors = [torch.randn(rows, *tail).to(dtype) for _ in range(inputs)]
    if transposed and len(tail) >= 2:
        tensors[0] = tensors[0].transpose(-1, -2).contiguous().transpose(-1, -2)
    table = torch.randn(1, outputs + bool(clip), inputs + bool(clip) + draws, dtype=torch.float64)
    z = noise(rows, draws) if draws else None
    dtypes = [torch.float32, dtype] * 4
    result = kernels.combine(tensors, table, dtypes[:outputs], clip=clip, noise=z)
    expected = reference.combine(tensors, table, dtypes[:outputs], clip, z)
    for y, e in zip(result, expected, strict=True):
        assert y.dtype == e.dtype
        torch.testing.assert_close(y, e, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, r"inputs: expected 1 to 24 tensors, got 0"),
        ({"inputs": [torch.ones(2, 3)] * 25}, r"inputs: expected 1 to 24 tensors, got 25"),
        ({"inputs": [torch.ones(2, 3), torch.ones(2, 4)]}, r"inputs\[1\]: expected shape \(2, 3\)"),
        ({"inputs": [torch.ones(2, 3), torch.ones(2, 3).int()]}, r"inputs\[1\]: expected one of"),
        ({"inputs": [torch.ones(2, 3), torch.ones(2, 3, device="meta")]}, r"inputs\[1\]: expected"),
        ({"table": torch.ones(1, 2, 2)}, r"table: expected float64 \[1 or 2, 1, 2\]"),
        ({"table": torch.ones(3, 1, 2, dtype=torch.float64)}, r"table: .*got .*\[3, 1, 2\]"),
        ({"table": torch.ones(1, 1, 2).double().requires_grad_()}, "table: .*detach table"),
        ({"dtypes": [torch.int8]}, r"dtypes\[0\]: expected one of"),
        ({"clip": (1.0, -1.0), "table": torch.ones(1, 2, 3).double()}, "clip: expected low <="),
        ({"noise": Noise(torch.ones(3).long(), torch.arange(2), torch.ones(1).long()),
          "table": torch.ones(1, 1, 3).double()}, r"noise.seeds: expected 1 or 2 entries"),
        ({"noise": Noise(torch.ones(1), torch.arange(2), torch.ones(1).long()),
          "table": torch.ones(1, 1, 3).double()}, r"noise.seeds: expected a 1-D int64"),
        ({"noise": Noise(torch.ones(1).long(), torch.arange(2), torch.ones(1).long(), 256),
          "table": torch.ones(1, 1, 3).double()}, r"noise.stream: expected 0 to 255"),
        ({"noise": Noise(torch.ones(1).long(), torch.arange(2), torch.ones(9).long()),
          "table": torch.ones(1, 1, 11).double()}, "noise.draws: expected at most 8"),
        ({"known": Known(torch.ones(1, 3), torch.ones(1, 3) > 0)}, r"table: expected .* 2, 3\]"),
        ({"known": Known(torch.ones(1, 4), torch.ones(1, 3) > 0),
          "table": torch.ones(1, 2, 3).double()}, r"values: expected shape \(2, 3\)"),
        ({"known": Known(torch.ones(1, 3), torch.ones(3, 3) > 0),
          "table": torch.ones(1, 2, 3).double()}, r"mask: expected shape \(2, 3\)"),
        ({"known": Known(torch.ones(1, 3).int(), torch.ones(1, 3) > 0),
          "table": torch.ones(1, 2, 3).double()}, "values: expected one of"),
        ({"known": Known(torch.ones(1, 3), torch.ones(1, 3).int()),
          "table": torch.ones(1, 2, 3).double()}, "mask: expected torch.bool or one of"),
        ({"known": Known(torch.ones(1, 3), torch.ones(1, 3, requires_grad=True)),
          "table": torch.ones(1, 2, 3).double()}, "mask: .*detach"),
    ],
)  # fmt: skip
def test_malformed_calls_name_the_argument(change, message):
    call = {
        "inputs": [torch.ones(2, 3)] * 2,
        "table": torch.ones(1, 1, 2, dtype=torch.float64),
        "dtypes": [torch.float32],
    } | change
    with pytest.raises(ValueError, match=message):
        kernels.combine(call.pop("inputs"), call.pop("table"), call.pop("dtypes"), **call)
