"""Couplings for training: each sample once, labels kept, one result on any number of processes."""

import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import fastgen
from fastgen.couplings import (
    ByLabel,
    ExactOT,
    GlobalBatch,
    Hilbert,
    Independent,
    PairingCollate,
    Sorted,
    assign,
    paired_batches,
    wasserstein,
)
from fastgen.couplings.hilbert import hilbert_index
from tests.support.clouds import clouds


def mean_cost(x0, x1):
    return (x0 - x1).square().sum(1).mean().item()


COUPLINGS = [Independent(), ExactOT(), Sorted(), Hilbert(), ByLabel(ExactOT())]


@pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("n", [1, 2, 37])
def test_each_sample_once(coupling, n):
    x0, x1 = clouds(n, n, 3)
    labels = torch.arange(n) % 3
    i, j = coupling(x0, x1, labels1=labels)
    assert i.dtype == j.dtype == torch.int64
    assert sorted(i.tolist()) == sorted(j.tolist()) == list(range(n))
    first, second, paired_labels = coupling.pair(x0, x1, labels1=labels)
    assert torch.equal(first, x0[i])
    assert torch.equal(second, x1[j])
    assert torch.equal(paired_labels, labels[j])
    assert len(coupling.pair(x0, x1, labels0=labels, labels1=labels)) == 3


def test_exact_is_shortest():
    x0, x1 = clouds(200, 200, 2)
    costs = {type(c).__name__: mean_cost(*c.pair(x0, x1)) for c in COUPLINGS[:4]}
    assert costs["ExactOT"] < costs["Hilbert"] < costs["Independent"]
    assert costs["ExactOT"] < costs["Sorted"] < costs["Independent"]
    assert costs["ExactOT"] == pytest.approx(assign(x0, x1).cost / 200)


def test_sorted_is_optimal_on_a_line():
    x0, x1 = clouds(300, 300, 1)
    assert mean_cost(*Sorted().pair(x0, x1)) == pytest.approx(assign(x0, x1).cost / 300)


def test_with_replacement():
    x0, x1 = clouds(2000, 2000, 2)
    g = torch.Generator().manual_seed(0)
    i, j = ExactOT(replace=True, generator=g)(x0, x1)
    assert len(i) == 2000
    assert torch.equal(assign(x0, x1).permutation[i], j)
    assert abs(len(set(i.tolist())) / 2000 - 0.632) < 0.03


