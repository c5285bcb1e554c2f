"""The C++ kernels on raw addresses (csrc/bindings.cpp); use `fastgen.kernels.cpp`."""

from collections.abc import Callable

import torch
from torch import Tensor

# seeds, number of seeds, sample ids, stream
_Noise = tuple[int, int, int, int]

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
) -> Callable[[int, list[Tensor]], bool]: ...
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
    output: int,
    threads: int,
) -> None: ...
def philox(counter: list[int], key: list[int]) -> list[int]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def supported_isas() -> list[str]: ...
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
