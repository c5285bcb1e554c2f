"""Seeds, sample ids and draws: whole numbers of any kind, and nothing else, at every entry."""

import numpy as np
import pytest
import torch

import fastgen
from fastgen import couplings, schedules, training
from fastgen.training.paths import Linear

RECTIFIED = schedules.Rectified()


def net(x, t, **_):
    return 0.5 * x


MODEL = fastgen.Model(net, RECTIFIED, "velocity")
X = torch.ones(3, 4)


def sampler(solver="euler", **options):
    return fastgen.Sampler(MODEL, fastgen.plan(solver, RECTIFIED, 3, end=0.1), **options)


def served(**keys):
    batch = sampler().serve((3, 4))
    batch.admit(**keys)
    while batch.active:
        (found,) = batch.step().values() or [None]
    return found


def sde(**keys):
    return fastgen.sdeint(lambda t, y: -y, lambda t, y: 1 + 0 * y, X, [0.0, 1.0], steps=3, **keys)


# What takes a seed, and what takes the ids of three samples.
SEEDED = {
    "randn": lambda seed: fastgen.randn((3, 4), seed=seed),
    "brownian": lambda seed: fastgen.brownian((3, 4), [0.5], seed=seed),
    "BrownianPath": lambda seed: fastgen.BrownianPath((3, 4), seed=seed)(0.0, 0.5),
    "sample": lambda seed: fastgen.sample(MODEL, (3, 4), "euler", 3, seed=seed),
    "dopri5": lambda seed: fastgen.sample(MODEL, (3, 4), "dopri5", seed=seed),
    "Sampler": lambda seed: sampler()((3, 4), seed=seed),
    "capture": lambda seed: sampler().capture((3, 4))(seed=seed),
    "serve": lambda seed: served(seed=seed),
    "sdeint": lambda seed: sde(seed=seed),
    "log_likelihood": lambda seed: fastgen.log_likelihood(
        MODEL, X, divergence="hutchinson", seed=seed
    ),
    "path": lambda seed: Linear(0.1).sample(X, X + 1, seed=seed).x_t,
    "denoising": lambda seed: training.losses.denoising(MODEL, X, seed=seed),
    "sample_pairs": lambda seed: couplings.sample_pairs(
        couplings.sinkhorn(X, X + 1, 1.0), 3, seed=seed
    )[0],
    "wasserstein": lambda seed: couplings.wasserstein(X, X + 1, method="sliced", seed=seed),
}
NUMBERED = {
    "randn": lambda ids: fastgen.randn((3, 4), sample_ids=ids),
    "brownian": lambda ids: fastgen.brownian((3, 4), [0.5], sample_ids=ids),
    "BrownianPath": lambda ids: fastgen.BrownianPath((3, 4), sample_ids=ids)(0.0, 0.5),
    "sample": lambda ids: fastgen.sample(MODEL, (3, 4), "euler", 3, sample_ids=ids),
    "Sampler": lambda ids: sampler()((3, 4), sample_ids=ids),
    "capture": lambda ids: sampler().capture((3, 4))(sample_ids=ids),
    "sdeint": lambda ids: sde(sample_ids=ids),
    "path": lambda ids: Linear(0.1).sample(X, X + 1, sample_ids=ids).x_t,
}


@pytest.mark.parametrize("use", SEEDED.values(), ids=SEEDED)
class TestSeeds:
    def test_whole_numbers_of_any_kind(self, use):
        expected = use(7)
        for seed in (np.int64(7), np.int32(7), np.uint64(7)):
            assert torch.equal(torch.as_tensor(use(seed)), torch.as_tensor(expected))

    @pytest.mark.parametrize("seed", [1.5, 2.0, True, "7", None, np.float64(7), torch.tensor(1.5)])
    def test_others_are_refused(self, use, seed):
        with pytest.raises((TypeError, ValueError), match="seed"):
            use(seed)

    def test_more_than_64_bits(self, use):
        with pytest.raises(ValueError, match="seed"):
            use(2**64)


@pytest.mark.parametrize("use", NUMBERED.values(), ids=NUMBERED)
class TestIds:
    def test_whole_numbers_of_any_kind(self, use):
        expected, numbers = use([5, 0, 2**48 - 1]), np.array([5, 0, 2**48 - 1])
        for ids in (numbers, numbers.astype(np.uint64), list(numbers), torch.tensor(numbers)):
            assert torch.equal(use(ids), expected)

    @pytest.mark.parametrize(
        "ids",
        [
            torch.tensor([0.4, 0.9, 1.0]),
            torch.tensor([torch.nan, 1.0, 2.0]),
            torch.tensor([True, False, True]),
            torch.tensor([0, -1, 2]),
            torch.tensor([0, 1, 2**48]),
            torch.tensor([0, 1, 2**63 - 1]),
            torch.tensor([0, 1]),
            [0.5, 1.0, 2.0],
            [True, False, True],
            [0, -1, 2],
            [0, 1, 2**48],
            np.array([0.0, 1.0, 2.0]),
            "012",
        ],
        ids=str,
    )
    def test_others_are_refused(self, use, ids):
        with pytest.raises((TypeError, ValueError), match="sample_ids"):
            use(ids)


@pytest.mark.parametrize("name", ["seed", "sample_ids"])
def test_numbers_on_the_meta_device_are_none(name):
    with pytest.raises(ValueError, match=rf"^{name}: it is on the meta device"):
        fastgen.randn((1, 3), **{name: torch.zeros(1, dtype=torch.int64, device="meta")})


def test_seeds_of_samples():
    expected = fastgen.randn((2, 4), seed=[3, 2**64 - 1])
    for seed in (np.array([3, 2**64 - 1], dtype=np.uint64), torch.tensor([3, -1])):
        assert torch.equal(fastgen.randn((2, 4), seed=seed), expected)
    with pytest.raises(TypeError, match=r"seed=1\.7"):
        fastgen.randn((2, 4), seed=[1.7, 2])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, "float32", None])
def test_noise_is_floating(dtype):
    for use in (
        lambda: fastgen.randn((2, 4), dtype=dtype),
        lambda: fastgen.brownian((2, 4), [0.5], dtype=dtype),
        lambda: fastgen.BrownianPath((2, 4), dtype=dtype),
    ):
        with pytest.raises(ValueError, match="floating dtype"):
            use()


@pytest.mark.parametrize("draw", [-1, 2**32, 1.0, True])
def test_draws(draw):
    with pytest.raises((TypeError, ValueError), match="draw="):
        fastgen.randn((2, 4), draw=draw)
    with pytest.raises((TypeError, ValueError), match="step="):
        Linear(0.1).sample(X, X + 1, seed=1, step=draw)
    assert torch.equal(fastgen.randn((2, 4), draw=np.int64(3)), fastgen.randn((2, 4), draw=3))


@pytest.mark.parametrize("told", [1.5, [1, 2], object(), None, 3])
def test_how_a_network_is_told_the_time(told):
    with pytest.raises(TypeError, match="time_input="):
        fastgen.Model(net, RECTIFIED, "velocity", time_input=told)


def test_ids_are_looked_at_once(monkeypatch):
    """Samplers draw in every step, and would wait for a device each time."""
    calls, original = [], torch.Tensor.aminmax

    def counted(x, **options):
        calls.append(1)
        return original(x, **options)

    monkeypatch.setattr(torch.Tensor, "aminmax", counted)
    sampler("predictor_corrector")((3, 4), sample_ids=torch.arange(3))
    assert len(calls) == 1
