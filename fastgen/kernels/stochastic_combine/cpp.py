"""Combinations with random coefficients in C++ on CPU tensors (``csrc/stochastic_combine``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.contract import DTYPE_CODES, HoldsAddresses, Noise, codes_of
from fastgen.kernels.cpp_support import (
    PARALLEL_FROM,
    address,
    key_addresses,
    readable,
    thread_count,
)


class BoundStochasticCombine(HoldsAddresses):
    """`stochastic_combine.reference.bind_stochastic`, at about 1 us a call beyond the arithmetic.

    The fixed tensors are held by address: contiguous, on the CPU, alive as long as this is.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor | None],
        outputs: list[Tensor],
        tables: Tensor,
        noise: Noise | None = None,
        given: Sequence[Tensor | None] | None = None,
    ) -> None:
        self._arguments = (list(inputs), outputs, tables, noise, list(given or []))
        self._shape = outputs[0].shape
        self._parallel = outputs[0].numel() >= PARALLEL_FROM
        missing = sum(x is None for x in (*inputs, *self._arguments[4]))
        self._describe([outputs[0].dtype] * missing)

    def __call__(self, step: int, missing: list[Tensor]) -> None:
        """Compute with a step's table and draws and `missing` in the places of None."""
        threads = torch.get_num_threads() if self._parallel else 1
        if not self._run(threads, step, missing):
            missing = [readable(x) for x in missing]
            dtypes = [x.dtype for x in missing]
            for x in missing:
                if x.shape != self._shape or not x.is_cpu:
                    raise ValueError(
                        f"expected tensors of shape {tuple(self._shape)} on the CPU, "
                        f"got {tuple(x.shape)} on {x.device}"
                    )
            if dtypes != self._dtypes:
                codes_of("tensors", dtypes)
                self._describe(dtypes)
            if not self._run(threads, step, missing):
                raise ValueError(f"expected {len(self._dtypes)} tensors, got {len(missing)}")

    def _describe(self, dtypes: list[torch.dtype]) -> None:
        inputs, outputs, tables, noise, given = self._arguments
        rest = iter(dtypes)
        self._dtypes = dtypes
        self._run = _described(
            [(x, next(rest) if x is None else x.dtype) for x in inputs],
            outputs,
            tables,
            noise,
            [(z, next(rest) if z is None else z.dtype) for z in given],
        )


bind_stochastic = BoundStochasticCombine


def stochastic_combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    noise: Noise | None = None,
    given: list[Tensor] | None = None,
) -> list[Tensor]:
    """`stochastic_combine.reference.stochastic_combine`; the outputs are contiguous."""
    inputs, given = [readable(x) for x in inputs], [readable(z) for z in given or []]
    table = readable(table)
    if noise is not None:
        seeds, sample_ids, draws = (readable(x) for x in noise[:3])
        noise = Noise(seeds, sample_ids, draws[None], noise.stream)
    outputs = [torch.empty(inputs[0].shape, dtype=dtype, device="cpu") for dtype in dtypes]
    run = _described(
        [(x, x.dtype) for x in inputs], outputs, table[None], noise, [(z, z.dtype) for z in given]
    )
    run(thread_count(outputs[0].numel()), 0, [])
    return outputs


def _described(
    inputs: list[tuple[Tensor | None, torch.dtype]],
    outputs: list[Tensor],
    tables: Tensor,
    noise: Noise | None,
    given: list[tuple[Tensor | None, torch.dtype]],
) -> Callable[[int, int, list[Tensor]], bool]:
    first = outputs[0]
    rows = first.shape[0]
    return _C.describe_stochastic(
        shape=first.shape,
        rows=rows,
        elements=first.numel() // max(rows, 1),
        inputs=[(x if x is None else address(x), DTYPE_CODES[dtype]) for x, dtype in inputs],
        missing=tuple(dtype for x, dtype in (*inputs, *given) if x is None),
        outputs=[(address(y), DTYPE_CODES[y.dtype]) for y in outputs],
        tables=address(tables),
        steps=tables.shape[0],
        table_per_row=tables.shape[1] > 1,
        given=[(z if z is None else address(z), DTYPE_CODES[dtype]) for z, dtype in given],
        noise=None if noise is None else key_addresses(*noise[:2], noise.stream),
        draws=0 if noise is None else address(noise.draws),
        draws_per_row=noise is not None and noise.draws.ndim == 3,
        noises=0 if noise is None else noise.noises,
    )
