"""Triton's normals equal the reference bit for bit: under the interpreter, or on a real device."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.kernels.normals import reference
from tests.support import triton_device
from tests.support.triton_device import (
    DEVICE,
    INTERPRETED,
    MARKS,
    ON_CPU,
    defining_kernels,
    to_device,
)

pytest.importorskip("triton")
with defining_kernels():
    import triton.language as tl
    from triton import jit

    from fastgen.kernels.normals import triton
    from fastgen.kernels.triton_support import geometry as geometries
    from fastgen.kernels.triton_support import launch
    from fastgen.kernels.triton_support.noise import four_normals, philox

    @jit
    def philox_kernel(given, found, COUNT: tl.constexpr):
        i = tl.arange(0, COUNT)
        c0, c1 = tl.load(given + i).to(tl.uint32), tl.load(given + COUNT + i).to(tl.uint32)
        given += 2 * COUNT
        c2, c3 = tl.load(given + i).to(tl.uint32), tl.load(given + COUNT + i).to(tl.uint32)
        given += 2 * COUNT
        k0, k1 = tl.load(given + i).to(tl.uint32), tl.load(given + COUNT + i).to(tl.uint32)
        w0, w1, w2, w3 = philox(c0, c1, c2, c3, k0, k1)
        tl.store(found + i, w0.to(tl.int64))
        tl.store(found + COUNT + i, w1.to(tl.int64))
        tl.store(found + 2 * COUNT + i, w2.to(tl.int64))
        tl.store(found + 3 * COUNT + i, w3.to(tl.int64))

    @jit
    def four_normals_kernel(blocks, keys, found):
        i = tl.arange(0, 4)
        draw, stream = tl.load(keys + 2).to(tl.uint32), tl.load(keys + 3).to(tl.uint32)
        sample, seed = tl.load(keys), tl.load(keys + 1)
        z0, z1, z2, z3 = four_normals(tl.load(blocks + i), sample, seed, draw, stream)
        tl.store(found + 4 * i, z0)
        tl.store(found + 4 * i + 1, z1)
        tl.store(found + 4 * i + 2, z2)
        tl.store(found + 4 * i + 3, z3)


pytestmark = MARKS
interpreter_that_rounds = triton_device.interpreter_that_rounds
EXAMPLES = 20 if ON_CPU else 30
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = [F32, F64, BF16, F16]
INT64 = st.integers(-(2**63), 2**63 - 1)
SAMPLE = st.one_of(st.integers(0, 100), st.integers(2**32 - 5, 2**48 - 1))


@settings(max_examples=EXAMPLES)
@given(
    rows=st.integers(0, 9),
    elements=st.integers(0, 70) | st.sampled_from([2, 512, 1027]),
    per_row=st.booleans(),
    draw=st.one_of(st.integers(0, 3), st.integers(2**32 - 3, 2**32 - 1)),
    stream=st.integers(0, 255),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_normals_equal_reference(rows, elements, per_row, draw, stream, dtype, data):
    seeds = torch.tensor(data.draw(st.lists(INT64, min_size=rows, max_size=rows)))
    seeds = seeds.long() if per_row and rows else torch.tensor([data.draw(INT64)])
    ids = torch.tensor(data.draw(st.lists(SAMPLE, min_size=rows, max_size=rows))).long()
    expected = reference.normals(elements, seeds, ids, draw, stream).to(dtype)
    number = torch.tensor(draw, device=DEVICE) if data.draw(st.booleans()) else draw
    z = triton.normals(elements, to_device(seeds), to_device(ids), number, stream, dtype=dtype)
    assert z.dtype == dtype
    assert torch.equal(z.cpu(), expected)


def test_many_normals_equal_reference():
    seeds, ids = torch.tensor([-5]), torch.arange(64) + 2**40
    elements = 2**14
    expected = reference.normals(elements, seeds, ids, 11, 2)
    before = geometries.THREADS
    try:
        geometries.THREADS = 2**14 if INTERPRETED else before
        z = triton.normals(elements, to_device(seeds), to_device(ids), 11, 2)
    finally:
        geometries.THREADS = before
    assert torch.equal(z.cpu(), expected)


@pytest.mark.skipif(ON_CPU, reason="16 million normals")
def test_many_normals_equal_cpp():
    cpp = pytest.importorskip("fastgen.kernels.normals.cpp")
    keys = torch.tensor([2**63 - 5]), torch.arange(64) + 2**33
    expected = cpp.normals(2**18, *keys, 3, 1)
    assert torch.equal(triton.normals(2**18, *map(to_device, keys), 3, 1).cpu(), expected)


def test_philox_words_equal_reference():
    words = torch.randint(0, 2**32, (6, 256), generator=torch.Generator().manual_seed(1))
    words[:, 0], words[:, 1] = 0, 2**32 - 1  # two of Random123's known-answer vectors
    found = torch.empty(4, 256, dtype=torch.int64, device=DEVICE)
    philox_kernel[(1,)](words.to(DEVICE), found, 256)
    expected = reference.philox(tuple(words[:4]), tuple(words[4:]))
    assert torch.equal(found.cpu(), torch.stack(expected))
    assert found[0, 0] == 0x6627E8D5


def test_blocks_beyond_32_bits():
    blocks = torch.tensor([2**32 - 1, 2**32, 2**40 - 1, 7 * 2**33 + 5])
    sample, seed, draw, stream = 2**48 - 2, -(2**62), 2**32 - 1, 255
    counter = (
        blocks & reference.MASK,
        torch.tensor(sample & reference.MASK),
        torch.tensor(draw),
        stream | ((blocks >> 32) & 0xFF) << 8 | (sample >> 32) << 16,
    )
    key = torch.tensor(seed & reference.MASK), torch.tensor((seed >> 32) & 0xFFFFFFFF)
    words = reference.philox(counter, key)
    found = torch.empty(4, 4, device=DEVICE)
    keys = torch.tensor([sample, seed, draw, stream], device=DEVICE)
    four_normals_kernel[(1,)](blocks.to(DEVICE), keys, found, **launch.OPTIONS)
    assert torch.equal(found.cpu(), reference.normals_from_words(words))
