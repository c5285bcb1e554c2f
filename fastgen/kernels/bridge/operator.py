"""`bridge` and `times` as torch operators: `torch.compile(fullgraph=True)`, fakes, autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastgen.common.transforms import transforming
from fastgen.kernels import dispatch
from fastgen.kernels.bridge.contract import FEATURES, TERMS, Clock, check_bridge, check_clock
from fastgen.kernels.bridge.reference import row_coefficients
from fastgen.kernels.contract import (
    DTYPE_CODES,
    Noise,
    Stream,
    check_noise,
    codes_of,
    kind_of,
    kinds_of,
    rows_of_ids,
)
from fastgen.kernels.derivatives import register, register_batching

if TYPE_CHECKING:
    from fastgen.kernels.bridge.cpp import Batches

_LIBRARY = torch.library.Library("fastgen", "FRAGMENT")
_LIBRARY.define(
    "times(Tensor seeds, Tensor sample_ids, Tensor draw, Tensor quantiles, int sampling) -> Tensor"
)
_LIBRARY.define(
    "bridge(Tensor? x0, Tensor x1, Tensor? index0, Tensor? index1, Tensor coefficients, "
    "Tensor? times, Tensor? quantiles, int sampling, Tensor seeds, Tensor sample_ids, Tensor draw, "
    "int stream, bool noisy, int[] dtypes, int time_dtype) -> Tensor[]"
)


def times(noise: Noise, clock: Clock) -> Tensor:
    """The times that `bridge` draws for the same arguments, float64 [rows].

    See `fastgen.kernels.bridge.reference.times`; noise.stream is not used, times have their own.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    result: Tensor = torch.ops.fastgen.times(*noise[:3], clock.quantiles, int(clock.sampling))
    return result


