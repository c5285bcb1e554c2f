"""Checks of a call of `combine`, which its implementations share."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastgen.common.checks import check_tensor
from fastgen.common.display import displayed
from fastgen.common.limits import MAX_INPUTS, MAX_NOISES, MAX_OUTPUTS
from fastgen.kernels.contract import DTYPE_CODES, Noise, check_noise


@displayed
class Known(NamedTuple):
    """What is known of the elements of a call, whose outputs are other sums there.

    values: [1 or B, ...] of any dtype of the kernels, a further term of all sums. mask: bool
    [1 or B, ...], where they are known; or of such a dtype, the weight of the other sum, in [0, 1].
    """

    values: Tensor
    mask: Tensor


def table_shape(inputs: int, outputs: int, clip: bool, noises: int, known: bool) -> tuple[int, int]:
    """Rows and columns of a call's table of coefficients."""
    return outputs * (1 + known) + clip, inputs + clip + noises + known


def check_combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    clip: tuple[float, float] | None,
    noise: Noise | None,
    known: Known | None = None,
) -> None:
    """Raise a ValueError that names the argument where a `combine` call is malformed."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise ValueError(f"inputs: expected 1 to {MAX_INPUTS} tensors, got {len(inputs)}")
    if not 1 <= len(dtypes) <= MAX_OUTPUTS:
        raise ValueError(f"dtypes: expected 1 to {MAX_OUTPUTS} outputs, got {len(dtypes)}")
    if clip is not None and len(clip) != 2:
        raise ValueError(f"clip: expected (low, high), got {clip}")
    first = inputs[0]
    for i, x in enumerate(inputs):
        if x.shape != first.shape or x.ndim == 0:
            raise ValueError(
                f"inputs[{i}]: expected shape {tuple(first.shape)} like inputs[0], with a batch "
                f"axis, got {tuple(x.shape)}"
            )
        if x.device != first.device:
            raise ValueError(f"inputs[{i}]: expected device {first.device}, got {x.device}")
    for name, kinds in (("inputs", [x.dtype for x in inputs]), ("dtypes", dtypes)):
        for i, kind in enumerate(kinds):
            if kind not in DTYPE_CODES:
                raise ValueError(f"{name}[{i}]: expected one of {list(DTYPE_CODES)}, got {kind}")
    check_tensor("table", table)
    if noise is not None:
        check_noise(noise, first.shape[0], first.device)
    noises = 0 if noise is None else noise.noises
    if noises > MAX_NOISES:
        raise ValueError(f"noise.draws: expected at most {MAX_NOISES} draws, got {noises}")
    rows = first.shape[0]
    shape = table_shape(len(inputs), len(dtypes), clip is not None, noises, known is not None)
    if (
        table.ndim != 3
        or tuple(table.shape[1:]) != shape
        or table.shape[0] not in (1, rows)
        or table.dtype != torch.float64
    ):
        raise ValueError(
            f"table: expected float64 [1 or {rows}, {shape[0]}, {shape[1]}], "
            f"got {table.dtype} {list(table.shape)}"
        )
    if table.device != first.device:
        raise ValueError(f"table: expected device {first.device}, got {table.device}")
    if clip is not None and not clip[0] <= clip[1]:
        raise ValueError(f"clip: expected low <= high, got {clip}")
    if known is not None:
        _check_known(known, first)


def _check_known(known: Known, like: Tensor) -> None:
    for name, x in known._asdict().items():
        check_tensor(name, x)
        if x.dtype not in DTYPE_CODES and not (name == "mask" and x.dtype == torch.bool):
            also = "torch.bool or " if name == "mask" else ""
            raise ValueError(f"{name}: expected {also}one of {list(DTYPE_CODES)}, got {x.dtype}")
        if (
            x.ndim != like.ndim
            or x.shape[1:] != like.shape[1:]
            or (x.shape[0] != 1 and x.shape[0] != like.shape[0])
        ):
            raise ValueError(
                f"{name}: expected shape {tuple(like.shape)} like inputs[0], or with one row for "
                f"all, got {tuple(x.shape)}"
            )
        if x.device != like.device:
            raise ValueError(f"{name}: expected device {like.device}, got {x.device}")
    if known.mask.requires_grad:
        raise ValueError("mask: there are no derivatives in weights; detach them")


def check_bound(
    inputs: list[Tensor | None],
    outputs: list[Tensor],
    table: Tensor,
    noise: Noise | None,
    device: torch.device,
    known: Known | None = None,
) -> None:
    """Raise a ValueError that names a tensor which cannot be held by address on the device."""
    named = {"table": table}
    named |= {f"inputs[{i}]": x for i, x in enumerate(inputs) if x is not None}
    named |= {f"outputs[{j}]": y for j, y in enumerate(outputs)}
    if noise is not None:
        named |= {f"noise.{name}": getattr(noise, name) for name in noise._fields[:3]}
    if known is not None:
        named |= known._asdict()
    for name, tensor in named.items():
        if tensor.device != device or not tensor.is_contiguous():
            raise ValueError(
                f"{name}: expected a contiguous tensor on {device}, got strides "
                f"{tensor.stride()} on {tensor.device}"
            )
    check_outputs(outputs, outputs[0].shape, inputs, known)


def check_outputs(
    outputs: list[Tensor],
    shape: torch.Size,
    inputs: Sequence[Tensor | None] = (),
    known: Known | None = None,
) -> None:
    """Raise a ValueError that names an output which cannot be written.

    An output may be one of the inputs; it may not share a part of the memory of one, or of another
    output, or any of what is known: what is read would depend on how much was written.
    """
    for j, y in enumerate(outputs):
        if y.shape != shape or not y.is_contiguous() or y.is_neg():
            raise ValueError(
                f"outputs[{j}]: expected a contiguous tensor of shape {tuple(shape)}, "
                f"got shape {tuple(y.shape)} with strides {y.stride()}"
                f"{', a negative view' * y.is_neg()}"
            )
    spans = [span(y) for y in outputs]
    for j, own in enumerate(spans):
        for i, other in enumerate(spans[:j]):
            if overlap(own, other):
                raise ValueError(f"outputs[{j}]: it shares memory with outputs[{i}]")
        for i, x in enumerate(inputs):
            if x is None:
                continue
            other = span(x)
            if overlap(own, other) and (own != other or not x.is_contiguous()):
                raise ValueError(f"outputs[{j}]: it shares a part of the memory of inputs[{i}]")
        for name, x in {} if known is None else known._asdict().items():
            if overlap(own, span(x)):
                raise ValueError(f"outputs[{j}]: it shares memory with {name}")


def span(x: Tensor) -> tuple[int, int]:
    """The first and the last address of a tensor, exclusive; (0, 0) without elements."""
    if x.numel() == 0 or x.layout != torch.strided:
        return 0, 0
    begin = x.data_ptr()
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return begin, begin + (last + 1) * x.element_size() if begin else 0


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two spans have a byte in common."""
    return a[0] < b[1] and b[0] < a[1]
