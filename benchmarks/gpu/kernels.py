"""The kernels' share of a copy's bandwidth: every width of a stage, and the noise alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import fastgen
from benchmarks.gpu.bench import Bench, Run
from benchmarks.tools.harness import Provider
from fastgen.kernels import Noise, dispatch


def stage(
    bench: Bench, streams: int, shape: tuple[int, int], dtype: torch.dtype, noise: bool
) -> Run:
    """One `combine` with so many tensors read and written."""
    device, inputs = bench.device, streams - 1
    tensors: list[Tensor | None] = [
        torch.ones(shape, dtype=dtype, device=device) for _ in range(inputs)
    ]
    out = torch.empty(shape, dtype=dtype, device=device)
    table = torch.full((1, 1, inputs + noise), 0.3, dtype=torch.float64, device=device)
    keys = None
    if noise:
        ids = torch.arange(shape[0], device=device)
        keys = Noise(ids[:1].clone(), ids, torch.ones(1, dtype=torch.int64, device=device))
    bound = dispatch.find("bind_combine", device)(tensors, [out], table, None, keys)
    return lambda: bound([])


def formula(inputs: int, noise: bool) -> Callable[..., Tensor]:
    """The same as a user would write it."""

    def combination(*tensors: Tensor) -> Tensor:
        total = 0.3 * tensors[0]
        for x in tensors[1:]:
            total = total + 0.3 * x
        return total + 0.3 * torch.randn_like(total) if noise else total

    return combination


def kernels(bench: Bench, bandwidth: float) -> None:
    """Every width of a stage, and the noise alone."""
    exponents = (10,) if bench.quick else (26, 28, 20, 30)
    for exponent in exponents:
        shape = (64, 2**exponent // 64)
        for dtype in (torch.float32, torch.bfloat16):
            for noise in (False, True):
                for streams in range(2, 7):
                    compiled = exponent == exponents[0] and streams in (2, 4)
                    _stage_case(bench, bandwidth, shape, dtype, noise, streams, compiled)
    size = 2**8 if bench.quick else 2**20
    seeds = torch.tensor([1], device=bench.device)
    ids, times = torch.arange(64, device=bench.device), torch.tensor([0.3]).double()
    times = times.to(bench.device)
    for name, run in {
        "normals": lambda: fastgen.kernels.normals(size, seeds, ids, seeds, 1),
        "brownian, one time": lambda: fastgen.kernels.brownian(size // 16, seeds, ids, 0, times),
    }.items():
        elements = size if name == "normals" else size // 16
        width = 4 if name == "normals" else 8
        floor = width * 64 * elements / bandwidth
        providers: dict[str, Callable[[], Provider]] = {
            "fastgen": lambda run=run: Provider("", run)
        }
        bench.compare("kernels", name, (64, elements), torch.float32, providers, floor)


def _stage_case(
    bench: Bench,
    bandwidth: float,
    shape: tuple[int, int],
    dtype: torch.dtype,
    noise: bool,
    streams: int,
    compiled: bool,
) -> None:
    elements = math.prod(shape)
    calls = max(1, min(20, 2**26 // elements))

    def own() -> Provider:
        run = bench.graphed(stage(bench, streams, shape, dtype, noise), calls)
        return Provider("", run, units=calls)

    def inductor() -> Provider:
        torch._dynamo.reset()
        f = torch.compile(formula(streams - 1, noise), dynamic=False)
        x = [torch.ones(shape, dtype=dtype, device=bench.device) for _ in range(streams - 1)]
        f(*x)
        return Provider("", bench.graphed(lambda: f(*x), calls), "torch", units=calls)

    providers = {"fastgen": own}
    if compiled:
        providers["torch.compile"] = inductor
    label = f"{streams} streams{' and noise' if noise else ''}"
    floor = streams * elements * dtype.itemsize / bandwidth
    bench.compare("kernels", label, shape, dtype, providers, floor)
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
