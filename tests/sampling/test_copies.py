"""Copies of what has run work on memory of their own, and give what the original gives."""

import copy
import gc
import io
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import fastgen
from fastgen import schedules
from fastgen.integrations.k_diffusion import sampling as k_diffusion
from fastgen.kernels import dispatch

SCHEDULE = schedules.CosineVP()
KINDS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "torch.save": lambda x: saved(x),
}
every_kind = pytest.mark.parametrize("copied", KINDS.values(), ids=KINDS)
SOLVERS = ("ddim", "ddpm", "dpmpp_2m", "unipc", "heun", "stork")


class Half(nn.Module):
    def forward(self, x, t, shift=0.0):
        return 0.5 * x + shift


def saved(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def make(solver="dpmpp_2m", backend=None, **options):
    own = {"end": 0.01} if solver in ("heun", "stork") else {}
    plan = fastgen.plan(solver, SCHEDULE, 5, **own)
    return fastgen.Sampler(fastgen.Model(Half(), SCHEDULE, "v"), plan, backend=backend, **options)


def states(count=2, shape=(4, 16)):
    return [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(count)]


@every_kind
@pytest.mark.parametrize("solver", SOLVERS)
def test_samplers(solver, copied, backend):
    x, y = states()
    sampler = make(solver, backend)
    expected = make(solver, backend)(y, seed=3)
    sampler(x, seed=2)
    other = copied(sampler)
    assert torch.equal(other(y, seed=3), expected)
    assert torch.equal(sampler(y, seed=3), expected)
    assert torch.equal(other(y, seed=3, trajectory=True)[0], expected)
    assert torch.equal(other(y[:2], seed=3), make(solver, backend)(y[:2], seed=3))


def test_the_original_may_go(backend):
    (x,) = states(1, (8, 512))
    sampler = make("dpmpp_2m", backend)
    expected = sampler(x)
    other = copy.deepcopy(sampler)
    del sampler
    gc.collect()
    held = []
    for i in range(50):
        held = [torch.full((4096,), float(i)) for _ in range(8)] + held[:40]
        assert torch.equal(other(x), expected)


def test_options_of_a_run():
    """Guidance for each sample, and increments of a path, lie in tables of their own."""
    x, y = states()
    guidance = fastgen.Guidance(torch.tensor([1.0, 2.0, 3.0, 4.0]), {"shift": torch.zeros(4, 1)})
    for options in ({"guidance": guidance}, {"noise": "brownian"}, {"dtype": torch.float64}):
        named = {"shift": torch.ones(4, 1)} if "guidance" in options else {}
        sampler = make("ddpm", **options)
        sampler(x, **named)
        expected = make("ddpm", **options)(y, seed=1, **named)
        for copied in KINDS.values():
            assert torch.equal(copied(sampler)(y, seed=1, **named), expected)


def test_a_module_that_holds_one():
    """An average of a policy's weights samples with those weights."""

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 3)
            model = fastgen.Model(Called(self.net), SCHEDULE, "v")
            self.sampler = fastgen.Sampler(model, fastgen.plan("ddim", SCHEDULE, 4))

        def forward(self, x):
            return self.sampler(x)

    x, y = states(shape=(2, 3))
    policy = Policy()
    policy(x)
    average = torch.optim.swa_utils.AveragedModel(policy)
    assert torch.equal(average(y), policy(y))
    with torch.no_grad():
        average.module.net.weight.mul_(2)
    fresh = Policy()
    fresh.load_state_dict(average.module.state_dict())
    assert torch.equal(average(y), fresh(y))


class Called(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x)


@every_kind
def test_captured(copied):
    shift = torch.full((4, 1), 0.25)
    captured = make("ddpm").capture((4, 16), shift=torch.zeros(4, 1))
    captured(seed=1, shift=shift)
    other = copied(captured)
    expected = make("ddpm")((4, 16), seed=2, shift=shift)
    assert torch.equal(other(seed=2), expected)  # with the arguments of the last call
    assert torch.equal(captured(seed=2), expected)
    other(seed=2, shift=torch.ones(4, 1))
    assert torch.equal(captured(seed=2), expected)
    plan = fastgen.plan("ddpm", SCHEDULE, 5, timesteps="karras")
    other.exchange(plan)
    model = captured.prepared.model
    expected = fastgen.Sampler(model, plan)((4, 16), seed=2, shift=torch.ones(4, 1))
    for again in (other, copied(other)):
        assert torch.equal(again(seed=2), expected)


