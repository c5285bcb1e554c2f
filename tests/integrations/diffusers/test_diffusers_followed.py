"""Steps that C++ finds by itself: which ones, and what sends them back through Python."""

import copy

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("fastgen.kernels.combine.registers", reason="the C++ kernels are not built")
import diffusers

from tests.integrations.diffusers.scheduler_loops import SHAPE, drop_in, relative
from tests.integrations.diffusers.scheduler_loops import network as strided

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = (
    "FlowMatchEulerDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
)
all_names = pytest.mark.parametrize("name", NAMES)


def network(x, t):
    return strided(x, t).contiguous()


def state(shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def loop(scheduler, x, steps=5, **options):
    scheduler.set_timesteps(steps)
    scheduler.is_scale_input_called = True
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, return_dict=False, **options)[0]
    return x


@pytest.fixture
def prepared():
    """A scheduler after one run, and a list that grows with every step taken in Python."""

    def make(name, **config):
        scheduler, taken = getattr(drop_in, name)(**config), []
        loop(scheduler, state())
        advance = scheduler._advance

        def counted(*arguments):
            taken.append(arguments[1])
            return advance(*arguments)

        scheduler._advance = counted
        return scheduler, taken

    return make


@all_names
@pytest.mark.parametrize("return_dict", [False, True])
def test_a_second_run_is_followed(prepared, name, return_dict):
    scheduler, taken = prepared(name)
    peer = getattr(diffusers, name)()
    results = []
    for s in (peer, scheduler):
        s.set_timesteps(5)
        s.is_scale_input_called = True
        x, found = state(), []
        for t in s.timesteps:
            result = s.step(network(x, t), t, x, return_dict=return_dict)
            found.append(result.to_tuple() if return_dict else result)
            x = found[-1][0]
        results.append(found)
    assert not taken
    for theirs, ours in zip(*results, strict=True):
        assert len(theirs) == len(ours)
        for a, b in zip(theirs, ours, strict=True):
            assert relative(b, a) < 1e-5


@all_names
@pytest.mark.parametrize("begin", [None, 2])
def test_a_run_may_start_anywhere(prepared, name, begin):
    """Where a timestep is there twice, at the second, or where `set_begin_index` says."""
    scheduler, peer = prepared(name)[0], getattr(diffusers, name)()
    scheduler.set_timesteps(5)
    for k in range(len(scheduler.timesteps) - 1):
        results = []
        for s in (scheduler, peer):
            s.set_timesteps(5)
            s.is_scale_input_called = True
            if begin is not None:
                s.set_begin_index(begin)
            t = s.timesteps[k]
            results.append(s.step(network(state(), t), t, state(), return_dict=False)[0])
        assert scheduler.step_index == peer.step_index
        assert relative(*results) < 1e-5


@all_names
def test_other_tensors_are_taken_in_python(prepared, name):
    """Shapes, dtypes, strides and gradients: the result is a fresh scheduler's."""
    scheduler, taken = prepared(name)
    views = state((3, 2, 4, 4)).transpose(0, 1)
    for x in (state((5, 3)), state().double(), state().bfloat16(), views):
        before = len(taken) + 1
        fresh = loop(getattr(drop_in, name)(), x)
        assert torch.equal(loop(scheduler, x), fresh)
        assert len(taken) > before
    gradients = []
    for s in (scheduler, getattr(diffusers, name)()):
        x = state().requires_grad_()
        loop(s, x).square().sum().backward()
        gradients.append(x.grad)
    assert relative(*gradients) < 1e-4


@all_names
def test_other_grids_and_configurations_are_taken_in_python(prepared, name):
    """Assigned in the middle of a run and between runs."""
    results = []
    for s in (prepared(name)[0], getattr(diffusers, name)()):
        s.set_timesteps(5)
        s.is_scale_input_called = True
        x = state()
        for i, t in enumerate(s.timesteps):
            if i == 2:
                s.sigmas = s.sigmas * 0.9
            x = s.step(network(x, t), t, x, return_dict=False)[0]
        if "FlowMatch" in name:
            s.register_to_config(stochastic_sampling=True)
            options = {"generator": torch.Generator().manual_seed(1)}
        else:
            s.register_to_config(prediction_type="v_prediction")
            options = {}
        results.append((x, loop(s, state(), **options), loop(s, state(), 4, **options)))
    for ours, theirs in zip(*results, strict=True):
        assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", NAMES[:2])
def test_whole_numbers_are_refused_in_every_step(prepared, name):
    """As by diffusers, in these two: their own error says why."""
    scheduler = prepared(name)[0]
    scheduler.set_timesteps(5)
    x = state()
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
        with pytest.raises(ValueError, match=r"scheduler\.timesteps"):
            scheduler.step(x, 3, x)
    assert scheduler.step_index == 3


@all_names
@pytest.mark.parametrize("kind", [copy.deepcopy, copy.copy])
def test_copies_follow_their_own_steps(name, kind):
    scheduler = getattr(drop_in, name)()
    expected = loop(scheduler, state())
    scheduler.set_timesteps(5)
    scheduler.is_scale_input_called = True
    x, t = state(), scheduler.timesteps[0]
    first = scheduler.step(network(x, t), t, x, return_dict=False)[0]
    copied = kind(scheduler)
    for s in (copied, scheduler):  # the copy's steps leave the original's registers alone
        x = first
        for t in s.timesteps[1:]:
            x = s.step(network(x, t), t, x, return_dict=False)[0]
        assert torch.equal(x, expected)


def test_churn_and_contract_noise_draw():
    """The key of a step without churn is that of the followed one, with churn it is not."""
    results = []
    for module in (diffusers, drop_in):
        scheduler = module.EulerDiscreteScheduler()
        loop(scheduler, state())
        options = {"s_churn": 0.4, "generator": torch.Generator().manual_seed(2)}
        results.append((loop(scheduler, state(), **options), loop(scheduler, state())))
    for theirs, ours in zip(*results, strict=True):
        assert relative(ours, theirs) < 1e-5
    noisy = drop_in.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True, noise="contract")
    first, second = (
        loop(noisy, state(), generator=torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    assert relative(first, second) > 1e-2
    assert torch.equal(loop(noisy, state(), generator=torch.Generator().manual_seed(1)), first)


def test_inference_mode_is_followed_too(prepared):
    scheduler, taken = prepared("EulerDiscreteScheduler")
    with torch.inference_mode():
        x = loop(scheduler, state())
    assert not taken
    assert x.is_inference()
    assert torch.equal(x, run_again := loop(drop_in.EulerDiscreteScheduler(), state()))
    assert not run_again.is_inference()
