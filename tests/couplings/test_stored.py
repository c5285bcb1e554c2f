"""Semidiscrete and out-of-core couplings: equal shares, files, and the plan of memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import fastgen
from fastgen.common.files import write_safetensors
from fastgen.couplings import LargeCoupling, Semidiscrete, sinkhorn


def data(m, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(m, d, generator=g) * torch.linspace(0.5, 2, d) + 1


def share_error(coupling, m, samples=20000):
    """L1 distance of the cells' shares of fresh noise from 1 / m."""
    j = coupling.pair(fastgen.randn((samples, coupling.data.shape[0]), seed=99))
    return (torch.bincount(j, minlength=m) / samples - 1 / m).abs().sum().item()


def test_cells_get_equal_shares():
    points = data(50, 2)
    before = share_error(Semidiscrete(points), 50)
    after = share_error(Semidiscrete(points).fit(600, batch=256), 50)
    # 20000 samples of 50 equal shares deviate by about 0.04 themselves.
    assert after < 0.1 < 0.5 < before


def test_two_points_are_parted_at_the_median():
    """Two cells are half-spaces; with equal shares their border goes through the noise's centre."""
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    coupling = Semidiscrete(points).fit(400, batch=512, rate=1.0)
    # Border at x: |x|^2 - g0 = |x - 3|^2 - g1, that is g1 - g0 = 9 for x = 0.
    assert coupling.potential.diff().item() == pytest.approx(9, abs=0.25)


def test_pairs_are_those_of_the_brute_force_minimum():
    points = data(300, 5)
    potential = torch.rand(300, dtype=torch.float64)
    x = torch.randn(100, 5)
    expected = (torch.cdist(x.double(), points.double()).square() - potential).argmin(1)
    for block in (7, 128, 1000):
        coupling = Semidiscrete(points, potential, block=block)
        assert torch.equal(coupling.pair(x), expected)
    i, j = Semidiscrete(points, potential)(x, points)
    assert torch.equal(i, torch.arange(100))
    assert torch.equal(j, expected)


def test_mapped_files_are_as_good_as_memory(tmp_path):
    pytest.importorskip("safetensors")
    points = data(90, 3)
    np.save(tmp_path / "data.npy", points.numpy())
    mapped = np.load(tmp_path / "data.npy", mmap_mode="r")
    inside = Semidiscrete(points).fit(20, batch=64)
    outside = Semidiscrete(mapped, block=32).fit(20, batch=64)
    assert torch.equal(inside.potential, outside.potential)
    outside.save(tmp_path / "potential.safetensors")
    loaded = Semidiscrete.load(tmp_path / "potential.safetensors", points)
    assert torch.equal(loaded.potential, inside.potential)
    with pytest.raises(ValueError, match="data: the potential in"):
        Semidiscrete.load(tmp_path / "potential.safetensors", points + 1)


def test_noise_of_ones_own():
    points = data(20, 2)

    def noise(t):
        return 3 * torch.randn(128, 2, generator=torch.Generator().manual_seed(t))

    coupling = Semidiscrete(points).fit(300, noise=noise)
    j = coupling.pair(3 * torch.randn(10000, 2))
    assert (torch.bincount(j, minlength=20) / 10000 - 0.05).abs().sum() < 0.15