def bridge(
    x0: Tensor | None,
    x1: Tensor,
    coefficients: Tensor,
    times: Tensor | Clock,
    noise: Noise,
    *,
    index0: Tensor | None = None,
    index1: Tensor | None = None,
    noisy: bool = True,
    dtypes: list[torch.dtype] | None = None,
    time_dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """The state and the targets of a training batch in one pass: t and M tensors [rows, ...].

    out_j[b] = C[b, j, 0] x0[index0[b]] + C[b, j, 1] x1[index1[b]] + C[b, j, 2] z_b; see
    `fastgen.kernels.bridge.reference.bridge` for the exact contract. Differentiable in x0 and x1.

    Args:
        x0, x1: tensors [N, ...] and [N', ...]; x0 may be None.
        coefficients: float64, recipes [M, 3, 5] or, for given times, [rows, M, 3].
        times: float64 [rows] in [0, 1] (NaN results elsewhere), or what to draw them from.
        noise: seeds, sample ids [rows] and one draw id.
        index0, index1: int64 [rows], which rows of x0 and x1; the default is 0 .. rows - 1.
        noisy: whether there is a third term.
        dtypes: dtypes of the M outputs; the default is that of x1 for each.
        time_dtype: dtype of t, torch.float32 or torch.float64.

    Raises:
        ValueError: naming the argument that does not fit; on CPU tensors for an index out of
            range too (on others such rows are NaN).
    """
    if dtypes is None:
        recipe = coefficients.ndim == TERMS and coefficients.shape[-1] == FEATURES
        targets = coefficients.shape[0 if recipe else 1] if coefficients.ndim == TERMS else 1
        dtypes = [x1.dtype] * targets
    given, quantiles, sampling = (
        (None, times.quantiles, int(times.sampling))
        if isinstance(times, Clock)
        else (times, None, 0)
    )
    if plain(x0, x1):
        _check(x0, x1, index0, index1, coefficients, times, noise, dtypes, time_dtype)
        direct: list[Tensor] = dispatch.find("bridge", x1.device)(
            x0, x1, index0, index1, coefficients, times, noise, noisy, dtypes, time_dtype
        )
        return direct
    codes = codes_of("dtypes", dtypes)
    result: list[Tensor] = torch.ops.fastgen.bridge(
        x0,
        x1,
        index0,
        index1,
        coefficients,
        given,
        quantiles,
        sampling,
        *noise[:3],
        int(noise.stream),
        noisy,
        codes,
        *codes_of("time_dtype", [time_dtype]),
    )
    return result


def plain(x0: Tensor | None, x1: Tensor) -> bool:
    """Whether there is nothing to trace or to differentiate, so that no operator is needed.

    That saves more than the kernel takes on small batches.
    """
    if torch.compiler.is_compiling() or type(x1) is not Tensor or transforming():
        return False
    if x0 is not None and type(x0) is not Tensor:
        return False
    needed = x1.requires_grad or (x0 is not None and x0.requires_grad)
    return not (needed and torch.is_grad_enabled())


def batches(
    rows: int,
    shape: torch.Size,
    dtype: torch.dtype,
    recipe: Tensor,
    clock: Clock,
    noisy: bool,
    stream: int,
) -> Batches | None:
    """The calls of `bridge` that a run makes on the CPU, described once; None without C++."""
    made = dispatch.load("bridge_batches", dispatch.choose(recipe.device))
    return made and made(rows, shape, dtype, recipe, clock, noisy, stream)


def _times(
    seeds: Tensor, sample_ids: Tensor, draw: Tensor, quantiles: Tensor, sampling: int
) -> Tensor:
    clock = _check_times(seeds, sample_ids, draw, quantiles, sampling)
    kernel = dispatch.find("times", sample_ids.device)
    result: Tensor = kernel(seeds, sample_ids, draw, clock)
    return result


def _check_times(
    seeds: Tensor, sample_ids: Tensor, draw: Tensor, quantiles: Tensor, sampling: int
) -> Clock:
    """The clock, or a ValueError that names what does not fit."""
    noise, clock = Noise(seeds, sample_ids, draw, Stream.TIME), Clock(quantiles, sampling)
    check_noise(noise, rows_of_ids(sample_ids), sample_ids.device, 1)
    check_clock(clock, sample_ids.device)
    return clock


def _times_fake(
    seeds: Tensor, sample_ids: Tensor, draw: Tensor, quantiles: Tensor, sampling: int
) -> Tensor:
    _check_times(seeds, sample_ids, draw, quantiles, sampling)
    return torch.empty(sample_ids.shape[0], dtype=torch.float64, device=sample_ids.device)


def _check(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times: Tensor | Clock,
    noise: Noise,
    dtypes: list[torch.dtype],
    time_dtype: torch.dtype,
) -> None:
    check_bridge(x0, x1, index0, index1, coefficients, times, noise, dtypes)
    if time_dtype not in (torch.float32, torch.float64):
        raise ValueError(f"time_dtype: expected float32 or float64, got {time_dtype}")


def _checked(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times: Tensor | None,
    quantiles: Tensor | None,
    sampling: int,
    seeds: Tensor,
    sample_ids: Tensor,
    draw: Tensor,
    stream: int,
    noisy: bool,
    dtypes: list[int],
    time_dtype: int,
) -> tuple[Any, ...]:
    """The call as kernels take it, or a ValueError: a saved graph holds the operator's calls."""
    noise = Noise(seeds, sample_ids, draw, stream)
    kinds, time_kind = kinds_of("dtypes", dtypes), kind_of("time_dtype", time_dtype)
    when: Tensor | Clock
    if times is None and quantiles is not None:
        when = Clock(quantiles, sampling)
    elif times is not None and quantiles is None:
        when = times
    else:
        raise ValueError("times, quantiles: expected one of them and None for the other")
    _check(x0, x1, index0, index1, coefficients, when, noise, kinds, time_kind)
    return x0, x1, index0, index1, coefficients, when, noise, noisy, kinds, time_kind


def _bridge(*call: Any) -> list[Tensor]:
    checked = _checked(*call)
    result: list[Tensor] = dispatch.find("bridge", checked[1].device)(*checked)
    return result


def _bridge_fake(*call: Any) -> list[Tensor]:
    _, x1, *_, noise, _, kinds, time_kind = _checked(*call)
    rows = noise.sample_ids.shape[0]
    shape = rows, *x1.shape[1:]
    return [x1.new_empty(rows, dtype=time_kind), *(x1.new_empty(shape, dtype=k) for k in kinds)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x0, x1, index0, index1, coefficients, given, quantiles, sampling = inputs[:8]
    ctx.save_for_backward(index0, index1, coefficients, given, quantiles, *inputs[8:11])
    ctx.sampling = sampling
    ctx.shapes = [None if x is None else (x.shape, x.dtype) for x in (x0, x1)]


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    """Of x_k: the rows sum_j C[b, j, k] g_j[b], added up where a row was chosen more than once."""
    index0, index1, coefficients, given, quantiles, seeds, ids, draw = ctx.saved_tensors
    present = [(j, g) for j, g in enumerate(gradients[1:]) if g is not None]
    result: list[Tensor | None] = [None, None]
    if present:
        t = given
        if t is None:
            t = torch.ops.fastgen.times(seeds, ids, draw, quantiles, ctx.sampling)
        recipe = coefficients.shape[-1] == FEATURES
        table = row_coefficients(coefficients, t) if recipe else coefficients
        for k, index in enumerate((index0, index1)):
            if ctx.shapes[k] is None or not ctx.needed[k]:
                continue
            shape, dtype = ctx.shapes[k]
            weights = table[:, [j for j, _ in present], k][:, None].contiguous()
            rows = torch.ops.fastgen.combine(
                [g.contiguous() for _, g in present],
                weights,
                [DTYPE_CODES[dtype]],
                None,
                None,
                None,
                None,
                0,
            )[0]
            if index is None:
                result[k] = rows
            else:
                result[k] = rows.new_zeros(shape).index_add(0, index, rows)
    return *result, *[None] * 13


def _jvp(arguments: tuple[Any, ...], tangents: tuple[Any, ...]) -> list[Tensor]:
    """Of out_j: the same combination of dx0 and dx1 without noise; none of the times."""
    x0, x1, *rest = arguments
    d0, d1 = tangents[:2]
    d0 = torch.zeros_like(x0) if d0 is None and x0 is not None else d0
    d1 = torch.zeros_like(x1) if d1 is None else d1
    # Without x0 its coefficient is not read; the third one is that of the noise.
    rest[-3] = False
    t, *changes = torch.ops.fastgen.bridge(d0, d1, *rest)
    return [torch.zeros_like(t), *changes]


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("times", _times, _key)
    _LIBRARY.impl("bridge", _bridge, _key)
torch.library.register_fake("fastgen::times", _times_fake, lib=_LIBRARY)
torch.library.register_fake("fastgen::bridge", _bridge_fake, lib=_LIBRARY)
register_batching(_LIBRARY, "times")
register(_LIBRARY, "bridge", ("x0", "x1"), _setup, _backward, _jvp)
