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
