"""Couplings whose points lie with several processes: the bits of one process."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fastgen.couplings import LargeCoupling, Semidiscrete

# Where each process's points end; blocks of 32 lie across these borders.
ENDS = {1: ([150], [110]), 2: ([95, 150], [3, 110]), 4: ([20, 101, 120, 150], [40, 41, 80, 110])}


def clouds():
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(150, 3, generator=generator)
    return x0, torch.randn(110, 3, generator=generator) * 2 + 1


def paired(x0, x1, group=None):
    return LargeCoupling.pair(x0, x1, 0.05, block=32, seed=3, group=group)


def fitted(group=None):
    x0, x1 = clouds()
    drawn = Semidiscrete(x1).fit(10, batch=51, group=group)
    given = Semidiscrete(x1).fit(10, noise=lambda t: x0[t : t + 33], group=group)
    return torch.stack([drawn.potential, given.potential])


def run_process(rank, size, port, path):
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", address, rank=rank, world_size=size)
    mine = [
        x[([0, *ends])[rank] : ends[rank]] for x, ends in zip(clouds(), ENDS[size], strict=True)
    ]
    found = paired(*mine, group=dist.group.WORLD)
    messages = []
    broken = mine[0].clone()
    broken[-1] = torch.nan if rank == size - 1 else 0.0
    for x0, x1 in ((broken, mine[1]), (mine[0], mine[1][:, : 2 + rank % 2])):
        try:
            paired(x0, x1, dist.group.WORLD)
        except ValueError as error:
            messages.append(str(error))
    torch.save(
        (found.partner, found.marginal_error, found.iterations, fitted(dist.group.WORLD), messages),
        f"{path}/{size}-{rank}",
    )
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_all_processes_find_what_one_finds(size, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if size == 1:
        run_process(0, 1, port, tmp_path)
    else:
        mp.spawn(run_process, (size, port, tmp_path), nprocs=size)
    whole, potentials = paired(*clouds()), fitted()
    for rank in range(size):
        partner, error, iterations, shared, messages = torch.load(tmp_path / f"{size}-{rank}")
        assert torch.equal(partner, whole.partner)
        assert (error, iterations) == (whole.marginal_error, whole.iterations)
        assert torch.equal(shared, potentials)
        assert "x0: point 149 has a coordinate that is not finite" in messages[0]
        assert "x1: " in messages[1]
