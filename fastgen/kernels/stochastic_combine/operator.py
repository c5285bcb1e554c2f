"""Combinations with random coefficients: choice of an implementation, torch operator.

Everything of a step of an SDE solver beside the evaluations of drift and diffusion is one of
these (`fastgen.kernels.stochastic_combine.reference`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.limits import MAX_OUTPUTS
from fastgen.kernels import dispatch
from fastgen.kernels.combine.contract import check_outputs
from fastgen.kernels.contract import DTYPE_CODES, Noise, codes_of, kinds_of, noise_of
from fastgen.kernels.derivatives import register
from fastgen.kernels.stochastic_combine.contract import check_monomials, check_stochastic

_LIBRARY = torch.library.Library("fastgen", "FRAGMENT")
_LIBRARY.define(
    "stochastic_combine(Tensor[] inputs, Tensor table, int[] dtypes, Tensor? seeds, "
    "Tensor? sample_ids, Tensor? draws, int stream, Tensor[] given) -> Tensor[]"
)


def stochastic_combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype] | None = None,
    *,
    noise: Noise | None = None,
    given: list[Tensor] | None = None,
) -> list[Tensor]:
    """out_j = sum_i x_i sum_k T[j, i, k] m_k with m = (1, z, z^2, z^3, z'), unit noises z and z'.

    See `fastgen.kernels.stochastic_combine.reference` for the exact contract. Differentiable in the
    inputs: the gradient is the transposed combination with the same noises, drawn anew.

    Args:
        inputs: 1 to 24 tensors [B, ...] of one shape and device.
        table: float64 coefficients [1 or B, M, N, 5].
        dtypes: dtypes of the outputs; the default is inputs[0].dtype for each.
        noise: seeds, sample ids and one or two draw ids.
        given: instead of ``noise`` the tensors z, or z and z'.

    Returns:
        M tensors [B, ...].

    Raises:
        ValueError: naming the argument that does not fit.
    """
    given = given or []
    if dtypes is None:
        outputs = table.shape[1] if table.ndim == 4 else 1
        dtypes = [inputs[0].dtype] * outputs if inputs else []
    seeds, ids, draws, stream = noise if noise is not None else (None, None, None, 0)
    codes = codes_of("dtypes", dtypes)
    result: list[Tensor] = torch.ops.fastgen.stochastic_combine(
        inputs, table, codes, seeds, ids, draws, int(stream), given
    )
    return result


def bind_stochastic(
    inputs: list[Tensor | None],
    outputs: list[Tensor],
    tables: Tensor,
    *,
    noise: Noise | None = None,
    given: list[Tensor | None] | None = None,
    backend: str | None = None,
) -> Callable[[int, list[Tensor]], None]:
    """`stochastic_combine` for the steps of a run; see
    `stochastic_combine.reference.bind_stochastic`.

    Raises:
        ValueError: naming the argument that does not fit, or is not contiguous.
    """
    if not outputs or tables.ndim != 5 or tables.shape[0] == 0:
        raise ValueError(
            f"outputs, tables: expected outputs, and tables [steps, 1 or B, M, N, 5], got "
            f"{len(outputs)} outputs and tables of shape {list(tables.shape)}"
        )
    first, given = outputs[0], given or []
    check_outputs(outputs, first.shape, [*inputs, *given])
    shown = [first if x is None else x for x in inputs]
    units = [first if z is None else z for z in given]
    if noise is not None and (noise.draws.ndim not in (2, 3) or noise.draws.shape[0] == 0):
        raise ValueError(
            f"noise.draws: expected [steps, K] or [steps, rows, K], got {list(noise.draws.shape)}"
        )
    drawn = None if noise is None else noise._replace(draws=noise.draws[0])
    check_stochastic(shown, tables[0], [y.dtype for y in outputs], drawn, units)
    check_monomials(tables, len(units) if drawn is None else drawn.noises)
    held = {"tables": tables}
    held |= {f"inputs[{i}]": x for i, x in enumerate(inputs) if x is not None}
    held |= {f"given[{k}]": z for k, z in enumerate(given) if z is not None}
    if noise is not None:
        if noise.draws.shape[0] != tables.shape[0]:
            raise ValueError(
                f"noise.draws: expected {tables.shape[0]} steps as in tables, "
                f"got {noise.draws.shape[0]}"
            )
        held |= {f"noise.{name}": getattr(noise, name) for name in noise._fields[:3]}
    for name, tensor in held.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: expected a contiguous tensor, got {tensor.stride()}")
    bound: Callable[[int, list[Tensor]], None]
    bound = dispatch.find("bind_stochastic", first.device, backend)(
        inputs, outputs, tables, noise, given
    )
    return bound


def _checked(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[int],
    seeds: Tensor | None,
    ids: Tensor | None,
    draws: Tensor | None,
    stream: int,
    given: list[Tensor],
) -> tuple[list[Tensor], Tensor, list[torch.dtype], Noise | None, list[Tensor]]:
    """The call as kernels take it, or a ValueError: a saved graph holds the operator's calls."""
    kinds, noise = kinds_of("dtypes", dtypes), noise_of(seeds, ids, draws, stream)
    check_stochastic(inputs, table, kinds, noise, given)
    return inputs, table, kinds, noise, given


def _combine(*call: Any) -> list[Tensor]:
    checked = _checked(*call)
    _, table, _, noise, given = checked
    check_monomials(table, len(given) if noise is None else noise.noises)
    result: list[Tensor] = dispatch.find("stochastic_combine", table.device)(*checked)
    return result


def _fake(*call: Any) -> list[Tensor]:
    inputs, table, kinds, *_ = _checked(*call)
    return [torch.empty(inputs[0].shape, dtype=kind, device=table.device) for kind in kinds]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, table, _, seeds, ids, draws, stream, given = inputs
    ctx.dtypes, ctx.stream = [x.dtype for x in tensors], stream
    ctx.save_for_backward(table, seeds, ids, draws, *given)


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    """Of x_i: sum_j g_j sum_k T[j, i, k] m_k."""
    table, seeds, ids, draws, *given = ctx.saved_tensors
    present = [j for j, g in enumerate(gradients) if g is not None]
    grads = [g for g in gradients if g is not None]
    if not grads:
        return [None] * len(ctx.dtypes), *[None] * 6, [None] * len(given)
    transposed = table[:, present].transpose(1, 2)
    result: list[Tensor] = []
    for i in range(0, len(ctx.dtypes), MAX_OUTPUTS):
        codes = [DTYPE_CODES[kind] for kind in ctx.dtypes[i : i + MAX_OUTPUTS]]
        part = transposed[:, i : i + MAX_OUTPUTS].contiguous()
        result += torch.ops.fastgen.stochastic_combine(
            grads, part, codes, seeds, ids, draws, ctx.stream, given
        )
    return result, *[None] * 6, [None] * len(given)


def _jvp(arguments: tuple[Any, ...], tangents: tuple[Any, ...]) -> list[Tensor]:
    """Of out_j: sum_i dx_i sum_k T[j, i, k] m_k."""
    table, rest = arguments[1], arguments[2:]
    moving = [i for i, dx in enumerate(tangents[0]) if dx is not None]
    changes = [tangents[0][i] for i in moving]
    result: list[Tensor] = torch.ops.fastgen.stochastic_combine(
        changes, table[:, :, moving].contiguous(), *rest
    )
    return result


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("stochastic_combine", _combine, _key)
torch.library.register_fake("fastgen::stochastic_combine", _fake, lib=_LIBRARY)
register(_LIBRARY, "stochastic_combine", ("inputs",), _setup, _backward, _jvp)
