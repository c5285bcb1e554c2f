"""What the implementations of `stochastic_combine` share: the monomials, and checks of a call."""

import torch
from torch import Tensor

from fastgen.common.checks import check_tensor
from fastgen.common.limits import MAX_INPUTS, MAX_OUTPUTS
from fastgen.kernels.contract import DTYPE_CODES, Noise, check_noise

MONOMIALS = 5  # 1, z, z^2, z^3, z'


def check_stochastic(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    noise: Noise | None,
    given: list[Tensor],
) -> None:
    """Raise a ValueError that names the argument where a call is malformed."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise ValueError(f"inputs: expected 1 to {MAX_INPUTS} tensors, got {len(inputs)}")
    if not 1 <= len(dtypes) <= MAX_OUTPUTS:
        raise ValueError(f"dtypes: expected 1 to {MAX_OUTPUTS} outputs, got {len(dtypes)}")
    first = inputs[0]
    named = [(f"inputs[{i}]", x) for i, x in enumerate(inputs)]
    for name, x in (*named, *[(f"given[{k}]", z) for k, z in enumerate(given)]):
        if x.shape != first.shape or x.ndim == 0 or x.device != first.device:
            raise ValueError(
                f"{name}: expected shape {tuple(first.shape)} on {first.device} like inputs[0], "
                f"with a batch axis, got {tuple(x.shape)} on {x.device}"
            )
        if x.dtype not in DTYPE_CODES:
            raise ValueError(f"{name}: expected one of {list(DTYPE_CODES)}, got {x.dtype}")
    for i, kind in enumerate(dtypes):
        if kind not in DTYPE_CODES:
            raise ValueError(f"dtypes[{i}]: expected one of {list(DTYPE_CODES)}, got {kind}")
    check_tensor("table", table)
    rows, shape = first.shape[0], (len(dtypes), len(inputs), MONOMIALS)
    if (
        table.ndim != 4
        or tuple(table.shape[1:]) != shape
        or table.shape[0] not in (1, rows)
        or table.dtype != torch.float64
        or table.device != first.device
    ):
        raise ValueError(
            f"table: expected float64 [1 or {rows}, {', '.join(map(str, shape))}] on "
            f"{first.device}, got {table.dtype} {list(table.shape)} on {table.device}"
        )
    if table.requires_grad or any(z.requires_grad for z in given):
        raise ValueError("table, given: gradients are those of the inputs only; detach them")
    if len(given) > 2 or (given and noise is not None):
        raise ValueError(f"given: expected at most z and z', and no noise, got {len(given)}")
    if noise is not None:
        check_noise(noise, rows, first.device)
        if not 1 <= noise.noises <= 2:
            raise ValueError(f"noise.draws: expected one or two draws, got {noise.noises}")


def check_monomials(tables: Tensor, units: int) -> None:
    """Raise a ValueError where tables [..., 5] need more unit noises than there are.

    To look at a table on a device would need a wait: kernels leave out what they have not.
    """
    if units < 2 and tables.is_cpu:
        for k in range(4 if units else 1, MONOMIALS):
            if bool((tables[..., k] != 0).any()):
                raise ValueError(f"table: monomial {k} needs more than {units} unit noises")
