"""Exact assignment on NVIDIA GPUs: csrc/assignment/cuda, compiled at run time; nothing waits."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fastgen.common.memory import address
from fastgen.kernels.assignment import nvrtc
from fastgen.kernels.assignment.contract import (
    LARGE,
    POINTS_UP_TO,
    TOLERANCE,
    Matching,
    Options,
    Problem,
    centred,
)

HEADERS = ("device.cuh", "problem.cuh", "auction.cuh", "paths.cuh")
# As in csrc/assignment/cuda/problem.cuh.
LEVELS = (1 << 27) * 0.999
PADDING = 128
MOST_ROWS = (1 << 20) - 1
# What was counted, for benchmarks: auction rounds and bids in them; rows left for paths, rounds of
# searches for those, their steps and those that waited for each other; refinements.
COUNTS = ("rounds", "bids", "search rounds", "steps", "longest", "refinements", "free")
# Costs of points are computed again and again where their matrix would not fit the second cache.
BUFFERED_BYTES = 32 << 20
SEARCHES = 128
# Up to so many columns one block is faster than several that wait for each other.
ONE_BLOCK = 256
SHARED, TOKEN = 2504, 24  # bytes: sizeof(Shared), sizeof(Token)
_WORD, _REAL, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Arguments(ctypes.Structure):
    """`fastgen::Problem` of csrc/assignment/cuda/problem.cuh, which says what the fields are."""

    _fields_ = [
        *((name, _WORD) for name in ("rows", "columns", "padded", "team", "searches")),
        ("matrix_double", _POINTER),
        ("matrix_float", _POINTER),
        ("dims", _WORD),
        ("root", _WORD),
        *(
            (name, _POINTER)
            for name in (
                *("row_points", "column_points", "row_levels", "column_levels"),
                *("low", "range"),
            )
        ),
        ("epsilon", _REAL),
        ("tolerance", _REAL),
        *(
            (name, _POINTER)
            for name in (
                *("warm", "match", "u", "v", "cost", "gap", "counts"),
                *("levels", "slots", "lowest", "kept_match", "terms", "kept_u", "kept_v"),
                *("dist", "parent", "done", "done_dist", "claims", "open", "barriers"),
            )
        ),
    ]


@dataclass(frozen=True)
class Runtime:
    """Loaded kernels, and what their launch depends on.

    threads: of a block, at most; a power of two. No result depends on it.
    """

    module: nvrtc.Module
    processors: int
    shared_limit: int
    threads: int = 512


def sources() -> tuple[str, dict[str, str]]:
    """The kernels' source and its headers by name: in the package, or in the repository."""
    package = Path(__file__).parent
    for folder in (package / "cuda_source", package.parents[2] / "csrc/assignment/cuda"):
        if (folder / "assignment.cu").exists():
            headers = {name: (folder / name).read_text() for name in HEADERS}
            return (folder / "assignment.cu").read_text(), headers
    raise OSError("csrc/assignment/cuda/assignment.cu is not there; reinstall fastgen")


@lru_cache(maxsize=16)
def _runtime(index: int) -> Runtime:
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # makes the context; once for each device
        properties = torch.cuda.get_device_properties(index)
        image = nvrtc.cached(*sources(), f"sm_{properties.major}{properties.minor}")
        module = nvrtc.Module(nvrtc.driver(), image)
    limit = getattr(properties, "shared_memory_per_block_optin", nvrtc.PLAIN_SHARED)
    return Runtime(module, properties.multi_processor_count, limit)


def runtime(device: torch.device) -> Runtime:
    """The kernels on a device; compiled by the first call, seconds, unless the cache has them.

    Raises:
        ValueError: for devices that are not NVIDIA GPUs, or without NVRTC.
    """
    if device.type != "cuda" or torch.version.hip:
        raise ValueError(f"backend='cuda' is for tensors on an NVIDIA GPU, got {device}")
    try:
        return _runtime(torch.cuda.current_device() if device.index is None else device.index)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"backend='cuda': {error}") from error


def solve(problem: Problem, options: Options) -> Matching:
    """On the device of the problem; see `solve_with`. Its threads are not the host's.

    Raises:
        ValueError: see `runtime`; and for more points than a GPU can take.
    """
    return solve_with(problem, options, runtime(problem.device))


def solve_with(problem: Problem, options: Options, found: Runtime) -> Matching:
    """Computed in float64 for points, and in levels of 2^-27 of the range; nothing is waited for.

    Args:
        problem: n <= m points.
        options: what is asked; duals are always there.
        found: the kernels.
    """
    count, n, m = problem.sizes
    if m > MOST_ROWS:
        raise ValueError(f"x1: expected at most {MOST_ROWS} points on a GPU, got {m}")
    given = problem.x0 if problem.matrix is None else problem.matrix
    assert given is not None
    launch = _Launch(count, n, m, options.epsilon, TOLERANCE[given.dtype], problem.device)
    prices = options.prices
    if problem.matrix is not None:
        launch.give_matrix(problem.matrix.contiguous())
        launch.run(prices, found)
        pairs = problem.matrix.gather(2, launch.index()[:, :, None])[:, :, 0].double()
        return launch.solution(pairs.sum(1))
    assert problem.x0 is not None
    assert problem.x1 is not None
    x0, x1 = problem.x0.double(), problem.x1.double()
    a, b, shift = centred(x0, x1, problem.root)
    # From |a - b|^2 of the centred points to |a - b + shift|^2 of the given ones.
    row_shift = column_shift = None
    if not problem.root:
        square = shift.square().sum(1, keepdim=True)
        row_shift = 2 * torch.bmm(a, shift[:, :, None])[:, :, 0] + square
        column_shift = -2 * torch.bmm(b, shift[:, :, None])[:, :, 0]
    if prices is not None and column_shift is not None:
        prices = prices - column_shift
    if x0.shape[2] <= POINTS_UP_TO:
        launch.give_points(a, b, problem.root)
    else:
        matrix = torch.baddbmm(b.square().sum(2)[:, None, :], a, b.mT, alpha=-2)
        matrix = matrix.add_(a.square().sum(2)[:, :, None]).clamp_(min=0)
        launch.give_matrix(matrix.sqrt_() if problem.root else matrix)
    launch.run(prices, found)
    partners = x1.gather(1, launch.index()[:, :, None].expand(-1, -1, x1.shape[2]))
    pairs = (x0 - partners).square().sum(2)
    solution = launch.solution((pairs.sqrt() if problem.root else pairs).sum(1))
    if row_shift is not None and column_shift is not None:
        solution.rows += row_shift
        solution.columns += column_shift
    return solution


