"""The kernels in C++ on CPU tensors (``csrc/``): the same functions as ``kernels.reference``."""

import math
from collections.abc import Callable

import torch  # first: the extension must find torch's OpenMP runtime loaded, or there are two
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.brownian.area_reference import brownian_area as brownian_area  # see Walker
from fastgen.kernels.contract import (
    BROWNIAN_DEPTH,
    BROWNIAN_STREAM,
    DTYPE_CODES,
    FEATURES,
    Clock,
    Noise,
    Stream,
    check_bound,
    check_combine,
    check_outputs,
)

# torch's table of C functions (2.10 and later), which makes looking at a tensor from C++ cheap;
# None: by its Python attributes.
EXCHANGE: object = getattr(Tensor, "__dlpack_c_exchange_api__", None)
_C.use_tensor_type(Tensor, EXCHANGE)

# Below this many elements a second thread costs more than it brings.
PARALLEL_FROM = 65536


def _fresh(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised; a large one is on memory that an earlier one has left."""
    whole = dtype in (torch.float32, torch.float64)
    if whole and math.prod(shape) * dtype.itemsize >= _C.POOLED_FROM:
        return _C.pooled(shape, dtype == torch.float64)
    return torch.empty(shape, dtype=dtype)


class Bound:
    """A `combine_into` on fixed buffers, described to C++ once and called often; see `bind`."""

    __slots__ = ("_arguments", "_dtypes", "_parallel", "_run", "_shape")

    def __init__(
        self,
        inputs: list[Tensor | None],
        outputs: list[Tensor],
        table: Tensor,
        clip: tuple[float, float] | None,
        noise: Noise | None,
    ):
        # Only addresses reach C++: the tensors behind them must live as long as this object.
        self._arguments = (list(inputs), list(outputs), table, clip, noise)
        self._shape = outputs[0].shape
        self._parallel = outputs[0].numel() >= PARALLEL_FROM
        self._describe([outputs[0].dtype for x in inputs if x is None])

    def __call__(self, missing: list[Tensor]) -> None:
        """Compute with `missing` in the places of the inputs that are None, in order."""
        threads = torch.get_num_threads() if self._parallel else 1
        if not self._run(threads, missing):
            missing = self._adapt(missing)  # may replace self._run
            if not self._run(threads, missing):
                raise ValueError("expected tensors with memory of their own, got sparse or wrapped")

    def _adapt(self, missing: list[Tensor]) -> list[Tensor]:
        """`missing` as C++ can read it, or a ValueError."""
        if len(missing) != len(self._dtypes):
            raise ValueError(f"expected {len(self._dtypes)} tensors, got {len(missing)}")
        for x in missing:
            if x.shape != self._shape or not x.is_cpu:
                raise ValueError(
                    f"expected tensors of shape {tuple(self._shape)} on the CPU, "
                    f"got {tuple(x.shape)} on {x.device}"
                )
        dtypes = [x.dtype for x in missing]
        if dtypes != self._dtypes:
            self._describe(dtypes)
        return [x.contiguous() for x in missing]

    def _describe(self, dtypes: list[torch.dtype]) -> None:
        inputs, outputs, table, clip, noise = self._arguments
        rest = iter(dtypes)
        kinds = [next(rest) if x is None else x.dtype for x in inputs]
        shown = [
            torch.empty((), dtype=kind).expand(self._shape) if x is None else x
            for x, kind in zip(inputs, kinds, strict=True)
        ]
        check_combine(shown, table, [y.dtype for y in outputs], clip, noise)
        described = list(zip(inputs, kinds, strict=True))
        self._run = _describe(described, outputs, table, clip, noise)
        self._dtypes = dtypes


def bind(
    inputs: list[Tensor | None],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
) -> Bound:
    """`combine_into` with all but some inputs fixed, at about 1 us a call beyond the arithmetic.

    The call's tensors take the places of the inputs that are None, in order. The fixed tensors
    are held by address and read when it is called, so writing to coefficients, seeds, sample ids
    or draws in place takes effect.

    Raises:
        ValueError: a tensor does not fit (see `fastgen.kernels.contract.check_combine`), or one
            given here is not contiguous or not on the CPU.
    """
    check_bound(inputs, outputs, table, noise, torch.device("cpu"))
    return Bound(inputs, outputs, table, clip, noise)


def combine_into(
    inputs: list[Tensor],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
) -> None:
    """`reference.combine_into`; raises a ValueError for outputs that are not contiguous."""
    check_outputs(outputs, inputs[0].shape)
    if noise is not None:
        seeds, sample_ids, draws = (x.contiguous() for x in noise[:3])
        noise = Noise(seeds, sample_ids, draws, noise.stream)
    inputs, table = [x.contiguous() for x in inputs], table.contiguous()
    run = _describe([(x, x.dtype) for x in inputs], outputs, table, clip, noise)
    run(_threads(outputs[0].numel()), [])


def combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
) -> list[Tensor]:
    """`reference.combine`; the outputs are contiguous."""
    outputs = [torch.empty(inputs[0].shape, dtype=dtype) for dtype in dtypes]
    combine_into(inputs, outputs, table, clip, noise)
    return outputs


def normals(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    draw: Tensor | int,
    stream: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`reference.noise.normals`, [rows, elements], rounded to `dtype`."""
    rows = sample_ids.shape[0]
    z = torch.empty((rows, elements), dtype=dtype)
    seeds, sample_ids = seeds.contiguous(), sample_ids.contiguous()
    _C.normals(
        rows=rows,
        elements=elements,
        noise=_address(seeds, sample_ids, stream),
        draw=int(draw) & 0xFFFFFFFF,
        output=z.data_ptr(),
        dtype=DTYPE_CODES[dtype],
        threads=_threads(z.numel()),
    )
    return z


def brownian(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> Tensor:
    """`reference.brownian`; fastest where the times of a call increase or decrease."""
    count, rows = times.shape[0], sample_ids.shape[0]
    w = _fresh((count, rows, elements), torch.float64)
    seeds, sample_ids, times = seeds.contiguous(), sample_ids.contiguous(), times.contiguous()
    _C.brownian(
        rows=rows,
        elements=elements,
        noise=_address(seeds, sample_ids, BROWNIAN_STREAM + tree),
        times=times.data_ptr(),
        count=count,
        per_row=times.ndim == 2,
        depth=depth,
        output=w.data_ptr(),
        threads=_threads(w.numel() * depth),
    )
    return w


class Walker:
    """Increments of `brownian`, and those with areas of `brownian_area`, from one time to the next.

    It remembers the last path through the tree for its own sake: neighbouring times share most of
    theirs. No result depends on what was asked for before.

    Args:
        elements, seeds, sample_ids, tree, depth: as for `brownian`.
        factor: of all values of W, before they are subtracted.
        memory: bytes that may be kept, of which an element needs 120.
    """

    def __init__(
        self,
        elements: int,
        seeds: Tensor,
        sample_ids: Tensor,
        tree: int,
        depth: int = BROWNIAN_DEPTH,
        factor: float = 1.0,
        memory: int = 1 << 28,
    ) -> None:
        # Only addresses reach C++: the tensors behind them must live as long as this object.
        self._keys = seeds.contiguous(), sample_ids.contiguous()
        self._rows, self._elements = sample_ids.shape[0], elements
        keys = _address(*self._keys, BROWNIAN_STREAM + tree)
        self._walker = _C.Walker(self._rows, elements, keys, depth, factor, memory)

    def increments(
        self, times: list[float], scales: list[float], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(W(times[i + 1]) - W(times[i])) scales[i], rounded to dtype: [T - 1, rows, elements]."""
        return self._walk(times, scales, [], dtype)

    def with_areas(
        self,
        times: list[float],
        scales: list[float],
        area_scales: list[float],
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The same for the motion with areas, and H area_scales[i]: [2, T - 1, rows, elements]."""
        result = self._walk(times, scales, area_scales, dtype)
        return result.reshape(2, len(scales), self._rows, self._elements)

    def _walk(
        self, times: list[float], scales: list[float], areas: list[float], dtype: torch.dtype
    ) -> Tensor:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype}: expected float32 or float64")
        shape = len(scales) + len(areas), self._rows, self._elements
        result = _fresh(shape, dtype)
        doubles, threads = dtype == torch.float64, _threads(4 * result.numel())
        self._walker.increments(times, scales, areas, result.data_ptr(), doubles, threads)
        return result


def times(seeds: Tensor, sample_ids: Tensor, draw: Tensor, clock: Clock) -> Tensor:
    """`reference.bridge.times`, float64 [rows]."""
    t = torch.empty(sample_ids.shape[0], dtype=torch.float64)
    seeds, sample_ids = seeds.contiguous(), sample_ids.contiguous()
    quantiles = clock.quantiles.contiguous()
    _C.times(
        t.numel(),
        quantiles.data_ptr(),
        quantiles.numel() - 1,
        int(clock.sampling),
        _address(seeds, sample_ids, Stream.TIME),
        draw.data_ptr(),
        t.data_ptr(),
    )
    return t


def bridge(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times_or_clock: Tensor | Clock,
    noise: Noise,
    noisy: bool,
    dtypes: list[torch.dtype],
    time_dtype: torch.dtype,
) -> list[Tensor]:
    """`reference.bridge.bridge`; raises a ValueError for an index out of range."""
    rows, shape = noise.sample_ids.shape[0], x1.shape[1:]
    elements = shape.numel()
    held = [None if x is None else x.contiguous() for x in (x0, x1, index0, index1)]
    choices = []
    for x, index in (held[0::2], held[1::2]):
        chooser = 0 if index is None else index.data_ptr()
        if x is None:
            choices.append((0, 0, 0, 0))
        else:
            choices.append((x.data_ptr(), DTYPE_CODES[x.dtype], x.shape[0], chooser))
    coefficients, ids = coefficients.contiguous(), noise.sample_ids.contiguous()
    seeds = noise.seeds.contiguous()
    given, clock = 0, (0, 0, 0)
    if isinstance(times_or_clock, Clock):
        quantiles = times_or_clock.quantiles.contiguous()
        clock = quantiles.data_ptr(), quantiles.numel() - 1, int(times_or_clock.sampling)
    else:
        times_or_clock = times_or_clock.contiguous()
        given = times_or_clock.data_ptr()
    t = torch.empty(rows, dtype=time_dtype)
    outputs = [_fresh((rows, *shape), dtype) for dtype in dtypes]
    in_range = _C.bridge(
        rows,
        elements,
        choices[0],
        choices[1],
        coefficients.data_ptr(),
        coefficients.shape[-1] == FEATURES,
        given,
        *clock,
        _address(seeds, ids, noise.stream),
        int(Stream.TIME),
        noise.draws.data_ptr(),
        noisy,
        [(y.data_ptr(), DTYPE_CODES[y.dtype]) for y in outputs],
        t.data_ptr(),
        DTYPE_CODES[time_dtype],
        _threads(rows * elements),
    )
    if not in_range:
        raise ValueError("index: an entry is outside the rows of its tensor")
    return [t, *outputs]


def _describe(
    inputs: list[tuple[Tensor | None, torch.dtype]],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None,
    noise: Noise | None,
) -> Callable[[int, list[Tensor]], bool]:
    first = outputs[0]
    rows = first.shape[0]
    return _C.describe_combine(
        shape=first.shape,
        rows=rows,
        elements=first.numel() // max(rows, 1),
        inputs=[(x if x is None else x.data_ptr(), DTYPE_CODES[dtype]) for x, dtype in inputs],
        missing=tuple(dtype for x, dtype in inputs if x is None),
        outputs=[(y.data_ptr(), DTYPE_CODES[y.dtype]) for y in outputs],
        table=table.data_ptr(),
        table_per_row=table.shape[0] > 1,
        clip=clip,
        noise=None if noise is None else _address(noise.seeds, noise.sample_ids, noise.stream),
        draws=0 if noise is None else noise.draws.data_ptr(),
        draws_per_row=noise is not None and noise.draws.ndim == 2,
        noises=0 if noise is None else noise.noises,
    )


def _address(seeds: Tensor, sample_ids: Tensor, stream: int) -> tuple[int, int, int, int]:
    return seeds.data_ptr(), seeds.numel(), sample_ids.data_ptr(), int(stream)


def _threads(elements: int) -> int:
    return torch.get_num_threads() if elements >= PARALLEL_FROM else 1
