"""Every kind of kernel once, at one large size: its share of a copy's bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Run
from benchmarks.tools.harness import Provider
from fastgen.kernels import Clock, Noise, Sampling, dispatch

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
STEP = (F32, F32, BF16)  # state, history, network output
# Name, dtypes read, dtypes written, noises, clipped, coefficients and keys by row.
STAGES = [
    ("scale", (F32,), (F32,), 0, False, False),
    ("3 fp32", (F32,) * 3, (F32,), 0, False, False),
    ("3 bf16", (BF16,) * 3, (BF16,), 0, False, False),
    ("fp32 state, bf16 network", STEP, (F32, BF16), 0, False, False),
    ("noise fp32, 2 in", (F32, F32), (F32,), 1, False, False),
    ("noise bf16, 2 in", (BF16, BF16), (BF16,), 1, False, False),
    ("serving", STEP, (F32, BF16), 1, True, True),
    ("noise fp32, 1 in", (F32,), (F32,), 1, False, False),
    ("noise bf16, 1 in", (BF16,), (BF16,), 1, False, False),
    ("noise mixed, clip", STEP, (F32, BF16), 1, True, False),
    ("2 noises fp32", (F32,) * 3, (F32, F32), 2, False, False),
    ("guidance, by row", (F32, BF16, BF16), (F32, BF16), 0, False, True),
    ("6 fp32 to 3", (F32,) * 6, (F32,) * 3, 0, False, False),
    ("3 fp64", (F64,) * 3, (F64,), 0, False, False),
]
ROWS = 64


def table(bench: Bench, bandwidth: float) -> None:
    """The suite."""
    elements = 2**8 if bench.quick else 2**20
    shape = ROWS, elements
    for name, run, width in _cases(bench, shape):

        def build(run: Callable[[], Run] = run) -> Provider:
            return Provider("", bench.graphed(run(), 4), units=4)

        floor = width * ROWS * elements / bandwidth
        bench.compare("table", name, shape, F32, {"fastgen": build}, floor)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def _cases(bench: Bench, shape: tuple[int, int]) -> Iterator[tuple[str, Callable[[], Run], float]]:
    """(name, what builds the call, bytes that an element moves)."""
    device = bench.device
    seeds, ids = torch.tensor([1], device=device), torch.arange(shape[0], device=device)
    draws = torch.arange(2, device=device)

    def ones(kinds: tuple[torch.dtype, ...]) -> list[Tensor]:
        return [torch.ones(shape, dtype=kind, device=device) for kind in kinds]

    for name, read, written, noises, clip, by_row in STAGES:
        size = (len(written) + clip, len(read) + clip + noises)
        rows = shape[0] if by_row else 1

        def stage(
            read: tuple[torch.dtype, ...] = read,
            written: tuple[torch.dtype, ...] = written,
            size: tuple[int, ...] = (rows, *size),
            noises: int = noises,
            clip: bool = clip,
            by_row: bool = by_row,
        ) -> Run:
            factors = torch.full(size, 0.3, dtype=F64, device=device)
            numbers = draws[:noises].expand(shape[0], -1).contiguous() if by_row else draws[:noises]
            own = ids + 5 if by_row else seeds
            noise = Noise(own, ids, numbers) if noises else None
            bind = dispatch.find("bind_combine", device)
            limits = (-1.0, 1.0) if clip else None
            bound = bind(list(ones(read)), ones(written), factors, limits, noise)
            return lambda: bound([])

        yield name, stage, sum(kind.itemsize for kind in (*read, *written))

    normals = dispatch.find("normals", device)
    for kind in (F32, BF16):
        label = f"normals {kind}".replace("torch.", "")
        yield (
            label,
            lambda kind=kind: lambda: normals(shape[1], seeds, ids, seeds, 1, dtype=kind),
            kind.itemsize,
        )

    def euler() -> Run:
        y, drift, diffusion = ones((F32,) * 3)
        factors = torch.zeros(1, 1, 1, 3, 5, dtype=F64, device=device)
        factors[..., 0], factors[..., 2, 1] = 1.0, 0.3
        bind = dispatch.find("bind_stochastic", device)
        bound = bind([y, drift, diffusion], [y], factors, Noise(seeds, ids, draws[None, :1]))
        return lambda: bound(0, [])

    yield "SDE Euler", euler, 16

    for name, noisy, given in (
        ("bridge, straight", False, False),
        ("bridge, Brownian", True, False),
        ("bridge, rows given", True, True),
    ):

        def training(noisy: bool = noisy, given: bool = given) -> Run:
            x0, x1 = ones((F32, F32))
            count = 3 if noisy else 2
            if given:
                factors = torch.full((shape[0], count, 3), 0.3, dtype=F64, device=device)
                times: Tensor | Clock = torch.full((shape[0],), 0.4, dtype=F64, device=device)
            else:
                factors = torch.full((count, 3, 5), 0.3, dtype=F64, device=device)
                quantiles = torch.linspace(0, 1, 33, dtype=F64, device=device)
                times = Clock(quantiles, Sampling.STRATIFIED)
            noise = Noise(seeds, ids, draws[:1])
            bridge = dispatch.find("bridge", device)
            kinds = [F32] * count
            return lambda: bridge(x0, x1, None, None, factors, times, noise, noisy, kinds, F32)

        yield name, training, 20 if noisy else 16
