"""The 2-D experiments: their data, targets, the Gaussian bridge, and the rows of a small run."""

import math
import time

import pytest
import torch
from torch import nn

from benchmarks.suites.two_dimensional import CASES, bridge, flows
from benchmarks.suites.two_dimensional.__main__ import wall_time
from benchmarks.suites.two_dimensional.flows import Sets, run_pair, targets_of_step
from benchmarks.suites.two_dimensional.protocol import Protocol, kept
from benchmarks.tools import rows, tables
from fastgen.couplings import assign


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


def test_divergence_of_a_known_gaussian():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    mean, variance = bridge.truth(0.5)
    assert mean == 0
    assert variance == pytest.approx(0.5 + 0.25 * math.sqrt(5))
    expected = 3 / 2 * (1 / variance - 1 + math.log(variance))
    assert bridge.divergence(x, mean, variance) == pytest.approx(expected, abs=3e-4)
    assert bridge.divergence(x, 1.0, 1.0) == pytest.approx(1.5, abs=0.02)


def test_the_true_drift_simulates_the_bridge():
    """With the exact drift of the bridge the divergences are those of finite samples."""
    dims, points = 4, 4000

    class Exact(nn.Module):
        def forward(self, x, t):
            mean, spread = bridge.truth(float(t[0, 0]))
            slope = (bridge.truth(float(t[0, 0]) + 1e-6)[1] - spread) / 1e-6
            flow = 2 * bridge.SHIFT + slope / (2 * spread) * (x - mean)
            score = -(x - mean) / spread
            return torch.cat([flow[:1], bridge.SIGMA**2 / 2 * score[:1]])

    floor = (dims * (dims + 1) / 2 + dims) / (2 * points)
    found = bridge.simulate(Exact(), 1, dims, points)[0]
    assert 0 < found < 4 * floor


def test_rows_of_a_run(tmp_path):
    """What a small run writes, read again as a page: ours beside what was published."""
    protocol = Protocol((0, 1), 3, 100, 32)
    pair = flows.rows_of("N->8g", *run_pair("N->8g", protocol), protocol)
    gaussians = bridge.rows_of("bridge 5-D", *bridge.run("bridge 5-D", protocol), protocol)
    path = tmp_path / "rows.csv"
    rows.write(pair + gaussians, path)
    found = rows.read(path)
    by = {(r.case, r.provider, r.metric): r for r in found}
    assert by["N->8g, OT-CFM", "published", "W2"].median == 0.303
    assert by["N->8g, OT-CFM", "published", "W2"].p80 == pytest.approx(0.346)
    ours = by["N->8g, OT-CFM", "fastgen", "W2"]
    assert ours.repeats == 2
    values = [float(v) for v in ours.note.removeprefix("seeds: ").split()]
    assert ours.median == pytest.approx(sum(values) / 2, abs=1e-3)
    assert ("N->8g, OT-CFM, averaged weights", "fastgen", "NPE") in by
    assert 0 < by["N->8g, exact samples", "fastgen", "W2"].median < ours.median
    assert by["bridge 5-D, SF2M-Sink", "fastgen", "KL"].median > 0
    assert any("OT-CFM" in line[0] for _, lines in tables.tables(found) for line in lines)


def test_a_finished_pair_is_not_done_again(tmp_path):
    def work(name, protocol, folder, compiled):
        calls.append(name)
        return [1.5], {"seconds": 2.0}

    calls, protocol = [], Protocol((0,), 3, 10, 4)
    for _ in range(2):
        found = kept(work, "N->8g", protocol, tmp_path, False)
        assert found == ([1.5], {"seconds": 2.0})
    assert calls == ["N->8g"]
    with pytest.raises(ValueError, match="remove it"):
        kept(work, "N->8g", protocol._replace(steps=4), tmp_path, False)


def test_wall_time_is_of_what_was_run():
    everything = list(CASES)
    for names, case in ((everything, "whole protocol"), (["N->8g"], "run")):
        found = wall_time(names, 2, time.perf_counter() - 50)
        assert (found.case, found.unit, found.threads) == (case, "s", 2)
        assert 50 <= found.median < 51
