"""Noise, Brownian motion and the kernels themselves."""

from __future__ import annotations

from functools import partial

import torch

import fastgen
from fastgen import kernels
from fastgen.kernels import Clock, Noise, Sampling, Stream
from tests.bits.problems import BF16, F16, F32, F64, normal
from tests.bits.registry import group

TIMES = [0.0, 0.125, 0.3, 0.77, 1.0]
SEEDS = {"one": 7, "large": 2**64 - 5, "rows": [3, 1, 2**40]}
IDS = {"default": None, "given": [5, 2**33, 0]}


@group("randn")
def normals():
    for dtype in (F32, F64, BF16, F16):
        for stream in Stream:
            for draw in (0, 1, 2**31 + 3):
                yield (
                    f"{dtype}/{stream.name}/{draw}",
                    partial(
                        fastgen.randn, (3, 2, 7), seed=11, draw=draw, stream=stream, dtype=dtype
                    ),
                )
    for seed in SEEDS:
        for ids in IDS:
            yield (
                f"seed/{seed}/{ids}",
                partial(fastgen.randn, (3, 301), seed=SEEDS[seed], sample_ids=IDS[ids]),
            )
    for shape in ((0, 3), (1, 1), (2, 100_003), (300, 2), (5,)):
        yield f"shape/{shape}", partial(fastgen.randn, shape, seed=2)
    for name, options in {"negative": {"draw": -1}, "ids": {"sample_ids": [1]}}.items():
        yield f"error/{name}", partial(fastgen.randn, (3, 2), **options)


@group("brownian")
def motions():
    for dtype in (F32, F64):
        for tree in (0, 1, 127):
            yield (
                f"{dtype}/{tree}",
                partial(fastgen.brownian, (3, 2, 5), TIMES, seed=4, tree=tree, dtype=dtype),
            )
    for seed in SEEDS:
        for ids in IDS:
            yield (
                f"seed/{seed}/{ids}",
                partial(fastgen.brownian, (3, 9), TIMES, seed=SEEDS[seed], sample_ids=IDS[ids]),
            )
    yield "error/outside", partial(fastgen.brownian, (3, 2), [0.0, 1.5])
    yield "error/tree", partial(fastgen.brownian, (3, 2), [0.5], tree=128)
    for area in (False, True):
        for dtype in (F32, F64):
            for depth in (7, 24):
                yield f"path/{area}/{dtype}/{depth}", partial(walk, area, dtype, depth)


def walk(area, dtype, depth):
    """Queries in sequence, at random, backwards, and of many times at once."""
    path = fastgen.BrownianPath(
        (3, 2, 5), -1.0, 2.0, seed=5, levy_area=area, depth=depth, dtype=dtype
    )
    found = [path(s, t) for s, t in ((-1.0, -0.5), (-0.5, 0.25), (0.3, 0.31), (2.0, 0.1))]
    found.append(path.at(torch.linspace(-1, 2, 9, dtype=F64)))
    grid = torch.linspace(-1, 2, 6, dtype=F64)
    found.append(path.steps(grid, torch.full((5,), 1.5, dtype=F64)))
    return [found, path.with_area(-0.2, 1.1) if area else None]


def keys(rows, draws, stream=Stream.SOLVER, seeds=1):
    generator = torch.Generator().manual_seed(rows + len(draws))
    return Noise(
        torch.randint(-(2**63), 2**63 - 1, (seeds,), generator=generator),
        torch.randint(0, 2**48, (rows,), generator=generator),
        torch.tensor(draws),
        stream,
    )


@group("kernels")
def operations():
    for inputs, outputs, draws in ((1, 1, 0), (2, 1, 1), (3, 2, 0), (5, 3, 2), (24, 8, 8)):
        for kinds in ((F32,), (F64,), (F32, BF16), (F32, F64, F16)):
            for clip in (None, (-0.5, 0.8)):
                for each in (False, True):
                    yield (
                        f"combine/{inputs}-{outputs}-{draws}/{kinds}/{clip}/{each}",
                        partial(combine, inputs, outputs, draws, kinds, clip, each),
                    )
    yield "combine/gradient", gradient_of_combine
    for elements in (1, 6, 4097):
        noise = keys(3, [2**31])
        yield f"normals/{elements}", partial(kernels.normals, elements, *noise)
        times = torch.tensor(TIMES, dtype=F64)
        yield f"brownian/{elements}", partial(kernels.brownian, elements, *noise[:2], 3, times)
    for sampling in Sampling:
        clock = Clock(torch.tensor([0.1, 0.2, 0.7, 0.95], dtype=F64), sampling)
        for rows in (1, 5, 300):
            yield f"times/{sampling.name}/{rows}", partial(kernels.times, keys(rows, [9]), clock)
        for noisy in (False, True):
            for kinds in ((F32, F32), (F64, F32, BF16)):
                for chosen in (False, True):
                    yield (
                        f"bridge/{sampling.name}/{noisy}/{kinds}/{chosen}",
                        partial(bridge, clock, noisy, kinds, chosen),
                    )


def combine(inputs, outputs, draws, kinds, clip, each):
    tensors = [normal(4, 3, 5, seed=i, dtype=kinds[i % len(kinds)]) for i in range(inputs)]
    bounded = clip is not None
    shape = (4 if each else 1, outputs + bounded, inputs + bounded + draws)
    table = normal(*shape, seed=99, dtype=F64)
    table[table.abs() < 0.2] = 0
    dtypes = [kinds[j % len(kinds)] for j in range(outputs)]
    noise = keys(4, list(range(draws)), seeds=4) if draws else None
    return kernels.combine(tensors, table, dtypes, clip=clip, noise=noise)


def gradient_of_combine():
    tensors = [normal(4, 3, seed=i).requires_grad_() for i in range(3)]
    table = normal(1, 2, 4, seed=9, dtype=F64)
    found = kernels.combine(tensors, table, noise=keys(4, [3]), dtypes=[F32, F32])
    return torch.autograd.grad(sum(x.square().sum() for x in found), tensors)


def bridge(clock, noisy, kinds, chosen):
    x0, x1 = (normal(6, 3, 2, seed=seed, dtype=kinds[seed % len(kinds)]) for seed in (0, 1))
    index = torch.tensor([5, 0, 0, 3, 2, 1]) if chosen else None
    coefficients = normal(len(kinds), 3, 5, seed=3, dtype=F64)
    noise = keys(6, [12], Stream.TRAINING)
    return kernels.bridge(
        x0, x1, coefficients, clock, noise, index1=index, noisy=noisy, dtypes=list(kinds)
    )