def test_large_coupling_has_the_law_of_the_plan_in_memory(tmp_path):
    # Every distinct row stands for 400 draws from its row of the plan.
    x0, x1 = data(8, 2, seed=1).repeat(400, 1), data(30, 2)
    np.save(tmp_path / "x1.npy", x1.numpy())
    mapped = np.load(tmp_path / "x1.npy", mmap_mode="r")
    # Centred each by itself, as `pair` defines reg.
    spread = sum((x - x.mean(0)).square().sum(1).mean() for x in (x0, x1)).item()
    plan = sinkhorn(x0[:8], x1, 0.2 * spread, tolerance=1e-5).plan()
    counts = torch.zeros(8, 30, dtype=torch.float64)
    for seed in range(2):
        coupling = LargeCoupling.pair(
            x0, mapped, 0.2, block=17 if seed else 1700, seed=seed, tolerance=1e-3
        )
        index = (torch.arange(3200) % 8) * 30 + coupling.partner
        counts += torch.bincount(index, minlength=240).reshape(8, 30)
    expected = plan * 8 * 800
    big = expected > 5
    chi = ((counts - expected)[big].square() / expected[big]).sum().item()
    freedom = int(big.sum()) - 8
    assert abs(chi - freedom) < 5 * (2 * freedom) ** 0.5


def test_batches_pass_over_all_pairs():
    coupling = LargeCoupling.pair(torch.randn(50, 3), data(60, 3), 0.2, block=20)
    first = torch.cat([coupling.batch(20, draw=k, seed=5)[0] for k in range(5)])
    assert torch.equal(first[:50].sort()[0], torch.arange(50))
    assert torch.equal(first[50:].sort()[0], torch.arange(50))
    assert not torch.equal(first[:50], first[50:])
    i, j = coupling.batch(20, draw=1, seed=5)
    assert torch.equal(i, first[20:40])
    assert torch.equal(j, coupling.partner[i])


@pytest.mark.parametrize("name", ["pairs", "pairs.npy", "pairs.npz", "a/pairs.of.mine"])
def test_pairs_are_saved_under_the_very_name_with_all_they_have(tmp_path, name):
    coupling = LargeCoupling.pair(data(50, 3, seed=1), data(60, 3), 0.2, block=20)
    coupling.save(str(tmp_path / name))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / name]
    again = LargeCoupling.load(str(tmp_path / name))
    assert torch.equal(again.partner, coupling.partner)
    assert again.marginal_error == coupling.marginal_error
    assert again.iterations == coupling.iterations > 0


def test_partners_of_others_are_read_and_checked(tmp_path):
    path = tmp_path / "own.npy"
    for dtype in ("<i8", ">i8"):
        np.save(path, np.array([3, 0], dtype=dtype))
        assert LargeCoupling.load(path).partner.tolist() == [3, 0]
    for array, message in (
        (np.array([-5, 1]), "expected numbers of points >= 0, got -5"),
        (np.zeros(0, dtype=np.int64), "not empty"),
        (np.zeros((2, 2), dtype=np.int64), r"expected int64 \[n\]"),
        (np.zeros(2), "expected int64"),
        (np.array([{}], dtype=object), "without objects"),
    ):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(ValueError, match=message) as caught:
            LargeCoupling.load(path)
        assert str(caught.value).startswith(f"{path}: ")
    np.savez(path.open("wb"), partner=np.array([1, 0]))
    with pytest.raises(ValueError, match="not written by LargeCoupling"):
        LargeCoupling.load(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="not a whole"):
        LargeCoupling.load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        LargeCoupling.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="partner: expected int64"):
        LargeCoupling(torch.zeros(3), 0.0, 1)


def test_potentials_that_are_damaged_or_of_another_kind_are_named(tmp_path):
    pytest.importorskip("safetensors")
    points, path = data(10, 2), tmp_path / "potential"
    coupling = Semidiscrete(points).fit(3, batch=8)
    coupling.save(str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(Semidiscrete.load(str(path), points).potential, coupling.potential)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="potential: damaged, its checksum"):
        Semidiscrete.load(path, points)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Semidiscrete.load(path, points)
    for tensors, message in (
        ({"weight": torch.zeros(10)}, "not written by Semidiscrete.save"),
        ({"potential": torch.zeros(10)}, "expected a finite float64 potential, got torch.float32"),
        ({"potential": coupling.potential * torch.nan}, "expected a finite float64 potential"),
        ({"potential": coupling.potential}, "belongs to data with the fingerprint None"),
    ):
        write_safetensors(path, tensors, {})
        with pytest.raises(ValueError, match=message):
            Semidiscrete.load(path, points)
    with pytest.raises(FileNotFoundError, match="no such file"):
        Semidiscrete.load(tmp_path / "nowhere", points)