def test_labels_are_respected():
    x0, x1 = clouds(60, 60, 2)
    g = torch.Generator().manual_seed(0)
    labels0, labels1 = (torch.randint(4, (60,), generator=g) for _ in range(2))
    i, j = ByLabel(ExactOT())(x0, x1, labels0, labels1)
    assert torch.equal(labels0[i], labels1[j])
    both = torch.minimum(labels0.bincount(minlength=4), labels1.bincount(minlength=4)).sum()
    assert len(i) == both == len(set(i.tolist())) == len(set(j.tolist()))
    for label in range(4):
        rows, columns = x0[labels0 == label], x1[labels1 == label]
        kept = labels0[i] == label
        cost = (x0[i[kept]] - x1[j[kept]]).square().sum()
        assert cost.item() == pytest.approx(assign(rows, columns).cost, rel=1e-5)
    # Noise without labels goes to the labels of x1, whatever x0 is.
    i, j = ByLabel(ExactOT())(x0, x1, labels1=labels1)
    assert torch.equal(labels1[i], labels1[j])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ExactOT(method="exact"), TypeError, "'method'"),
        (lambda x: ExactOT(generator=torch.Generator()), ValueError, "generator"),
        (lambda x: ByLabel(ExactOT())(x, x), ValueError, "labels1"),
        (lambda x: ByLabel(ExactOT())(x, x, labels1=torch.ones(2)), ValueError, "labels0"),
        (lambda x: ByLabel(ExactOT())(x, x[:2], labels1=torch.ones(2)), ValueError, "labels0"),
        (lambda x: Sorted()(x, x[:2]), ValueError, "x1: expected shape"),
        (lambda x: Sorted(torch.ones(3))(x, x), ValueError, "direction: expected 2"),
        (lambda x: Hilbert()(x * torch.nan, x), ValueError, "x0: expected finite"),
        (lambda x: Hilbert()(*torch.ones(2, 3, 40)), ValueError, "31 dimensions"),
        (lambda x: Independent()(x[:0], x), ValueError, "x0"),
        (lambda x: paired_batches([], ExactOT(), batch_size=0), ValueError, "batch_size=0"),
        (lambda x: paired_batches([], ExactOT(), depth=0), ValueError, "depth=0"),
        (lambda x: wasserstein(x, x, p=0.5), ValueError, "p=0.5"),
        (lambda x: wasserstein(x, x, method="slice"), ValueError, "did you mean 'sliced'"),
        (lambda x: wasserstein(x, x, method="sliced", directions=0), ValueError, "directions=0"),
        (lambda x: wasserstein(x * torch.nan, x, method="sliced"), ValueError, "x0"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize(("dims", "bits"), [(1, 4), (2, 4), (3, 3), (4, 2)])
def test_hilbert_curve_visits_neighbours(dims, bits):
    """Along the curve through a full grid every step is one cell long."""
    # The index is of a finer grid: a grid's corners land in different cells, in curve order.
    side = torch.linspace(0, 1, 2**bits, dtype=torch.float64)
    cells = (side * (2**bits - 1) + 0.5) / 2**bits
    grid = torch.cartesian_prod(*[cells] * dims).reshape(-1, dims)
    # Corners of the unit cube fix the bounding box.
    corners = torch.stack([torch.zeros(dims), torch.ones(dims)]).double()
    order = hilbert_index(torch.cat([grid, corners]))[:-2].argsort()
    steps = grid[order].diff(dim=0).abs().sum(1) * 2**bits
    torch.testing.assert_close(steps, torch.ones_like(steps))


@given(st.integers(1, 40), st.sampled_from([1, 2, 3.5]), st.integers(0, 1000))
def test_wasserstein_on_a_line(n, p, seed):
    x0, x1 = (x.double() for x in clouds(n, n, 1, seed))
    expected = (x0.sort(0).values - x1.sort(0).values).abs().pow(p).mean().item() ** (1 / p)
    assert wasserstein(x0, x1, p) == pytest.approx(expected)
    assert wasserstein(x0, x1, p, "sliced") == pytest.approx(expected)


def test_wasserstein_of_a_translation():
    x = torch.randn(100, 5, dtype=torch.float64)
    shift = torch.tensor([3.0, 0, 0, 4.0, 0], dtype=torch.float64)
    for p in (1, 2, 3):
        assert wasserstein(x, x + shift, p) == pytest.approx(5)
    # E |<shift, direction>|^2 = |shift|^2 / d
    sliced = wasserstein(x, x + shift, 2, "sliced", directions=20000)
    assert sliced == pytest.approx(5 / 5**0.5, rel=0.02)
    assert fastgen.wasserstein is wasserstein


class Slow(ExactOT):
    def __call__(self, *arguments):
        time.sleep(0.02)
        return super().__call__(*arguments)


def test_background_pairs_ahead():
    batches = [(*clouds(64, 64, 2, seed), torch.arange(64)) for seed in range(4)]
    main = threading.get_ident()
    seen = []

    def source():
        for batch in batches:
            seen.append(threading.get_ident())
            yield batch

    pieces = list(paired_batches(source(), Slow(), batch_size=24))
    assert main not in seen
    assert [len(p[0]) for p in pieces] == [24, 24, 16] * 4
    for k, (x0, x1, _) in enumerate(batches):
        parts = [torch.cat(column) for column in zip(*pieces[3 * k : 3 * k + 3], strict=True)]
        assert mean_cost(*parts[:2]) == pytest.approx(assign(x0, x1).cost / 64, rel=1e-5)
        assert torch.equal(parts[2].sort().values, torch.arange(64))
        assert torch.equal(parts[1], x1[parts[2]])
    # As coupled, without a cut.
    (only,) = paired_batches(batches[:1], ExactOT())
    assert torch.equal(only[0], batches[0][0])


def test_background_errors_and_early_end():
    def broken():
        yield clouds(8, 8, 2)
        raise KeyError("lost")

    stream = paired_batches(broken(), ExactOT())
    next(stream)
    with pytest.raises(KeyError, match="lost"):
        next(stream)
    endless = paired_batches(iter(lambda: clouds(8, 8, 2), None), ExactOT())
    next(endless)
    endless.close()
    assert not any(t.name == "fastgen-pairing" for t in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 2])
def test_collate(workers):
    data, labels = torch.randn(64, 2), torch.arange(64)
    loader = DataLoader(
        TensorDataset(data, labels),
        batch_size=16,
        num_workers=workers,
        collate_fn=PairingCollate(ExactOT()),
    )
    batches = list(loader)
    for x0, x1, y in batches:
        assert torch.equal(data[y], x1)
        assert mean_cost(x0, x1) == pytest.approx(assign(x0, x1).cost / 16, rel=1e-5)
    assert torch.equal(torch.cat([y for *_, y in batches]).sort().values, labels)


def run_process(rank, size, port, path):
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=size)
    x0, x1 = clouds(40, 40, 2)
    part = 40 // size
    mine = slice(part * rank, part * (rank + 1))
    coupling = GlobalBatch(ExactOT())
    labels = torch.arange(40)
    paired = coupling.pair(x0[mine], x1[mine], labels1=labels[mine])
    indices = coupling(x0[mine], x1[mine])
    message = ""
    try:
        coupling(x0[mine] * torch.nan, x1[mine])
    except (ValueError, RuntimeError) as error:
        message = str(error)
    torch.save((paired, indices, message), f"{path}/{size}-{rank}")
    torch.distributed.destroy_process_group()


def test_global_batch_does_not_depend_on_the_number_of_processes(tmp_path):
    results = {}
    for size in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if size == 1:
            run_process(0, 1, port, tmp_path)
        else:
            mp.spawn(run_process, (size, port, tmp_path), nprocs=size)
        parts = [torch.load(tmp_path / f"{size}-{rank}") for rank in range(size)]
        results[size] = [torch.cat(x) for x in zip(*(p[0] for p in parts), strict=True)]
        for _, indices, message in parts:
            assert torch.equal(indices[1], assign(*clouds(40, 40, 2)).permutation)
            assert "finite" in message or "first process" in message
    for one, two in zip(results[1], results[2], strict=True):
        assert torch.equal(one, two)


def test_the_interpreter_ends_while_the_background_pairs():
    program = (
        "import torch\n"
        "from fastgen.couplings import ExactOT, paired_batches\n"
        "endless = iter(lambda: (torch.randn(512, 2), torch.randn(512, 2)), None)\n"
        "stream = paired_batches(endless, ExactOT())\n"
        "next(stream)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