@every_kind
@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m"])
def test_a_batch_in_the_middle(solver, copied):
    """The original and its copy finish the same requests, and take different ones."""
    plans = [fastgen.plan(solver, SCHEDULE, steps) for steps in (3, 6)]
    batch = make(solver).serve((3, 16), plans=plans, shift=torch.zeros(3, 1))
    first = batch.admit(seed=1, shift=torch.ones(1))
    batch.step()
    second = batch.admit(seed=2, plan=plans[1])
    batch.step()
    other = copied(batch)
    found = []
    for own, seed in ((other, 3), (batch, 4)):
        ticket = own.admit(seed=seed, plan=plans[0])
        done = {}
        while own.active:
            done |= own.step()
        found.append(done)
        model = own._prepared.model
        alone = fastgen.Sampler(model, plans[0])((1, 16), seed=seed, shift=torch.zeros(1, 1))
        assert torch.equal(done[ticket], alone[0])
    for ticket in (first, second):
        assert torch.equal(found[0][ticket], found[1][ticket])
    alone = make(solver)((1, 16), seed=1, shift=torch.ones(1, 1))
    assert torch.equal(found[1][first], alone[0])


@every_kind
def test_brownian_paths(copied):
    path = fastgen.BrownianPath((3, 5), 0.0, 2.0, seed=4)
    path(0.0, 0.7)
    other = copied(path)
    expected = fastgen.BrownianPath((3, 5), 0.0, 2.0, seed=4)
    assert torch.equal(other(0.7, 1.1), expected(0.7, 1.1))
    assert torch.equal(path(0.7, 1.1), expected(0.7, 1.1))


@pytest.mark.parametrize("operation", ["bind_combine", "bind_stochastic"])
@every_kind
def test_calls_on_addresses_refuse(operation, copied, backend):
    x, out = torch.ones(2, 3), torch.empty(2, 3)
    shape = (1, 1, 1) if operation == "bind_combine" else (1, 1, 1, 1, 5)
    bind = dispatch.find(operation, torch.device("cpu"), backend)
    bound = bind([x], [out], torch.ones(shape, dtype=torch.float64))
    with pytest.raises(TypeError, match="addresses"):
        copied(bound)


def test_threads():
    """Eight threads share one sampler."""
    sampler = make("ddpm")
    expected = [make("ddpm")((4, 16), seed=i) for i in range(8)]
    wrong = []

    def work(i):
        for _ in range(20):
            if not torch.equal(sampler((4, 16), seed=i), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_integrate():
    """What is shared between them: a path with its memory, and prepared programs of a drop-in."""
    ys, path = states(8, (4, 6)), fastgen.BrownianPath((4, 6), seed=1)
    levels = torch.tensor([10.0, 3.0, 1.0, 0.0])
    routes = (
        lambda i: fastgen.odeint(lambda t, y: -y * (1 + y * y), ys[i], [0.0, 1.0])[-1],
        lambda i: path(0.1 * i, 0.1 * i + 0.2),
        lambda i: k_diffusion.sample_dpmpp_2m(lambda x, s: x / 2, 9 * ys[i], levels, disable=True),
    )
    for route in routes:
        expected = [route(i) for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: route(i % 8), range(64)))  # noqa: B023
        assert all(torch.equal(x, expected[i % 8]) for i, x in enumerate(found))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("copied", [lambda x: x, copy.deepcopy])
def test_forked_children(copied):
    """Work that the parent shared out among threads is done by one in the child."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (x,) = states(1, (64, 4096))
        sampler = make("ddpm")
        expected = sampler(x, seed=1)
        child = os.fork()
        if child == 0:  # nothing of pytest may run here
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            os._exit(0 if torch.equal(copied(sampler)(x, seed=1), expected) else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
