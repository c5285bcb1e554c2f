"""Every operation of the extension with several threads, from several threads at once.

Run under the thread sanitizer by `python -m tests.sanitize thread`, where each finding ends the
program. Results are compared with those of one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

import fastgen
from fastgen import kernels
from fastgen.kernels import Clock, Noise, pairwise
from fastgen.kernels.brownian.cpp import Walker
from fastgen.kernels.combine import cpp as combine

DOUBLE = torch.float64
ROWS, ELEMENTS = 32, 4096  # from 65536 elements on there are several threads


def noise(draws: int = 1) -> Noise:
    """Seeds, ids and draws of a batch."""
    return Noise(torch.tensor([7]), torch.arange(ROWS), torch.arange(draws), 1)


def combined() -> Tensor:
    """`combine` with noise, also as a bound call."""
    x = torch.linspace(-1, 1, ROWS * ELEMENTS).reshape(ROWS, ELEMENTS)
    table = torch.full((1, 1, 2), 0.5, dtype=DOUBLE)
    out = torch.empty_like(x)
    bound = combine.bind([None], [out], table, noise=noise())
    for _ in range(3):
        bound([x])
    return out + kernels.combine([x], table, noise=noise())[0]


def randomly_combined() -> Tensor:
    """`stochastic_combine`."""
    x = torch.linspace(-1, 1, ROWS * ELEMENTS).reshape(ROWS, ELEMENTS)
    table = torch.full((1, 1, 1, 5), 0.25, dtype=DOUBLE)
    return kernels.stochastic_combine([x], table, noise=noise(2))[0]


def bridged() -> Tensor:
    """`bridge` and `times`."""
    x = torch.linspace(-1, 1, ROWS * ELEMENTS).reshape(ROWS, ELEMENTS)
    coefficients = torch.full((2, 3, 5), 0.25, dtype=DOUBLE)
    clock = Clock(torch.linspace(0.1, 0.9, 65, dtype=DOUBLE))
    t, state, target = kernels.bridge(x, x.flip(0), coefficients, clock, noise())
    return state + target + t[:, None] + kernels.times(noise(), clock)[:, None]


def drawn() -> Tensor:
    """`normals` and `brownian`."""
    z = kernels.normals(ELEMENTS, *noise()[:3], 1)
    w = kernels.brownian(ELEMENTS, *noise()[:2], 0, torch.tensor([0.3, 0.7], dtype=DOUBLE))
    return z + w.sum(0)


SHARED = Walker(ELEMENTS, *noise()[:2], 0)


def walked() -> Tensor:
    """One walker for all threads."""
    return SHARED.increments([0.1, 0.2, 0.35, 0.9], [1.0, 1.0, 1.0])


def paired() -> Tensor:
    """The pairwise reductions."""
    x = torch.linspace(-1, 1, 600 * 3).reshape(600, 3).sin()
    y = torch.linspace(0, 3, 900 * 3).reshape(900, 3).cos()
    bias = torch.zeros(900, dtype=DOUBLE)
    keys = pairwise.Keys(torch.tensor([7]), torch.arange(600), 0)
    mean = pairwise.mean(x, y, bias, 2.0, y)[1].sum(1)
    column = pairwise.sample(x, y, bias, 2.0, keys)[1] + pairwise.best(x, y, bias, 2.0)[1]
    weights = torch.full((600,), 1 / 600, dtype=DOUBLE)
    swept = pairwise.sweep(x, y, bias, 2.0, weights, weights, 1.5)[1].sum()
    return mean + column + pairwise.log_sum(x, y, bias, 2.0) + swept


def matched() -> Tensor:
    """Exact assignment."""
    x = torch.linspace(-1, 1, 300 * 2).reshape(300, 2).sin()
    found = fastgen.couplings.assign(x, x.flip(0).cos(), threads=4)
    return torch.as_tensor(found.permutation)


def integrated() -> Tensor:
    """Runge-Kutta steps with error control."""
    y = torch.linspace(-1, 1, ROWS * ELEMENTS).reshape(ROWS, ELEMENTS)
    return fastgen.odeint(lambda t, y: -y, y, [0.0, 0.5], rtol=1e-4, atol=1e-4)[-1]


WORK: list[Callable[[], Tensor]] = [
    combined,
    randomly_combined,
    bridged,
    drawn,
    walked,
    paired,
    matched,
    integrated,
]


def main() -> None:
    """All of it in each of three threads, in different orders."""
    torch.set_num_threads(1)
    expected = [work() for work in WORK]
    torch.set_num_threads(4)
    wrong: list[str] = []

    def repeat(first: int) -> None:
        torch.set_num_threads(4)
        for k in range(len(WORK)):
            i = (first + k) % len(WORK)
            if not torch.equal(WORK[i](), expected[i]):
                wrong.append(WORK[i].__name__)

    team = [threading.Thread(target=repeat, args=(3 * i,)) for i in range(3)]
    for member in team:
        member.start()
    for member in team:
        member.join()
    if wrong:
        raise SystemExit(f"not what one thread gives: {sorted(set(wrong))}")
    print(f"{len(WORK)} operations, 3 threads of 4: nothing found")


if __name__ == "__main__":
    main()
