"""`combine` as a torch operator: `torch.compile(fullgraph=True)`, fake tensors, autograd.

`torch.ops.fastgen.combine` is `combine.reference.combine`, flattened to what an operator schema can
say. Its gradient is the transposed combination and its tangent the combination of tangents, so both
are the same operator again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.common.limits import MAX_OUTPUTS
from fastgen.common.typed import typed
from fastgen.kernels import dispatch
from fastgen.kernels.combine.contract import Known, check_combine
from fastgen.kernels.combine.reference import mixed
from fastgen.kernels.contract import Noise, codes_of, kinds_of, noise_of
from fastgen.kernels.derivatives import register

_LIBRARY = torch.library.Library("fastgen", "FRAGMENT")
_LIBRARY.define(
    "combine(Tensor[] inputs, Tensor table, int[] dtypes, float[]? clip, Tensor? seeds, "
    "Tensor? sample_ids, Tensor? draws, int stream, Tensor? values=None, Tensor? mask=None) "
    "-> Tensor[]"
)


@typed
def combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype] | None = None,
    *,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> list[Tensor]:
    """Several linear combinations of the same tensors and of fresh noise, in one pass.

    out_j = sum_i C[j, i] x_i (+ C[j, N] d, the clipped value) + sum_k C[j, N (+ 1) + k] z_k; see
    `fastgen.kernels.combine.reference` for the exact contract. Differentiable in the inputs and in
    what is known, in reverse and in forward mode.

    Args:
        inputs: 1 to 24 tensors [B, ...] of one shape and device.
        table: float64 coefficients [1 or B, M (+ 1), N (+ 1) + K]; with ``known``
            [1 or B, 2 M (+ 1), N (+ 1) + K + 1].
        dtypes: dtypes of the outputs; the default is inputs[0].dtype for each.
        clip: (low, high) of the clipped value d, whose coefficients are the table's first row.
        noise: seeds, sample ids and K draw ids.
        known: values, and the mask of the elements whose outputs are the sums of the table's
            further rows.

    Returns:
        M tensors [B, ...].

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if dtypes is None:
        outputs = table.shape[1] - (clip is not None) if table.ndim == 3 else 1
        outputs //= 1 + (known is not None)
        dtypes = [inputs[0].dtype] * outputs if inputs else []
    seeds, ids, draws, stream = noise if noise is not None else (None, None, None, 0)
    bounds = None if clip is None else list(clip)
    given = () if known is None else known
    result: list[Tensor] = torch.ops.fastgen.combine(
        inputs, table, codes_of("dtypes", dtypes), bounds, seeds, ids, draws, stream, *given
    )
    return result


