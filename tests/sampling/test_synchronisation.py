"""The loop never makes the host wait for the device: on a GPU, and as far as a CPU can tell."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastgen
from fastgen import schedules
from fastgen.model import dynamic_threshold
from tests.support.tape import WAITING

SCHEDULE = schedules.LinearVP()
SHAPE = (3, 2, 5)
RUNS = [
    {"solver": name} for name in ("ddpm", "ddim", "dpmpp_2m", "unipc", "heun", "euler_ancestral")
] + [
    {"solver": "ddpm", "noise": "brownian"},
    {"solver": "ddpm", "guidance": 2.5},
    {"solver": "dpmpp_2m", "guidance": torch.tensor([1.0, 2.0, 3.0])},
    {"solver": "dpmpp_2m", "guidance": 2.5, "rescale": 0.7},
    {"solver": "dpmpp_2m", "guidance": torch.tensor([1.0, 2.0, 3.0]), "rescale": 0.7},
    {"solver": "dpmpp_2m", "transform": dynamic_threshold()},
    {"solver": "predictor_corrector", "step_rule": "norm"},
    {"solver": "ddpm", "dtype": torch.float64},
]


def network(x, t, shift):
    shape = (-1, *[1] * (x.ndim - 1))
    return torch.tanh(x + shift.reshape(shape)) * t.reshape(shape).to(x.dtype)


def make(solver, guidance=None, rescale=0.0, device="cpu", **options):
    own = {k: options.pop(k) for k in ("transform", "noise", "dtype") if k in options}
    if guidance is not None:
        unconditional = {"shift": torch.zeros(3, device=device)}
        own["guidance"] = fastgen.Guidance(guidance, unconditional, rescale=rescale)
    plan = fastgen.plan(solver, SCHEDULE, 4, start=0.9, **options)
    return fastgen.Sampler(fastgen.Model(network, SCHEDULE, "noise"), plan, **own)


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait if the tensors were on a GPU."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation._schema.name not in WAITING, f"{operation} waits for the device"
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", RUNS)
def test_no_value_is_read_back_and_none_is_sent(options):
    """Of a second run, whose tables are on the device; everything from seeds to result counts."""
    sampler = make(**options)
    shift = torch.ones(3)
    observed = {"shift": shift, "trajectory": True, "callback": lambda step: None}
    expected, (_, states) = sampler(SHAPE, seed=5, shift=shift), sampler(SHAPE, seed=5, **observed)
    with NoWaiting():
        result, (_, again) = sampler(SHAPE, seed=5, shift=shift), sampler(SHAPE, seed=5, **observed)
    assert torch.equal(result, expected)
    assert torch.equal(states, again)


def test_the_check_sees_waiting():
    with NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(1).item()
    with NoWaiting(), pytest.raises(AssertionError, match="lift_fresh"):
        torch.tensor([1.0])


@pytest.mark.gpu
@pytest.mark.parametrize("options", RUNS)
@pytest.mark.parametrize("seed", [5, [1, 2, 3]])
def test_no_synchronisation_on_a_gpu(options, seed):
    sampler = make(**options, device="cuda")
    shift = torch.ones(3, device="cuda")
    expected = sampler(SHAPE, seed=seed, device="cuda", shift=shift)  # compiles kernels
    fresh = make(**options, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [
            s(SHAPE, seed=seed, sample_ids=ids, device="cuda", shift=shift)
            for s in (sampler, fresh)  # with tables on the device, and without
            for ids in (None, [0, 1, 2])
        ]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for result in results:
        assert torch.equal(result, expected)


@pytest.mark.gpu
def test_replay_does_not_synchronise():
    sampler = make("ddpm", device="cuda")
    captured = sampler.capture(SHAPE, device="cuda", shift=torch.ones(3))
    other = make("ddpm", timesteps="log_snr").plan
    captured(seed=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        captured(seed=[4, 5, 6])
        captured.exchange(other)
        captured(seed=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
