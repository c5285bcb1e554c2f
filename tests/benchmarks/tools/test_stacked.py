"""Networks trained side by side take the steps that each would take alone; runs go on exactly."""

import math

import pytest
import torch
from torch import nn

from benchmarks.tools import stacked
from benchmarks.tools.stacked import Stack, Targets, euler, losses_of, train


def alone(names, step):
    """Targets that depend on the network's name and the step only."""
    parts = []
    for name in names:
        generator = torch.Generator().manual_seed(1000 * int(name) + step)
        x, y = torch.randn(2, 64, 2, generator=generator)
        t, scale = torch.rand(2, 64, generator=generator)
        parts.append((x, t, scale, y))
    return Targets(*(torch.stack(column) for column in zip(*parts, strict=True)))


def trained(names, steps=30):
    stack, losses = Stack(names), []

    def draw(step):
        targets = alone(names, step)
        losses.append(losses_of(stack, targets).detach())
        return targets

    train(stack, draw, steps)
    return stack, torch.stack(losses)


def test_a_stack_is_its_networks():
    names = ["3", "1", "7"]
    stack, losses = trained(names)
    for k, name in enumerate(names):
        single, alone_losses = trained([name])
        torch.testing.assert_close(losses[:, k], alone_losses[:, 0], rtol=1e-5, atol=1e-6)
        for p, q in zip(stack.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(p[k], q[0], rtol=1e-4, atol=1e-5)


def test_a_stack_is_what_torch_trains():
    """The same first weights, data and optimiser as a torch.nn.Sequential."""
    _, losses = trained(["5"])
    first = Stack(["5"])
    layers = []
    for weight, bias in zip(first.weights, first.biases, strict=True):
        linear = nn.Linear(*weight.shape[1:])
        linear.weight.data, linear.bias.data = weight[0].detach().T, bias[0, 0].detach()
        layers += [linear, nn.SELU()]
    network = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-5)
    for step in range(30):
        x, t, scale, y = (part[0] for part in alone(["5"], step))
        output = network(torch.cat([x, t[:, None]], 1))
        loss = (scale[:, None] * output - y).square().mean()
        torch.testing.assert_close(loss, losses[step, 0], rtol=1e-5, atol=1e-6)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_first_weights_are_those_of_torch():
    stack = Stack(["a", "b"])
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        bound = 1 / math.sqrt(weight.shape[1])
        for x in (weight, bias):
            assert x.abs().max() <= bound
        assert weight.abs().max() > 0.9 * bound
        assert not torch.equal(weight[0], weight[1])


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(stacked, "EVERY", 10)
    expected, mean = Stack(["1", "2"]), Stack(["1", "2"])
    train(expected, lambda step: alone(["1", "2"], step), 25, average=mean)
    path = tmp_path / "run.safetensors"

    def killed(step):
        if step == 17:
            raise KeyboardInterrupt
        return alone(["1", "2"], step)

    options = {"checkpoint": path, "protocol": {"pair": "this"}}
    with pytest.raises(KeyboardInterrupt):
        train(Stack(["1", "2"]), killed, 25, average=Stack(["1", "2"]), **options)
    made = []
    again, average = Stack(["1", "2"]), Stack(["1", "2"])
    options["average"] = average
    train(again, lambda step: made.append(step) or alone(["1", "2"], step), 25, **options)
    assert made == list(range(10, 25))
    for whole, found in ((expected, again), (mean, average)):
        for p, q in zip(whole.parameters(), found.parameters(), strict=True):
            assert torch.equal(p, q)
    assert not torch.equal(mean.weights[0], expected.weights[0])
    with pytest.raises(ValueError, match="remove it"):
        train(again, killed, 26, **options)


def test_euler_follows_a_constant_velocity():
    stack = Stack(["1", "2"])
    with torch.no_grad():
        for p in stack.parameters():
            p.zero_()
        stack.biases[-1][1] = torch.tensor([3.0, -4.0])
    x = torch.randn(2, 700, 2)
    ends, energy = euler(stack, x)
    torch.testing.assert_close(ends[0], x[0])
    torch.testing.assert_close(ends[1], x[1] + torch.tensor([3.0, -4.0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(energy, torch.tensor([0.0, 25.0]), rtol=1e-4, atol=1e-4)
