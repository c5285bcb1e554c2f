"""`combine.registers`: `combine` on tensors that come with the call, and what it keeps of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen import kernels
from fastgen.kernels import Noise
from fastgen.kernels.combine import reference

registers = pytest.importorskip(
    "fastgen.kernels.combine.registers", reason="the C++ kernels are not built"
)
KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
GIVEN = registers.GIVEN


def tensors(shape, kinds, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(k) for k in kinds]


@pytest.mark.usefixtures("each_look")
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(KINDS), min_size=4, max_size=4),
    source=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
    outputs=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    keep=st.dictionaries(st.integers(4, 7), st.sampled_from([None, 0, 1, 4, 5]), max_size=3),
    clip=st.sampled_from([None, (-0.5, 0.7)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_reference(shape, kinds, source, outputs, keep, clip, seed):
    """Any given tensors and registers; the registers afterwards are what ``keep`` says."""
    brought = tensors(shape, kinds, seed)
    wide = torch.float64 if kinds[0] is torch.float64 else torch.float32
    own = tensors(shape, [wide] * 2, seed + 1)
    everything = dict(enumerate(brought)) | {4: own[0], 5: own[1]}
    inputs = [everything[i] for i in source]
    written = [wide for i in keep.values() if i is None]
    extra = clip is not None
    size = (1, len(outputs) + len(written) + extra, len(inputs) + extra)
    table = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    run = registers.describe(brought[0], source, inputs, outputs, list(keep.items()), table, clip)
    expected = reference.combine(inputs, table, outputs + written, clip)
    held, free = {4: (own[0], True), 5: (own[1], False)}, []
    made = run(held, free, *brought)
    assert made is not None
    new = iter(expected[len(outputs) :])
    kept = {k: next(new) if i is None else everything[i] for k, i in keep.items()}
    assert held.keys() == kept.keys()
    for found, want in zip(
        [*made, *(held[k][0] for k in kept)],
        [*expected[: len(outputs)], *kept.values()],
        strict=True,
    ):
        assert found.dtype == want.dtype
        assert torch.equal(found, want)
    for k, i in keep.items():
        assert held[k][1] == (i in (None, 4)), "whose memory it is goes with the tensor"
    assert [entry[0] is own[0] for entry in free] == [True] * (4 not in keep.values())


def added(**options):
    x, y = tensors((3, 4), [torch.float32] * 2)
    table = torch.ones(1, 1, 2, dtype=torch.float64)
    run = registers.describe(x, [0, 1], [x, y], [torch.float32], [], table, **options)
    return lambda *given: run({}, [], *given, None, None), x, y


@pytest.mark.usefixtures("each_look")
def test_what_does_not_fit_runs_nothing():
    run, x, y = added()
    assert torch.equal(run(x, y)[0], x + y)
    for other in (
        y.double(),
        y.bfloat16(),
        y[:2],
        y[None],
        y.T.contiguous().T,
        y.clone().requires_grad_(),
        torch.nn.Parameter(y),
        y.to("meta"),
        y.to_sparse(),
        y.numpy(),
        None,
        1,
    ):
        assert run(x, other) is None
        assert run(other, y) is None


@pytest.mark.usefixtures("each_look")
@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 3), (2, 0), (1, 1)])
def test_strides_without_meaning(shape):
    """Dimensions of one element and tensors of none are contiguous whatever their strides."""
    x = torch.ones(9, 9)[: shape[0], : shape[1]]
    if not x.is_contiguous():
        x = torch.ones(shape).as_strided(shape, (7, 1) if shape[0] == 1 else (1, 7))
    table = torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    run = registers.describe(x, [0], [x], [x.dtype], [], table)
    (y,) = run({}, [], x, None, None, None)
    assert torch.equal(y, 2 * torch.ones(shape))


@pytest.mark.usefixtures("each_look")
def test_buffers_are_written_again_once_free():
    """Two registers that shift: after the first calls no memory is made for them."""
    x = torch.ones(5)
    table = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    held, free = {4: (torch.zeros(5), True)}, []
    run = registers.describe(x, [0, 4], [x, x], [x.dtype], [(4, None), (5, 4)], table)
    seen = set()
    for i in range(6):
        assert run(held, free, x, None, None, None) is not None
        seen.add(held[4][0].data_ptr())
        assert torch.equal(held[4][0], torch.full((5,), i + 1.0))
        assert torch.equal(held[5][0], torch.full((5,), float(i)))
    assert len(seen) == 3
    free[:] = [(torch.zeros(4), True)]  # of another shape: not for this
    assert run(held, free, x, None, None, None) is not None
    assert torch.equal(held[4][0], torch.full((5,), 7.0))


def test_a_buffer_of_two_registers_is_free_once():
    x = torch.ones(5)
    table = torch.ones((1, 1, 1), dtype=torch.float64)
    held, free = {4: (torch.zeros(5), True)}, []
    for keep in ([(4, 4), (5, 4)], []):
        run = registers.describe(x, [0], [x], [x.dtype], keep, table)
        assert run(held, free, x, None, None, None) is not None
    assert held == {}
    assert len(free) == 1


def test_the_table_lives_as_long_as_the_call():
    x = torch.ones(3)

    def described():
        table = torch.full((1, 1, 1), 3.0, dtype=torch.float64)
        return registers.describe(x, [0], [x], [x.dtype], [], table)

    calls = [described() for _ in range(50)]
    assert all(torch.equal(c({}, [], x, None, None, None)[0], 3 * x) for c in calls)


def test_refusals():
    x, y = added()[1:]
    table = torch.ones(1, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="one for all rows"):
        registers.describe(x, [0], [x], [x.dtype], [], torch.ones(3, 1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="table"):
        registers.describe(x, [0], [x], [x.dtype], [], table)
    call = registers.describe(x, [0, 4], [x, y], [x.dtype], [(4, 4)], table)
    assert call({}, [], x, None, None, None) is None, "a register that is not held"
    with pytest.raises(TypeError, match="expected run"):
        call((), [], x, None, None, None)
    unread = registers.describe(x, [0, 1], [x, y], [x.dtype], [(4, 6)], table)
    with pytest.raises(RuntimeError, match="not held"):
        unread({}, [], x, y, None, None)


def followed():
    """What follows an owner with one step, x + y under the key 1; the owner; its registers."""
    x, y = tensors((3, 4), [torch.float32] * 2)
    table = torch.ones(1, 1, 2, dtype=torch.float64)
    run = registers.describe(x, [0, 1], [x, y], [x.dtype], [(4, 0)], table)
    owner, held = {"grid": [1], "k": 0}, {}
    unchanged = registers.watch(owner, ["grid", "sigmas"])
    return registers.follow(unchanged, {1: run}, held, []), owner, held, x, y


def test_steps_are_followed_while_their_owner_is_the_same():
    follow, owner, held, x, y = followed()
    (z,) = follow(owner, 1, 0.5, x, y)
    assert torch.equal(z, x + y)
    assert held[4][0] is x
    assert follow(owner, 2, 0.5, x, y) is None, "no such step"
    assert follow(owner, 1, 3, x, y) is None, "an int may be a position"
    assert follow(owner, 1, 0.5, x[:1], y) is None, "of another shape"
    assert follow({**owner, "grid": [1]}, 1, 0.5, x, y) is None, "equal, but another object"
    assert follow({"k": 0}, 1, 0.5, x, y) is None
    assert follow({**owner, "sigmas": x}, 1, 0.5, x, y) is None
    assert follow({**owner, "sigmas": None}, 1, 0.5, x, y) is not None


def test_following_refuses_other_calls():
    follow, owner, _, x, y = followed()
    with pytest.raises(TypeError, match="expected follow"):
        follow(owner, 1, x, y)
    with pytest.raises(TypeError, match="unhashable"):
        follow(owner, [], 0.5, x, y)
    foreign = registers.follow(registers.watch({}, []), {1: len}, {}, [])
    with pytest.raises(TypeError, match="describe_step"):
        foreign(owner, 1, 0.5, x, y)

    for other in (len, lambda own: True):
        with pytest.raises(TypeError, match="what watch returns"):
            registers.follow(other, {}, {}, [])


def test_a_watch_sees_other_objects_and_other_numbers():
    """Written in place, also by routes that torch does not count; the same numbers are the same."""
    table = torch.arange(6.0)
    own = {"table": table, "strided": torch.arange(6.0)[::2], "long": torch.zeros(20_000)}
    own |= {"number": torch.tensor(3), "none": None, "text": "a"}
    unchanged = registers.watch(own, [*own, "missing"])
    assert unchanged(own)
    assert unchanged(own | {"else": 1})
    assert not unchanged(own | {"missing": 1})
    for other in (table.clone(), torch.arange(5.0), None, 3):
        assert not unchanged(own | {"table": other})
    table[2] = 7
    assert not unchanged(own)
    table.data[2] = 2
    assert unchanged(own)
    table.numpy()[0] = -1
    assert not unchanged(own)
    table[0] = 0
    with torch.inference_mode():
        own["number"].add_(1)
    assert not unchanged(own)
    for name in ("strided", "long"):
        unchanged = registers.watch(own, [name])
        assert unchanged(own)
        own[name].add_(1)
        assert not unchanged(own)
    with torch.inference_mode():
        made = {"x": torch.zeros(3)}
        unchanged = registers.watch(made, ["x"])
        made["x"][1] = 1
    assert not unchanged(made)
    resized = {"x": torch.zeros(3)}
    unchanged = registers.watch(resized, ["x"])
    resized["x"].resize_(40_000)
    assert not unchanged(resized)
    with pytest.raises(TypeError, match="unchanged"):
        unchanged([])


def test_gradients_are_refused_only_where_they_are_recorded():
    follow, owner, _, x, y = followed()
    x.requires_grad_()
    assert follow(owner, 1, 0.5, x, y) is None
    with torch.no_grad():
        assert not follow(owner, 1, 0.5, x, y)[0].requires_grad
    with torch.inference_mode():
        assert follow(owner, 1, 0.5, x, y)[0].is_inference()


def test_keys_of_any_strides():
    like = torch.randn(64, 8)
    seeds, ids = torch.tensor([7]).expand(64), torch.arange(128)[::2]
    noise = Noise(seeds, ids, torch.tensor([1]), 1)
    table = torch.ones(1, 1, 2, dtype=torch.float64)
    run = registers.describe(like, [0], [like], [torch.float32], None, table, None, noise)
    del noise
    result = run({}, [], like, None, None, None)[0]
    own = Noise(torch.tensor([7]), ids.clone(), torch.tensor([1]), 1)
    assert torch.equal(result, kernels.combine([like], table, noise=own)[0])