def test_malformed_calls_name_the_argument(tmp_path):
    points = data(10, 2)
    bad = points.clone()
    bad[7, 1] = float("nan")
    with pytest.raises(ValueError, match="data: point 7"):
        Semidiscrete(bad)
    with pytest.raises(TypeError, match="data: expected a tensor or a numpy array"):
        Semidiscrete([[1.0]])
    with pytest.raises(ValueError, match="potential: expected finite"):
        Semidiscrete(points, torch.zeros(3))
    with pytest.raises(ValueError, match="x0: expected points of shape"):
        Semidiscrete(points).pair(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="x0: point 0"):
        Semidiscrete(points).pair(torch.full((3, 2), float("inf")))
    with pytest.raises(ValueError, match="x1: expected None or the whole"):
        Semidiscrete(points)(points, points[:4])
    with pytest.raises(ValueError, match="labels1: Semidiscrete"):
        Semidiscrete(points)(points, None, None, torch.zeros(10))
    with pytest.raises(ValueError, match="steps=0"):
        Semidiscrete(points).fit(0)
    with pytest.raises(ValueError, match="rate=-1"):
        Semidiscrete(points).fit(1, rate=-1.0)
    with pytest.raises(ValueError, match="x1: expected points of shape"):
        LargeCoupling.pair(points, points[:, :1], 0.1)
    with pytest.raises(ValueError, match="reg=0"):
        LargeCoupling.pair(points, points, 0)
    with pytest.raises(RuntimeError, match=r"marginal error is .* after 1 sweeps"):
        LargeCoupling.pair(torch.randn(50, 2), data(50, 2), 0.01, max_iterations=1)
    coupling = LargeCoupling.pair(points, points, 0.5)
    with pytest.raises(ValueError, match="count=0"):
        coupling.batch(0, draw=0)
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ValueError, match="expected int64"):
        LargeCoupling.load(tmp_path / "other.npy")


@pytest.mark.parametrize("block", [256, 131072])
def test_a_partner_for_far_noise(block):
    """The nearest point of data on a line is its end, however far the noise is."""
    data = torch.linspace(-1, 1, 512)[:, None]
    coupling = Semidiscrete(data, block=block)
    far = torch.tensor([[1e35], [-1e35], [1e20]])
    assert coupling.pair(far).tolist() == [511, 0, 511]
    with pytest.raises(ValueError, match=r"NaN or infinite|expected finite"):
        coupling.pair(torch.tensor([[1e300]], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"NaN or infinite|expected finite"):
        coupling.pair(torch.tensor([[float("nan")]]))


MAPPED = """
import sys
from pathlib import Path
import numpy as np
import torch
from fastgen.couplings import LargeCoupling

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:"))

torch.set_num_threads(1)
x = np.load(sys.argv[1], mmap_mode="r")
few, block = np.asarray(x[:100]) + 1, 4096
LargeCoupling.pair(x[:64], few, 1.0, block=64)
before = peak()
LargeCoupling.pair(x, few, 1.0, block=block, tolerance=0.1)
points, coordinates = len(x) + len(few), x.shape[1] * (block + len(few))
print(x.nbytes, peak() - before, 96 * points + 64 * coordinates + (64 << 20))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
def test_files_larger_than_the_stated_memory(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (400_000, 256))
    rng = np.random.default_rng(0)
    for first in range(0, len(x), 10_000):
        x[first : first + 10_000] = rng.standard_normal((10_000, 256), dtype=np.float32)
    del x
    command = [sys.executable, "-c", MAPPED, str(tmp_path / "x.npy")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    size, grown, stated = map(int, run.stdout.split())
    assert grown < stated < size / 2
