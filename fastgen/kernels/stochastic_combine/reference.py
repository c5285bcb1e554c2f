"""One stage of an SDE solver: linear combinations with random coefficients, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.common.transforms import to_list
from fastgen.kernels.contract import HoldsAddresses, Noise, compute_dtype
from fastgen.kernels.normals.reference import normals


def stochastic_combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    noise: Noise | None = None,
    given: list[Tensor] | None = None,
) -> list[Tensor]:
    """out_j = sum_i x_i sum_k T[j, i, k] m_k with the monomials m = (1, z, z^2, z^3, z').

    z and z' are unit noises: standard normals of the noise contract for the one or two draws of
    ``noise``, or the tensors ``given``.

    Arithmetic is float32, or float64 if any input or output is; coefficients are rounded to it
    first, z^2 = z z, z^3 = z^2 z. A coefficient that is zero means that its term is absent, and
    inputs without coefficients are not read. Monomials are added from left to right to the weight
    of an input, weights times inputs from left to right to the output; each product and sum is
    rounded once.

    Args:
        inputs: tensors [B, ...] of one shape; float32, float64, bfloat16 or float16.
        table: float64 [1 or B, M, N, 5], for all rows or one for each.
        dtypes: dtypes of the M outputs.
        noise: seeds, sample ids and draw ids, or None.
        given: z, or z and z', in the inputs' shape; or None.

    Returns:
        M tensors [B, ...].
    """
    shape, rows = inputs[0].shape, inputs[0].shape[0]
    dtype = compute_dtype([x.dtype for x in inputs] + dtypes)
    units = [z.to(dtype) for z in given or []]
    if noise is not None:
        elements = inputs[0].numel() // max(rows, 1)
        for draw in noise.draws.unbind(-1):  # one number, or one for each row
            number = draw[:, None] if draw.ndim else draw
            z = normals(elements, noise.seeds, noise.sample_ids, number, noise.stream)
            units.append(z.reshape(shape).to(dtype))
    monomials: dict[int, Tensor] = {}
    if units:
        z = units[0]
        monomials = {1: z, 2: z * z, 3: z * z * z}
    if len(units) > 1:
        monomials[4] = units[1]

    coefficients = table.to(dtype)
    nonzero = to_list((coefficients != 0).any(0)) if table.device.type == "cpu" else None
    column = (-1, *[1] * (len(shape) - 1))
    outputs = []
    for j, kind in enumerate(dtypes):
        total = torch.zeros(shape, dtype=dtype, device=table.device)
        for i, x in enumerate(inputs):
            present = (coefficients[:, j, i] != 0).any(-1).reshape(column)
            weight: Tensor | None = None
            for k in (0, *monomials):
                if nonzero is not None and not nonzero[j][i][k]:
                    continue
                c = coefficients[:, j, i, k].reshape(column)
                term = c * monomials[k] if k else c
                if weight is None:
                    weight = torch.where(c == 0, 0.0, term)
                else:
                    weight = torch.where(c == 0, weight, weight + term)
            if weight is not None:
                total = torch.where(present, total + weight * x.to(dtype), total)
        outputs.append(total.to(kind))
    return outputs


class BoundStochastic(HoldsAddresses):
    """`stochastic_combine` for the steps of a run, written to existing tensors.

    ``tables`` [S, 1 or B, M, N, 5] has a table and ``noise.draws`` [S, K] draw ids for each step.
    The call (step, tensors) puts the tensors in the places of inputs and given noises that are
    None, in order. Outputs may be inputs. Tables and draws are read when it is called.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor | None],
        outputs: list[Tensor],
        tables: Tensor,
        noise: Noise | None = None,
        given: Sequence[Tensor | None] | None = None,
    ) -> None:
        self._inputs, self._given = list(inputs), list(given or [])
        self._outputs, self._tables, self._noise = outputs, tables, noise

    def __call__(self, step: int, missing: list[Tensor]) -> None:
        """Compute with a step's table and draws and `missing` in the places of None."""
        rest = iter(missing)
        filled = [next(rest) if x is None else x for x in self._inputs]
        units = [next(rest) if z is None else z for z in self._given]
        drawn, noise = None, self._noise
        if noise is not None:
            drawn = noise._replace(draws=noise.draws[step])
        self._run(filled, self._tables[step], drawn, units)

    def _run(
        self, inputs: list[Tensor], table: Tensor, noise: Noise | None, given: list[Tensor]
    ) -> None:
        dtypes = [y.dtype for y in self._outputs]
        results = stochastic_combine(inputs, table, dtypes, noise, given)
        for output, result in zip(self._outputs, results, strict=True):
            output.copy_(result)


bind_stochastic = BoundStochastic
