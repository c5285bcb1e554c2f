"""A network's keyword arguments: rows of samples, tables that all share, nested and odd values."""

import pytest
import torch

import fastgen
from fastgen import Guidance, schedules

SCHEDULE = schedules.Rectified()
# The velocity of x e^(1 - t), whatever the table's rows are: its mean is 1.
TABLE = torch.tensor([[0.5, 1.0, 1.5], [2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.25, 0.75, 2.0]])
STATES = torch.tensor([[0.1] * 3, [5.0] * 3, [300.0] * 3, [1e4] * 3])


def by_table(x, t, table):
    return -x * table.mean()


def test_a_table_of_as_many_rows_as_samples_is_whole_for_each_sample():
    for declared in ({}, {"shared": ("table",)}):
        model = fastgen.Model(by_table, SCHEDULE, "velocity", **declared)
        options = {"rtol": 1e-6, "atol": 1e-3, "net_kwargs": {"table": TABLE}}
        for solver in ("dopri5", "dpm_adaptive"):
            ends = {"start": 0.9, "end": 0.1} if solver == "dpm_adaptive" else {}
            found = fastgen.sample(model, STATES, solver, **options, **ends)
            span = 0.8 if ends else 1.0
            want = STATES * torch.e**span
            torch.testing.assert_close(found, want, rtol=3e-3, atol=1e-3)


def test_a_table_does_not_change_a_likelihood():
    model = fastgen.Model(by_table, SCHEDULE, "velocity")
    x = STATES / 1e4
    found = fastgen.log_likelihood(model, x, net_kwargs={"table": TABLE}, rtol=1e-7, atol=1e-7)
    # x(1) = x e^-1 and the divergence is -3.
    latent = x.double() / torch.e
    want = -0.5 * latent.square().sum(1) - 1.5 * torch.log(torch.tensor(2 * torch.pi)) - 3
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("declared", [{}, {"per_sample": ("y", "scale")}])
@pytest.mark.parametrize("solver", ["dopri5", "dpm_adaptive"])
def test_rows_go_with_their_samples(declared, solver):
    def net(x, t, y, scale):
        assert len(y) == len(x) == len(scale["by"][0])
        return -x * (y * scale["by"][0])[:, None]

    y = torch.tensor([1.0, 0.5, 2.0, 0.1])
    scale = {"by": [torch.tensor([1.0, 2.0, 0.5, 10.0])]}
    model = fastgen.Model(net, SCHEDULE, "velocity", **declared)
    ends = {"start": 0.9, "end": 0.1} if solver == "dpm_adaptive" else {}
    options = {"rtol": 1e-6, "atol": 1e-3, "net_kwargs": {"y": y, "scale": scale}}
    found = fastgen.sample(model, STATES, solver, **options, **ends)
    want = STATES * torch.e ** (0.8 if ends else 1.0)
    torch.testing.assert_close(found, want, rtol=3e-3, atol=1e-3)


def test_a_declaration_saves_evaluations():
    rows = []

    def net(x, t, y):
        rows.append(len(x))
        return -x * y[:, None]

    y = torch.tensor([1.0, 1.0, 1.0, 1.0])
    counts = []
    for declared in ((), ("y",)):
        rows.clear()
        model = fastgen.Model(net, SCHEDULE, "velocity", per_sample=declared)
        options = {"rtol": 1e-6, "atol": 1e-3, "net_kwargs": {"y": y}}
        fastgen.sample(model, STATES, "dopri5", **options)
        counts.append(sum(rows))
    assert counts[1] < counts[0]
    assert min(rows) < 4


def guided(net, unconditional, kwargs, *, declared=None, batched=True, batch=2, solver="euler"):
    calls = []

    def counted(x, t, **arguments):
        calls.append(len(x))
        return net(x, t, **arguments)

    model = fastgen.Model(counted, SCHEDULE, "velocity", **(declared or {}))
    guidance = Guidance(3.0, unconditional, batched=batched)
    options = {"guidance": guidance, "net_kwargs": kwargs}
    found = fastgen.sample(model, torch.zeros(batch, 3), solver, 2, **options)
    return -found[:, 0].tolist()[0] if batch else 0.0, calls


def summed(x, t, **arguments):
    """The velocity is the mean of all conditioning of a row, summed over its parts."""
    total = torch.zeros(len(x))
    for leaf in torch.utils._pytree.tree_leaves(arguments):
        if isinstance(leaf, torch.Tensor):
            total = total + leaf.reshape(len(x), -1).mean(1)
        elif isinstance(leaf, float):
            total = total + leaf
    return total[:, None].expand(x.shape)


ONE, ZERO = torch.ones(2, 4), torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("kwargs", "unconditional", "want", "calls"),
    [
        ({"y": ONE}, {"y": ZERO}, 3.0, 1),
        ({"y": ONE}, {"y": ZERO[:1]}, 3.0, 1),
        ({"y": {"a": ONE, "b": [ONE]}}, {"y": {"a": ZERO, "b": [ZERO]}}, 6.0, 1),
        ({"y": {"a": ONE, "b": ONE}}, {"y": {"a": ZERO, "b": ONE}}, 4.0, 1),
        ({"y": (ONE, None, 2.0)}, {"y": (ZERO, None, 2.0)}, 5.0, 1),
        # What one call cannot have takes two.
        ({"y": ONE}, {"y": None}, 3.0, 2),
        ({"y": 1.0}, {"y": 0.0}, 3.0, 2),
        ({"y": {"a": ONE}}, {"y": {"b": ZERO}}, 3.0, 2),
        ({"y": ONE, "z": ONE}, {"y": ZERO}, 4.0, 2),
        ({"y": ONE, "z": [ONE]}, {"y": ZERO}, 4.0, 2),
        ({}, {"y": -1.0 + ZERO}, 2.0, 2),
        ({}, {"y": -1.0}, 2.0, 2),
    ],
)
def test_guidance_by_parts_of_arguments(kwargs, unconditional, want, calls):
    """u + 3 (c - u), by one call or by two."""
    found, rows = guided(summed, unconditional, kwargs)
    assert found == pytest.approx(want)
    one = len(rows) == 2
    if unconditional["y"] is not None and kwargs.keys() == unconditional.keys() and calls == 1:
        shared = isinstance(kwargs["y"], dict) and kwargs["y"]["b"] is ONE
        assert one is not shared
    if calls == 2:
        assert rows == [2] * 4
    apart, _ = guided(summed, unconditional, kwargs, batched=False)
    assert apart == pytest.approx(want)


