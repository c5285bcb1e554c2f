"""The pairwise reductions in C++ on CPU tensors (``csrc/pairwise``)."""

from typing import Any

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.cpp_support import thread_count
from fastgen.kernels.pairwise.contract import NOWHERE, Kept, Keys

_LOG_SUM, _MEAN, _BEST, _SAMPLE = range(4)
# Below this many products a second thread costs more than it brings.
PARALLEL_FROM = 2**20


def _reduce(
    want: int,
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: float,
    values: Tensor | None = None,
    keys: Keys | None = None,
) -> tuple[Tensor, Tensor]:
    (rows, dims), columns = x.shape, y.shape[0]
    x, y = x.detach().contiguous(), y.detach().contiguous()
    bias = bias.detach().clamp(min=NOWHERE).to(x.dtype)
    features = 0 if values is None else values.shape[1]
    log_sum = torch.empty(rows, dtype=torch.float64)
    mean, column = x.new_empty((rows, features)), torch.empty(rows, dtype=torch.int64)
    kept = [] if values is None else [values.detach().contiguous()]
    if keys is not None:
        kept = [keys.seeds.contiguous(), keys.sample_ids.contiguous()]
    work = rows * columns * (dims + features)
    _C.reduce_pairs(
        float64=x.dtype == torch.float64,
        want=want,
        rows=rows,
        columns=columns,
        dims=dims,
        x=x.data_ptr(),
        y=y.data_ptr(),
        bias=bias.data_ptr(),
        scale=scale,
        values=0 if values is None else kept[0].data_ptr(),
        features=features,
        seeds=0 if keys is None else kept[0].data_ptr(),
        seed_per_row=keys is not None and keys.seeds.numel() > 1,
        sample_ids=0 if keys is None else kept[1].data_ptr(),
        draw=0 if keys is None else keys.draw,
        stream=0 if keys is None else int(keys.stream),
        log_sum=log_sum.data_ptr(),
        mean=mean.data_ptr(),
        column=column.data_ptr(),
        threads=thread_count(work, PARALLEL_FROM),
    )
    return log_sum, mean if want == _MEAN else column


def log_sum(x: Tensor, y: Tensor, bias: Tensor, scale: float) -> Tensor:
    """`pairwise.reference.log_sum`, in the arithmetic of x's dtype."""
    return _reduce(_LOG_SUM, x, y, bias, scale)[0]


def mean(x: Tensor, y: Tensor, bias: Tensor, scale: float, values: Tensor) -> tuple[Tensor, Tensor]:
    """`pairwise.reference.mean`."""
    return _reduce(_MEAN, x, y, bias, scale, values)


def best(x: Tensor, y: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`pairwise.reference.best`."""
    return _reduce(_BEST, x, y, bias, scale)


def sample(x: Tensor, y: Tensor, bias: Tensor, scale: float, keys: Keys) -> tuple[Tensor, Tensor]:
    """`pairwise.reference.sample`."""
    return _reduce(_SAMPLE, x, y, bias, scale, keys=keys)


def sweep(
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: float,
    weights: Tensor,
    before: Tensor,
    omega: float,
    kept: Kept | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`pairwise.reference.sweep`, in the arithmetic of x's dtype; sums below its range are lost."""
    (rows, dims), columns = x.shape, y.shape[0]
    weights, before = weights.detach().contiguous(), before.detach().contiguous()
    log_sum = torch.empty(rows, dtype=torch.float64)
    fitted, relaxed = (torch.empty(columns, dtype=torch.float64) for _ in range(2))
    common: dict[str, Any] = {
        "float64": x.dtype == torch.float64,
        "rows": rows,
        "columns": columns,
        "weights": weights.data_ptr(),
        "before": before.data_ptr(),
        "omega": omega,
        "log_sum": log_sum.data_ptr(),
        "fitted": fitted.data_ptr(),
        "relaxed": relaxed.data_ptr(),
    }
    bias = bias.detach()
    found = None if kept is None else kept.factors(scale, bias)
    if found is not None:
        made, factors, known = found
        factors = factors.to(x.dtype)
        _C.sweep_kept(
            **common,
            terms=made.data_ptr(),
            factors=factors.data_ptr(),
            known=known.data_ptr(),
            threads=thread_count(rows * columns, PARALLEL_FROM),
        )
        return log_sum, fitted, relaxed
    x, y = x.detach().contiguous(), y.detach().contiguous()
    own = bias.clamp(min=NOWHERE).to(x.dtype)
    terms = None if kept is None else kept.room(_C.kept_size(rows, columns), x)
    _C.sweep_pairs(
        **common,
        dims=dims,
        x=x.data_ptr(),
        y=y.data_ptr(),
        bias=own.data_ptr(),
        scale=scale,
        terms=0 if terms is None else terms.data_ptr(),
        threads=thread_count(rows * columns * dims, PARALLEL_FROM),
    )
    if kept is not None and terms is not None:
        kept.keep(scale, bias, log_sum)
    return log_sum, fitted, relaxed