class _Launch:
    """Arrays of a launch, which must live until it is queued."""

    def __init__(
        self, count: int, n: int, m: int, epsilon: float, tolerance: float, device: torch.device
    ):
        self._device, self._count, self._sizes = device, count, (n, m)
        self._padded = -(-m // PADDING) * PADDING
        self._arguments = Arguments(
            rows=n, columns=m, padded=self._padded, epsilon=epsilon, tolerance=tolerance
        )
        self._kept: list[Tensor] = []
        self._from_points = False
        self._match = self._new("match", (m,), torch.int32)
        self._u = self._new("u", (n,), torch.float64, 0)
        self._v = self._new("v", (m,), torch.float64)
        self._cost = self._new("cost", (), torch.float64)
        self._gap = self._new("gap", (), torch.float64)
        self._counts = self._new("counts", (len(COUNTS),), torch.int64, 0)

    def _new(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, value: int | None = None
    ) -> Tensor:
        shape = (self._count, *shape)
        if value is None:
            array = torch.empty(shape, dtype=dtype, device=self._device)
        else:
            array = torch.full(shape, value, dtype=dtype, device=self._device)
        return self._give(name, array)

    def _give(self, name: str, array: Tensor) -> Tensor:
        self._kept.append(array)
        setattr(self._arguments, name, address(array))
        return array

    def give_matrix(self, matrix: Tensor) -> None:
        """Costs [N, n, m]."""
        kind = "matrix_double" if matrix.dtype == torch.float64 else "matrix_float"
        self._give(kind, matrix)
        low, high = matrix.amin(2).double(), matrix.amax(2).double()
        self._give("low", low)
        span = (high - low).amax(1)  # sums of larger costs, as of prices, would not be finite
        self._give("range", torch.where(span > LARGE, torch.nan, span))

    def give_points(self, a: Tensor, b: Tensor, root: bool) -> None:
        """Centred points [N, n, d] and [N, m, d], float64."""
        both = torch.cat([a, b], 1)
        span = (both.amax(1) - both.amin(1)).square().sum(1)
        span = span.sqrt() if root else span
        self._give("range", span)
        columns = torch.nn.functional.pad(b.mT, (0, self._padded - b.shape[1]))
        self._give("row_points", a.contiguous())
        self._give("column_points", columns)
        scale = LEVELS / span[:, None, None]
        unit = scale if root else scale.sqrt()
        self._give("row_levels", (a * unit).float())
        self._give("column_levels", (columns * unit).float())
        self._arguments.dims, self._arguments.root = a.shape[2], root
        self._from_points = True

    def run(self, prices: Tensor | None, found: Runtime) -> None:
        """Queue the kernel."""
        n, m = self._sizes
        padded = self._padded
        team = 1
        if m > ONE_BLOCK and self._count < found.processors:
            team = min(found.processors // self._count, -(-m // 32))
        threads = min(found.threads, 512 if team > 1 or m > 512 else 256 if m > 128 else 128)
        shared = SHARED + TOKEN * -(-m // team)
        if shared > found.shared_limit:
            raise ValueError(
                f"x1: {self._count} problems of {m} points at once need {shared} bytes of shared "
                f"memory for each, the GPU has {found.shared_limit}; pass fewer problems at once"
            )
        searches = SEARCHES if team > 1 else 1
        self._arguments.team, self._arguments.searches = team, searches
        if prices is not None:
            self._give("warm", prices)
        buffered = not self._from_points or 4 * n * padded <= BUFFERED_BYTES
        if buffered:
            self._new("levels", (n + 1, padded), torch.int32)
        self._new("slots", (2, padded), torch.int64)
        for name in ("lowest", "kept_match"):
            self._new(name, (padded,), torch.int32)
        for name in ("terms", "kept_u", "kept_v"):
            self._new(name, (padded,), torch.float64)
        for name in ("dist", "parent", "done", "done_dist"):
            self._new(name, (searches, padded), torch.int32)
        self._new("claims", (padded,), torch.int64, -1)
        self._new("open", (m + 1,), torch.int32)
        self._new("barriers", (2,), torch.int64, 0)
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.current_stream(self._device).cuda_stream if on_gpu else 0
        with torch.cuda.device(self._device if on_gpu else -1):
            found.module.launch(
                "fastgen_assign_levels" if buffered else "fastgen_assign_points",
                self._count * team,
                threads,
                shared,
                stream,
                self._arguments,
                cooperative=team > 1,
            )

    def index(self) -> Tensor:
        """The columns of the rows [N, n], in range even where there is no solution."""
        n, m = self._sizes
        return self._match[:, :n].long().clamp(max=m - 1)

    def solution(self, cost: Tensor) -> Matching:
        """With the sum of the pairs' costs."""
        cost = torch.where(self._gap.isnan(), self._gap, cost)
        gap = self._gap.clamp(min=0)
        return Matching(self.index(), cost, gap, self._u, self._v, self._counts)
