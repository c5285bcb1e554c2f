"""The C++ kernels on raw addresses (csrc/bindings.cpp); use `fastgen.kernels.cpp`."""

from collections.abc import Callable

import torch
from torch import Tensor

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
    rows: int,
    shape: torch.Size,
    elements: int,
    dtype: torch.dtype,
    index_dtype: torch.dtype,
    code: int,
    recipe: int,
    targets: int,
    noisy: bool,
    quantiles: int,
    cells: int,
    sampling: int,
    stream: int,
    time_stream: int,
    times_type: int,
) -> Callable[..., bool]: ...
def times(
    rows: int,
    quantiles: int,
    cells: int,
    sampling: int,
    noise: _Noise,
    draw: int,
    output: int,
) -> None: ...
def philox(counter: list[int], key: list[int]) -> list[int]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def supported_isas() -> list[str]: ...
