"""The C++ kernels on raw addresses (csrc/module.cpp); use `fastgen.kernels`."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")
# seeds, number of seeds, sample ids, stream
_Noise = tuple[int, int, int, int]
# address, dtype code, rows, address of the index or 0
_Choice = tuple[int, int, int, int]

def describe_combine(
    shape: torch.Size,
    rows: int,
    elements: int,
    inputs: list[tuple[int | None, int]],
    missing: tuple[torch.dtype, ...],
    outputs: list[tuple[int, int]],
    table: int,
    table_per_row: bool,
    clip: tuple[float, float] | None,
    noise: _Noise | None,
    draws: int,
    draws_per_row: bool,
    noises: int,
    known: tuple[int, int, bool] | None,
    mask: tuple[int, int, bool] | None,
) -> Callable[[int, list[Tensor]], bool]: ...

BOOLEAN: int  # the code of a mask of bytes 0 and 1

def gram(
    rows: int, elements: int, inputs: list[tuple[int, int]], output: int, threads: int
) -> None: ...
def transport(
    float64: bool,
    rows: int,
    columns: int,
    matrix: int,
    row_points: int,
    column_points: int,
    dims: int,
    root: bool,
    supply: int,
    demand: int,
    cell_rows: int,
    cell_columns: int,
    amounts: int,
    row_duals: int,
    column_duals: int,
) -> tuple[int, float, float]: ...
def use_tensor_type(
    type: type[Tensor],
    exchange: object,
    address: Callable[[Tensor], int],
    readable: Callable[..., Tensor],
) -> None: ...
def address(tensor: Tensor, /) -> int: ...
def readable(tensor: Tensor, name: str = "", /) -> Tensor: ...
def describe_step(
    empty_like: Callable[..., Tensor],
    thread_count: Callable[[], int],
    grad_enabled: Callable[[], bool],
    shape: torch.Size,
    source: list[int],
    inputs: list[tuple[torch.dtype, int]],
    made: list[tuple[torch.dtype | None, int]],
    buffers: tuple[torch.dtype, int],
    keep: list[tuple[int, int]] | None,
    table: Tensor,
    table_address: int,
    clip: tuple[float, float] | None,
    noise_owner: object,
    noise: tuple[int, int, int, int, int, int] | None,
) -> Callable[..., tuple[Tensor, ...] | None]: ...
def watch(own: dict[str, object], names: list[str]) -> Callable[[dict[str, object]], bool]: ...
def follow(
    unchanged: Callable[[dict[str, object]], bool],
    steps: dict[object, Callable[..., tuple[Tensor, ...] | None]],
    held: dict[int, tuple[Tensor, bool]],
    free: list[tuple[Tensor, bool]],
) -> Callable[..., tuple[Tensor, ...] | None]: ...
def normals(
    rows: int, elements: int, noise: _Noise, draw: int, output: int, dtype: int, threads: int
) -> None: ...
def brownian(
    rows: int,
    elements: int,
    noise: _Noise,
    times: int,
    count: int,
    per_row: bool,
    depth: int,
    output: int,
    threads: int,
) -> None: ...

POOLED_FROM: int

def pooled(shape: tuple[int, ...], float64: bool) -> Tensor: ...

class Walker:
    def __init__(
        self,
        rows: int,
        elements: int,
        keys: _Noise,
        depth: int,
        factor: float,
        memory: int,
    ) -> None: ...
    def increments(
        self,
        times: list[float],
        scales: list[float],
        area_scales: list[float],
        output: int,
        doubles: bool,
        threads: int,
    ) -> None: ...

def bridge(
    rows: int,
    elements: int,
    x0: _Choice,
    x1: _Choice,
    coefficients: int,
    is_recipe: bool,
    times: int,
    quantiles: int,
    cells: int,
    sampling: int,
    noise: _Noise,
    time_stream: int,
    draw: int,
    noisy: bool,
    outputs: list[tuple[int, int]],
    times_out: int,
    times_type: int,
    threads: int,
) -> bool: ...
def describe_bridge(
    like: Tensor,
    times_like: Tensor,
    elements: int,
    code: int,
    times_code: int,
    index_dtype: torch.dtype,
    recipe: int,
    targets: int,
    noisy: bool,
    quantiles: int,
    cells: int,
    sampling: int,
    stream: int,
    time_stream: int,
    parallel: bool,
) -> Callable[
    [int, int, Tensor | None, Tensor, Tensor | None, Tensor | None], list[Tensor] | None
]: ...
def times(
    rows: int,
    quantiles: int,
    cells: int,
    sampling: int,
    noise: _Noise,
    draw: int,
    output: int,
) -> None: ...
def cascade(
    *,
    rows: int,
    elements: int,
    float64: bool,
    work: int,
    coefficients: int,
    terms: int,
    coefficients_per_row: bool,
    lines: int,
    sources: int,
    first: int,
    last: int,
    clip: tuple[float, float] | None,
    noise: _Noise | None,
    draws: int,
    threads: int,
) -> None: ...
def describe_stochastic(
    *,
    shape: torch.Size,
    rows: int,
    elements: int,
    inputs: list[tuple[int | None, int]],
    missing: tuple[torch.dtype, ...],
    outputs: list[tuple[int, int]],
    tables: int,
    steps: int,
    table_per_row: bool,
    given: list[tuple[int | None, int]],
    noise: _Noise | None,
    draws: int,
    draws_per_row: bool,
    noises: int,
) -> Callable[[int, int, list[Tensor]], bool]: ...
def philox(counter: list[int], key: list[int]) -> list[int]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def supported_isas() -> list[str]: ...

class Program:
    def __init__(self, f: list[tuple[int, list[int]]], slope: int, /) -> None: ...

class Stepper:
    def __init__(
        self,
        *,
        rows: int,
        elements: int,
        stages: int,
        degree: int,
        segments: int,
        outputs: int,
        output_stride: int,
        live_stride: int,
        float64: bool,
        tables: list[int],
        tensors: list[int],
        step_size: list[float],
        max_steps: int,
        compact: bool,
        first_step_given: bool,
        threads: int,
    ) -> None: ...
    def begin(
        self, ys: int, rtol: tuple[int, int], atol: tuple[int, int], first: tuple[int, int], /
    ) -> None: ...
    def far(self, steps: float, /) -> bool: ...
    def stage(self, i: int) -> None: ...
    def control(self) -> None: ...
    def commit(self) -> None: ...
    def probe(self) -> None: ...
    def first(self) -> None: ...
    def start(self) -> None: ...
    def compacted(self) -> int: ...
    def drive(self, f: Program, until: int, /) -> int: ...
    def expect(self, dtype: torch.dtype, code: int, shape: torch.Size) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def phase(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def evaluated(self) -> int: ...
    @property
    def advance(self) -> Callable[[Tensor], int]: ...

def assign(
    problems: int,
    float64: bool,
    rows: int,
    columns: int,
    matrix: int,
    row_points: int,
    column_points: int,
    dims: int,
    root: bool,
    epsilon: float,
    tolerance: float,
    left_out: int,
    warm_prices: int,
    match: int,
    row_duals: int,
    column_duals: int,
    costs: int,
    gaps: int,
    threads: int,
) -> None: ...
def assign_given(matrix: Tensor, type: type[Made], /) -> Made | None: ...
def moments(x: int, count: int, dims: int, float64: bool, squares: int) -> float: ...
def paired_cost(
    a: int, b: int, match: int, count: int, dims: int, float64: bool
) -> tuple[float, float]: ...
def reduce_pairs(
    float64: bool,
    want: int,
    rows: int,
    columns: int,
    dims: int,
    x: int,
    y: int,
    bias: int,
    scale: float,
    values: int,
    features: int,
    seeds: int,
    seed_per_row: bool,
    sample_ids: int,
    draw: int,
    stream: int,
    log_sum: int,
    mean: int,
    column: int,
    threads: int,
) -> None: ...
def sweep_pairs(
    float64: bool,
    rows: int,
    columns: int,
    dims: int,
    x: int,
    y: int,
    bias: int,
    scale: float,
    weights: int,
    before: int,
    omega: float,
    log_sum: int,
    fitted: int,
    relaxed: int,
    terms: int,
    threads: int,
) -> None: ...
def kept_size(rows: int, columns: int) -> int: ...
def sweep_kept(
    float64: bool,
    rows: int,
    columns: int,
    terms: int,
    factors: int,
    known: int,
    weights: int,
    before: int,
    omega: float,
    log_sum: int,
    fitted: int,
    relaxed: int,
    threads: int,
) -> None: ...
