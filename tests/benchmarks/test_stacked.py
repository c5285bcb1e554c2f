"""Networks trained side by side take the steps that each would take alone; runs go on exactly."""

import math
import time

import pytest
import torch
from torch import nn

from benchmarks import gaussian_bridge, harness, pages, stacked, two_dimensional
from benchmarks.stacked import Stack, Targets, euler, losses_of, train
from benchmarks.two_dimensional import (
    PAIRS,
    Protocol,
    Sets,
    run_pair,
    targets_of_step,
    wall_time,
)
from fastgen.couplings import assign


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


def test_seeds_do_not_depend_on_each_other():
    both = run_pair("N->moons", Protocol((0, 3), 20, 200, 64))[0]
    one = run_pair("N->moons", Protocol((3,), 20, 200, 64))[0]
    for a, b in zip([r for r in both if r.seed == 3], one, strict=True):
        assert a[:3] == b[:3]
        assert a[3:] == pytest.approx(b[3:], rel=1e-4)


def test_pairs_are_optimal_whatever_they_start_from():
    sets = Sets("N->s-curve", 2, 100)
    i, j = sets.draw(5, 256)
    paired = sets.paired(i, j)
    assert torch.equal(paired.sort()[0], j.sort()[0])
    cost = (sets.x0[i] - sets.x1[paired]).square().sum().item()
    assert cost == pytest.approx(assign(sets.x0[i], sets.x1[j]).cost, rel=1e-5)


@pytest.mark.parametrize("pair", ["N->8g", "N->s-curve"])
def test_targets_of_a_step(pair):
    """Velocities of the same points along straight lines, and along bridges beside them."""
    sets = [Sets(pair, seed, 100) for seed in (0, 1)]
    x, t, scale, y = targets_of_step(pair, sets, 3, 32)
    sigmas = [1.0, 0.1] if pair == "N->s-curve" else [1.0]
    networks = 4 * (1 + len(sigmas))
    assert x.shape == y.shape == (networks, 32, 2)
    assert t.shape == scale.shape == (networks, 32)
    i, j = sets[1].draw(3, 32)
    for straight, index in ((1, j), (3, sets[1].paired(i, j))):
        x0, x1 = sets[1].x0[i], sets[1].x1[index]
        torch.testing.assert_close(y[straight], x1 - x0)
        for k, sigma in enumerate(sigmas):
            bridge = straight + 4 * (k + 1)
            s = t[bridge, :, None]
            torch.testing.assert_close(x[straight], (1 - s) * x0 + s * x1)
            z = (x[bridge] - x[straight]) / (s * (1 - s)).sqrt()
            slope = (1 - 2 * s) / (2 * (s * (1 - s)).sqrt())
            torch.testing.assert_close(y[bridge], x1 - x0 + slope * z, rtol=1e-3, atol=1e-3)
            assert 0.5 * sigma < z.std() < 1.5 * sigma
    assert (scale == 1).all()


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


def test_divergence_of_a_known_gaussian():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    mean, variance = gaussian_bridge.truth(0.5)
    assert mean == 0
    assert variance == pytest.approx(0.5 + 0.25 * math.sqrt(5))
    expected = 3 / 2 * (1 / variance - 1 + math.log(variance))
    assert gaussian_bridge.divergence(x, mean, variance) == pytest.approx(expected, abs=3e-4)
    assert gaussian_bridge.divergence(x, 1.0, 1.0) == pytest.approx(1.5, abs=0.02)


def test_the_true_drift_simulates_the_bridge():
    """With the exact drift of the bridge the divergences are those of finite samples."""
    dims, points = 4, 4000

    class Exact(nn.Module):
        def forward(self, x, t):
            mean, spread = gaussian_bridge.truth(float(t[0, 0]))
            slope = (gaussian_bridge.truth(float(t[0, 0]) + 1e-6)[1] - spread) / 1e-6
            flow = 2 * gaussian_bridge.SHIFT + slope / (2 * spread) * (x - mean)
            score = -(x - mean) / spread
            return torch.cat([flow[:1], gaussian_bridge.SIGMA**2 / 2 * score[:1]])

    floor = (dims * (dims + 1) / 2 + dims) / (2 * points)
    found = gaussian_bridge.simulate(Exact(), 1, dims, points)[0]
    assert 0 < found < 4 * floor


def test_rows_of_a_run(tmp_path):
    """What a small run writes, read again as a page: ours beside what was published."""
    protocol = Protocol((0, 1), 3, 100, 32)
    pair = two_dimensional.rows_of("N->8g", *run_pair("N->8g", protocol), protocol)
    bridge = gaussian_bridge.rows_of(
        "bridge 5-D", *gaussian_bridge.run("bridge 5-D", protocol), protocol
    )
    path = tmp_path / "rows.csv"
    harness.write(pair + bridge, path)
    rows = harness.read(path)
    by = {(r.case, r.provider, r.metric): r for r in rows}
    assert by["N->8g, OT-CFM", "published", "W2"].median == 0.303
    assert by["N->8g, OT-CFM", "published", "W2"].p80 == pytest.approx(0.346)
    ours = by["N->8g, OT-CFM", "fastgen", "W2"]
    assert ours.repeats == 2
    values = [float(v) for v in ours.note.removeprefix("seeds: ").split()]
    assert ours.median == pytest.approx(sum(values) / 2, abs=1e-3)
    assert ("N->8g, OT-CFM, averaged weights", "fastgen", "NPE") in by
    assert 0 < by["N->8g, exact samples", "fastgen", "W2"].median < ours.median
    assert by["bridge 5-D, SF2M-Sink", "fastgen", "KL"].median > 0
    assert "OT-CFM" in pages.section("rows", rows)


def test_a_finished_pair_is_not_done_again(tmp_path):
    def work(name, protocol, folder, compiled):
        calls.append(name)
        return [1.5], {"seconds": 2.0}

    calls, protocol = [], Protocol((0,), 3, 10, 4)
    for _ in range(2):
        found = two_dimensional.kept(work, "N->8g", protocol, tmp_path, False)
        assert found == ([1.5], {"seconds": 2.0})
    assert calls == ["N->8g"]
    with pytest.raises(ValueError, match="remove it"):
        two_dimensional.kept(work, "N->8g", protocol._replace(steps=4), tmp_path, False)


def test_wall_time_is_of_what_was_run():
    everything = [*PAIRS, *gaussian_bridge.CASES]
    for names, case in ((everything, "whole protocol"), (["N->8g"], "run")):
        found = wall_time(names, 2, time.perf_counter() - 50)
        assert (found.case, found.unit, found.threads) == (case, "s", 2)
        assert 50 <= found.median < 51