def _checked(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[int],
    clip: list[float] | None,
    seeds: Tensor | None,
    sample_ids: Tensor | None,
    draws: Tensor | None,
    stream: int,
    values: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[
    list[Tensor],
    Tensor,
    list[torch.dtype],
    tuple[float, float] | None,
    Noise | None,
    Known | None,
]:
    """The call as kernels take it, or a ValueError: a saved graph holds the operator's calls."""
    kinds, noise = kinds_of("dtypes", dtypes), noise_of(seeds, sample_ids, draws, stream)
    bounds: Any = None if clip is None else tuple(clip)
    if (values is None) != (mask is None):
        name, other = ("values", "mask") if values is None else ("mask", "values")
        raise ValueError(f"{name}: expected a tensor beside {other}")
    known = None if values is None or mask is None else Known(values, mask)
    check_combine(inputs, table, kinds, bounds, noise, known)
    if table.requires_grad:
        raise ValueError(
            "table: gradients in the coefficients need fastgen.kernels.combine.reference"
        )
    return inputs, table, kinds, bounds, noise, known


def _combine(*call: Any) -> list[Tensor]:
    checked = _checked(*call)
    result: list[Tensor] = dispatch.find("combine", checked[1].device)(*checked)
    return result


def _combine_fake(*call: Any) -> list[Tensor]:
    inputs, table, kinds, *_ = _checked(*call)
    return [torch.empty(inputs[0].shape, dtype=kind, device=table.device) for kind in kinds]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, table, _, clip = inputs[:4]
    ctx.arguments = len(inputs)
    values, mask = inputs[8:] if ctx.arguments > 8 else (None, None)
    ctx.count, ctx.clip, ctx.outputs = len(tensors), clip, len(output)
    ctx.dtypes = [x.dtype for x in tensors]
    ctx.known = None if values is None else (values.dtype, len(values))
    # The values matter for the mask of the clip only; a linear stage needs none of them.
    masks = () if mask is None else (mask,)
    ctx.save_for_backward(table, *masks, *(tensors if clip is not None else ()))


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    """Of x_i: sum_j C[j, i] g_j + A[i] (sum_j C[j, N] g_j inside the bounds of the clip).

    Where elements are known the gradient g_j belongs to the other sum: both have its share.
    """
    table, *values = ctx.saved_tensors
    mask = None if ctx.known is None else values.pop(0)
    present = [j for j, g in enumerate(gradients) if g is not None]
    grads = [g for g in gradients if g is not None]
    nothing: list[Tensor | None] = [None] * (ctx.arguments - 1)
    if not grads:
        return [None] * ctx.count, *nothing
    rows = [j + (ctx.clip is not None) for j in present]
    if mask is not None:
        there = [mixed(torch.zeros_like(g), g, mask) for g in grads]
        grads = [mixed(g, torch.zeros_like(g), mask) for g in grads] + there
        rows += [row + ctx.outputs for row in rows]
    weights = table[:, rows, : ctx.count]
    through = table[:, rows, -1:]
    alone = grads
    if ctx.clip is not None:
        kind = torch.float64 if torch.float64 in ctx.dtypes else torch.float32
        unclipped = combine(values, table[:, :1, : ctx.count].contiguous(), [kind])[0]
        column = table[:, rows, ctx.count, None].transpose(1, 2).contiguous()
        passed = combine(grads, column, [kind])[0]
        low, high = ctx.clip
        grads = [*grads, passed * ((unclipped >= low) & (unclipped <= high))]
        weights = torch.cat([weights, table[:, :1, : ctx.count]], dim=1)
    transposed = weights.transpose(1, 2).contiguous()
    result: list[Tensor] = []
    for i in range(0, ctx.count, MAX_OUTPUTS):
        part = slice(i, min(i + MAX_OUTPUTS, ctx.count))
        result += combine(grads, transposed[:, part].contiguous(), ctx.dtypes[part])
    if ctx.known is not None and ctx.needed[8]:
        kind, batch = ctx.known
        own = combine(alone, through.transpose(1, 2).contiguous(), [kind])[0]
        nothing[7] = own if len(own) == batch else own.sum(0, keepdim=True)
    return result, *nothing


def _jvp(arguments: tuple[Any, ...], tangents: tuple[Any, ...]) -> list[Tensor]:
    """Of out_j: sum_i C[j, i] dx_i + C[j, N] dd, dd = sum_i A[i] dx_i inside the bounds.

    Where elements are known it is that of the other sum, in which the values move too.
    """
    inputs, table, dtypes, clip = arguments[:4]
    values, mask = arguments[8:] if len(arguments) > 8 else (None, None)
    kinds = kinds_of("dtypes", dtypes)
    count, first, size = len(inputs), int(clip is not None), len(kinds)
    moving = [i for i, dx in enumerate(tangents[0]) if dx is not None]
    changes = [tangents[0][i] for i in moving]
    columns = list(moving)
    if values is not None and tangents[8] is not None:
        like = inputs[0]
        changes.append(tangents[8].expand(like.shape).contiguous())
        columns.append(table.shape[2] - 1)

    def moved(rows: slice) -> list[Tensor]:
        result = combine(changes, table[:, rows, columns].contiguous(), kinds)
        if clip is None or not moving:
            return result
        kind = torch.float64 if torch.float64 in [x.dtype for x in inputs] else torch.float32
        unclipped = combine(inputs, table[:, :1, :count].contiguous(), [kind])[0]
        own = [tangents[0][i] for i in moving]
        change = combine(own, table[:, :1, moving].contiguous(), [kind])[0]
        inside = change * ((unclipped >= clip[0]) & (unclipped <= clip[1]))
        clipped = combine([inside], table[:, rows, count, None].contiguous(), kinds)
        return [a + b for a, b in zip(result, clipped, strict=True)]

    plain = moved(slice(first, first + size))
    if mask is None:
        return plain
    there = moved(slice(first + size, first + 2 * size))
    return [mixed(p, q, mask) for p, q in zip(plain, there, strict=True)]


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("combine", _combine, _key)
torch.library.register_fake("fastgen::combine", _combine_fake, lib=_LIBRARY)
register(_LIBRARY, "combine", ("inputs", "values"), _setup, _backward, _jvp)
