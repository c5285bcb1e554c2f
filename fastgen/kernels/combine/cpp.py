"""`combine` in C++ on CPU tensors (``csrc/combine``)."""

from collections.abc import Callable

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.combine.contract import Known, check_bound, check_combine, check_outputs
from fastgen.kernels.contract import DTYPE_CODES, HoldsAddresses, Noise
from fastgen.kernels.cpp_support import (
    PARALLEL_FROM,
    address,
    key_addresses,
    readable,
    thread_count,
)


class BoundCombine(HoldsAddresses):
    """A `combine_into` on fixed buffers, described to C++ once and called often; see `bind`."""

    __slots__ = ("_arguments", "_dtypes", "_parallel", "_run", "_shape")

    def __init__(
        self,
        inputs: list[Tensor | None],
        outputs: list[Tensor],
        table: Tensor,
        clip: tuple[float, float] | None,
        noise: Noise | None,
        known: Known | None = None,
    ):
        # Only addresses reach C++: the tensors behind them must live as long as this object.
        self._arguments = (list(inputs), list(outputs), table, clip, noise, known)
        self._shape = outputs[0].shape
        self._parallel = outputs[0].numel() >= PARALLEL_FROM
        self._describe([outputs[0].dtype for x in inputs if x is None])

    def __call__(self, missing: list[Tensor]) -> None:
        """Compute with `missing` in the places of the inputs that are None, in order."""
        threads = torch.get_num_threads() if self._parallel else 1
        if not self._run(threads, missing):
            missing = self._adapt(missing)  # may replace self._run
            if not self._run(threads, missing):
                raise ValueError("expected tensors that fit the bound call")

    def _adapt(self, missing: list[Tensor]) -> list[Tensor]:
        """`missing` as C++ can read it, or a ValueError."""
        if len(missing) != len(self._dtypes):
            raise ValueError(f"expected {len(self._dtypes)} tensors, got {len(missing)}")
        missing = [readable(x) for x in missing]
        for x in missing:
            if x.shape != self._shape or not x.is_cpu:
                raise ValueError(
                    f"expected tensors of shape {tuple(self._shape)} on the CPU, "
                    f"got {tuple(x.shape)} on {x.device}"
                )
        dtypes = [x.dtype for x in missing]
        if dtypes != self._dtypes:
            self._describe(dtypes)
        return missing

    def _describe(self, dtypes: list[torch.dtype]) -> None:
        inputs, outputs, table, clip, noise, known = self._arguments
        rest = iter(dtypes)
        kinds = [next(rest) if x is None else x.dtype for x in inputs]
        shown = [
            torch.empty((), dtype=kind, device="cpu").expand(self._shape) if x is None else x
            for x, kind in zip(inputs, kinds, strict=True)
        ]
        check_combine(shown, table, [y.dtype for y in outputs], clip, noise, known)
        described = list(zip(inputs, kinds, strict=True))
        self._run = _described(described, outputs, table, clip, noise, known)
        self._dtypes = dtypes


def bind(
    inputs: list[Tensor | None],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> BoundCombine:
    """`combine_into` with all but some inputs fixed, at about 1 us a call beyond the arithmetic.

    The call's tensors take the places of the inputs that are None, in order. The fixed tensors
    are held by address and read when it is called, so writing to coefficients, seeds, sample ids,
    draws or what is known in place takes effect.

    Raises:
        ValueError: a tensor does not fit (see `check_combine`), or one given here is not contiguous
            or not on the CPU.
    """
    check_bound(inputs, outputs, table, noise, torch.device("cpu"), known)
    return BoundCombine(inputs, outputs, table, clip, noise, known)


def combine_into(
    inputs: list[Tensor],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> None:
    """`combine.reference.combine_into`; raises a ValueError for outputs that are not contiguous."""
    check_outputs(outputs, inputs[0].shape, inputs, known)
    if noise is not None:
        seeds, sample_ids, draws = (readable(x) for x in noise[:3])
        noise = Noise(seeds, sample_ids, draws, noise.stream)
    inputs, table = [readable(x) for x in inputs], readable(table)
    known = None if known is None else Known(*map(readable, known))
    run = _described([(x, x.dtype) for x in inputs], outputs, table, clip, noise, known)
    run(thread_count(outputs[0].numel()), [])


def combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> list[Tensor]:
    """`combine.reference.combine`; the outputs are contiguous."""
    outputs = [torch.empty(inputs[0].shape, dtype=dtype, device="cpu") for dtype in dtypes]
    combine_into(inputs, outputs, table, clip, noise, known)
    return outputs


def _described(
    inputs: list[tuple[Tensor | None, torch.dtype]],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None,
    noise: Noise | None,
    known: Known | None,
) -> Callable[[int, list[Tensor]], bool]:
    first = outputs[0]
    rows = first.shape[0]
    return _C.describe_combine(
        shape=first.shape,
        rows=rows,
        elements=first.numel() // max(rows, 1),
        inputs=[(x if x is None else address(x), DTYPE_CODES[dtype]) for x, dtype in inputs],
        missing=tuple(dtype for x, dtype in inputs if x is None),
        outputs=[(address(y), DTYPE_CODES[y.dtype]) for y in outputs],
        table=address(table),
        table_per_row=table.shape[0] > 1,
        clip=clip,
        noise=None if noise is None else key_addresses(*noise[:2], noise.stream),
        draws=0 if noise is None else address(noise.draws),
        draws_per_row=noise is not None and noise.draws.ndim == 2,
        noises=0 if noise is None else noise.noises,
        known=None if known is None else _part(known.values),
        mask=None if known is None else _part(known.mask),
    )


def _part(x: Tensor) -> tuple[int, int, bool]:
    """Of what is known: address, dtype code, whether each row has its own."""
    code = _C.BOOLEAN if x.dtype == torch.bool else DTYPE_CODES[x.dtype]
    return address(x), code, x.shape[0] > 1
