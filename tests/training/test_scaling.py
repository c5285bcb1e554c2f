"""Data of any scale: statistics, what is stored, what comes out."""

import pytest
import torch

import fastgen
from fastgen import networks
from fastgen.datasets import Arrays
from fastgen.training import Flow, Scaling, Settings, Trainer, load

SCALES, MEANS = torch.tensor([1e4, 1e-3]), torch.tensor([-3e4, 5e-3])


def odd(count=2000):
    return fastgen.randn((count, 2), seed=1) * SCALES + MEANS


@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 3, 4), (50, 3, 4, 5)])
@pytest.mark.parametrize("block", [7, 4096])
def test_statistics_are_those_of_each_channel(shape, block):
    x = fastgen.randn(shape if len(shape) > 1 else (50, 1), seed=2).double() * 3 + 1e6
    x = x if len(shape) > 1 else x[:, 0]
    found = Scaling.of(x, block=block)
    axes = (0, *range(2, x.ndim))
    assert torch.allclose(found.mean, x.mean(axes).reshape(-1), rtol=1e-14)
    assert torch.allclose(found.deviation, x.std(axes, correction=0).reshape(-1), rtol=1e-9)
    scaled = found.encode(x)
    assert torch.allclose(scaled.std(axes, correction=0), torch.ones(()).double(), rtol=1e-9)
    assert torch.allclose(found.decode(scaled), x, rtol=1e-14)


def test_constant_channels_and_parts_of_large_sets():
    x = torch.stack([torch.full((100,), 0.1), torch.arange(100.0)], 1)
    assert Scaling.of(x).deviation[0] == 1
    assert torch.equal(Scaling.of(x).encode(x)[:, 0], torch.zeros(100))
    part = Scaling.of(x, most=34)
    assert part.mean[1] == pytest.approx(float(x[::3, 1].mean()))
    records = Arrays(x.numpy())
    assert torch.equal(Scaling.of(records).deviation, Scaling.of(x).deviation)


def test_data_of_1e4_beside_1e_3_train(tmp_path):
    data, objective = odd(), Flow()
    settings = Settings(steps=400, batch=256, learning_rate=5e-3, average=0.99, warm_up=20)
    torch.manual_seed(0)
    network = networks.MLP((2,), (48, 48), activation="silu")
    scaling = Scaling.of(data)
    trainer = Trainer(network, objective.loss, data, settings, scaling=scaling)
    trainer.run(checkpoint=tmp_path / "a.safetensors")
    trained = load(tmp_path / "a.safetensors")
    assert trained.scaling.to_config() == scaling.to_config()
    x = trained.scaling.sample(trained.model(), 4000, "heun", 20, seed=3)
    assert ((x.mean(0) - MEANS) / SCALES).abs().max() < 0.12
    assert torch.allclose(x.std(0), SCALES, rtol=0.12)
    with pytest.warns(UserWarning, match=r"scaling=Scaling\.of"):
        plain = Trainer(network, objective.loss, data, settings)
    with pytest.raises(ValueError, match=r"another scaling: .* there, None here"):
        plain.resume(tmp_path / "a.safetensors")


def test_errors_are_clear():
    for make, message in (
        (lambda: Scaling([1.0], [0.0]), "deviation="),
        (lambda: Scaling([1.0], [1.0, 2.0]), "one number of each for every channel"),
        (lambda: Scaling([float("nan")], [1.0]), "mean="),
        (lambda: Scaling.from_config({"mean": [1.0]}), "expected mean and deviation"),
        (lambda: Scaling([1.0, 2.0], [1.0, 1.0]).encode(torch.ones(3, 4)), "expected 2 channels"),
        (lambda: Scaling.of(torch.full((3, 2), torch.inf)), "NaN or infinity"),
        (lambda: Scaling.of(torch.ones(0, 2)), "at least one sample"),
        (lambda: Scaling([1.0], [1.0]).sample(None, 3), "the shape is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_solver_is_chosen_as_elsewhere():
    model = fastgen.Model(lambda x, t: -x, fastgen.schedules.Rectified(), "velocity")
    scaling = Scaling([1.0, 2.0], [3.0, 4.0])
    scaling.shape = (2,)
    found = scaling.sample(model, 3, steps=8, seed=2)
    want = scaling.decode(fastgen.sample(model, (3, 2), steps=8, seed=2))
    assert torch.equal(found, want)