@pytest.mark.parametrize(
    ("declared", "calls", "rows"),
    [({}, 4, 2), ({"per_sample": ("z",)}, 2, 4)],
)
def test_what_is_said_to_be_per_sample_is_joined(declared, calls, rows):
    arguments = {"y": ONE, "z": {"hint": ONE}}
    found, seen = guided(summed, {"y": ZERO}, arguments, declared=declared)
    assert found == pytest.approx(4.0)
    assert seen == [rows] * calls


@pytest.mark.parametrize("declared", [{}, {"shared": ("table",)}])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_shared_table_is_not_doubled(declared, batch):
    def net(x, t, y, table):
        assert table.shape == (2, 3)
        return y[:, None] * table.sum().expand(x.shape)

    arguments = {"y": torch.ones(batch), "table": torch.full((2, 3), 0.5)}
    found, calls = guided(net, {"y": torch.zeros(1)}, arguments, declared=declared, batch=batch)
    assert found == pytest.approx(9.0)
    assert (len(calls) == 2) is (bool(declared) or batch != 2)


@pytest.mark.parametrize("solver", ["euler", "heun", "dopri5"])
@pytest.mark.parametrize("batched", [True, False])
def test_a_name_given_for_u_alone_is_not_handed_to_c(solver, batched):
    def net(x, t, drop=0.0):
        return (2.0 * (1 - torch.as_tensor(drop))).expand(x.shape)

    model = fastgen.Model(net, SCHEDULE, "velocity")
    guidance = Guidance(3.0, {"drop": 1.0}, batched=batched)
    steps = None if solver == "dopri5" else 3
    found = fastgen.sample(model, torch.zeros(2, 3), solver, steps, guidance=guidance)
    torch.testing.assert_close(found, torch.full((2, 3), -6.0))


def test_rows_and_tables_of_served_requests():
    def net(x, t, y, table):
        return -x * y[:, None] * table.mean()

    table = torch.tensor([[1.0, 1.0], [0.5, 1.5]])
    model = fastgen.Model(net, SCHEDULE, "velocity", shared=("table",))
    sampler = fastgen.Sampler(model, fastgen.plan("euler", SCHEDULE, 3))
    batch = sampler.serve((2, 2), y=torch.ones(2), table=table)
    with pytest.raises(ValueError, match="table: it has no batch axis"):
        batch.admit(seed=0, y=torch.tensor(2.0), table=table[0])
    tickets = [batch.admit(seed=i, y=torch.tensor(float(i + 1))) for i in range(2)]
    done = {}
    while batch.active:
        done |= batch.step()
    for i, ticket in enumerate(tickets):
        y = torch.tensor([i + 1.0])
        alone = sampler((1, 2), seed=i, y=y, table=table)[0]
        assert torch.equal(done[ticket], alone)


def test_declarations_are_checked():
    def make(**options):
        return fastgen.Model(lambda x, t, **k: x, SCHEDULE, "velocity", **options)

    with pytest.raises(ValueError, match=r"\['y'\] cannot be both"):
        make(shared=("y",), per_sample=("y",))
    for wrong in ("y", 3, (1,)):
        with pytest.raises(TypeError, match="shared="):
            make(shared=wrong)
    model = make(per_sample=("y",))
    for y in (torch.ones(3), torch.tensor(1.0), ["a", "b"]):
        with pytest.raises(ValueError, match=r"y: Model\(per_sample"):
            fastgen.sample(model, (2, 3), "dopri5", net_kwargs={"y": y})


@pytest.mark.parametrize("name", ["seed", "device", "trajectory", "differentiable", "callback"])
def test_arguments_with_names_of_ours_come_in_a_dictionary(name):
    seen = []

    def net(x, t, **arguments):
        seen.append(arguments)
        return x

    model = fastgen.Model(net, SCHEDULE, "velocity")
    sampler = fastgen.Sampler(model, fastgen.plan("euler", SCHEDULE, 2))
    own = {name: 5}
    sampler((2, 3), net_kwargs=own, y=1)
    fastgen.sample(model, (2, 3), "euler", 2, net_kwargs=own)
    sampler.capture((2, 3), net_kwargs=own)(net_kwargs=own)
    model.predict("data", torch.ones(2, 3), 0.5, net_kwargs=own)
    fastgen.log_likelihood(model, torch.ones(2, 3), net_kwargs=own)
    assert all(call[name] == 5 for call in seen)
    assert seen[0] == {**own, "y": 1}
    with pytest.raises(TypeError, match="y given twice"):
        sampler((2, 3), net_kwargs={"y": 1}, y=1)
    with pytest.raises(TypeError, match=r"net_kwargs.*: expected a dictionary"):
        sampler((2, 3), net_kwargs=[1])
