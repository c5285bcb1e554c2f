"""One stage of a sampler: several linear combinations of the same tensors, in one pass."""

import torch
from torch import Tensor

from fastgen.kernels.combine.contract import Known
from fastgen.kernels.contract import HoldsAddresses, Noise, compute_dtype
from fastgen.kernels.normals.reference import normals


def combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> list[Tensor]:
    """out_j = sum_i C[j, i] x_i + C[j, N] d + sum_k C[j, N + 1 + k] z_k.

    x_0 .. x_{N-1} are the inputs and z_k the standard normals that ``noise`` names. With
    ``clip=(low, high)``, the first row A of the table gives the clipped value
    d = min(max(sum_i A[i] x_i, low), high), and its further entries are ignored; without clip
    there is neither that row nor the column of d.

    With ``known=(v, m)`` the table's last column is that of the values v, and M more rows after
    the others are the sums that hold where they are known: with p_j and q_j for both,

        out_j = q_j where m, else p_j;     of weights m: p_j + m (q_j - p_j) for 0 < m < 1/2,
                                           q_j - (q_j - p_j) (1 - m) for 1/2 <= m < 1,

    and the one of them alone where m is 0 or 1, so that nothing that is not finite in the other
    comes through.

    A coefficient that is zero means that its term is absent: 0 times infinity is not formed.
    Terms are added from left to right in float32 (float64 if any input or output is), each
    product and sum rounded once; coefficients are rounded to that dtype first.

    Args:
        inputs: tensors [B, ...] of one shape; float32, float64, bfloat16 or float16.
        table: float64 [1 or B, M (+ 1), N (+ 1) + K], for all rows or one for each; of what is
            known [1 or B, 2 M (+ 1), N (+ 1) + K + 1].
        dtypes: dtypes of the M outputs.
        clip: bounds of the clipped value, or None.
        noise: seeds, sample ids and K draw ids, or None.
        known: values and where they are known, or None.

    Returns:
        M tensors [B, ...].
    """
    shape, rows = inputs[0].shape, inputs[0].shape[0]
    dtype = compute_dtype([x.dtype for x in inputs] + dtypes)
    count = len(dtypes)
    coefficients = table.to(dtype)
    shared_on_host = table.shape[0] == 1 and table.device.type == "cpu"
    terms = [x.to(dtype) for x in inputs]

    def weighted_sum(row: int) -> Tensor:
        total = torch.zeros(shape, dtype=dtype, device=table.device)
        for column, term in enumerate(terms):
            c = coefficients[:, row, column].reshape(-1, *[1] * (len(shape) - 1))
            if not shared_on_host:
                total = torch.where(c == 0, total, total + c * term)
            elif c.item() != 0:
                total = total + c * term
        return total

    first = 0
    if clip is not None:
        terms.append(weighted_sum(0).clamp(*clip))
        first = 1
    if noise is not None:
        elements = inputs[0].numel() // max(rows, 1)
        for draw in noise.draws.unbind(-1):  # one number, or one for each row
            number = draw[:, None] if draw.ndim else draw
            z = normals(elements, noise.seeds, noise.sample_ids, number, noise.stream)
            terms.append(z.reshape(shape).to(dtype))
    if known is not None:
        terms.append(known.values.to(dtype))
    sums = [weighted_sum(first + j) for j in range(count)]
    if known is not None:
        there = [weighted_sum(first + count + j) for j in range(count)]
        sums = [mixed(p, q, known.mask) for p, q in zip(sums, there, strict=True)]
    return [y.to(kind) for y, kind in zip(sums, dtypes, strict=True)]


def mixed(p: Tensor, q: Tensor, mask: Tensor) -> Tensor:
    """p, and q where it is known: `combine`."""
    if mask.dtype == torch.bool:
        return torch.where(mask, q, p)
    m = mask.to(p.dtype)
    between = torch.where(m < 0.5, p + m * (q - p), q - (q - p) * (1 - m))
    return torch.where(m <= 0, p, torch.where(m >= 1, q, between))


def combine_into(
    inputs: list[Tensor],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> None:
    """`combine`, written to existing tensors; an output may be one of the inputs."""
    results = combine(inputs, table, [y.dtype for y in outputs], clip, noise, known)
    for output, result in zip(outputs, results, strict=True):
        output.copy_(result)


class Bound(HoldsAddresses):
    """`combine_into` with all but some inputs fixed.

    The call's tensors take the places of the inputs that are None, in order. Coefficients, seeds,
    sample ids, draws and what is known are read when it is called.
    """

    def __init__(
        self,
        inputs: list[Tensor | None],
        outputs: list[Tensor],
        table: Tensor,
        clip: tuple[float, float] | None = None,
        noise: Noise | None = None,
        known: Known | None = None,
    ) -> None:
        self._inputs, self._rest = list(inputs), (outputs, table, clip, noise, known)

    def __call__(self, missing: list[Tensor]) -> None:
        """Compute with `missing` in the places of the inputs that are None, in order."""
        rest = iter(missing)
        filled = [next(rest) if x is None else x for x in self._inputs]
        combine_into(filled, *self._rest)


bind = Bound
