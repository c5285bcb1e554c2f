"""The pairwise reductions in C++ on CPU tensors (``csrc/pairwise``)."""

from typing import Any

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.cpp_support import address, readable, thread_count
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
    x, y = readable(x.detach()), readable(y.detach())
    bias = bias.detach().clamp(min=NOWHERE).to(x.dtype)
    features = 0 if values is None else values.shape[1]
    log_sum = torch.empty(rows, dtype=torch.float64, device="cpu")
    mean, column = x.new_empty((rows, features)), torch.empty(rows, dtype=torch.int64, device="cpu")
    kept = [] if values is None else [readable(values.detach())]
    if keys is not None:
        kept = [readable(keys.seeds), readable(keys.sample_ids)]
    work = rows * columns * (dims + features)
    _C.reduce_pairs(
        float64=x.dtype == torch.float64,
        want=want,
        rows=rows,
        columns=columns,
        dims=dims,
        x=address(x),
        y=address(y),
        bias=address(bias),
        scale=scale,
        values=0 if values is None else address(kept[0]),
        features=features,
        seeds=0 if keys is None else address(kept[0]),
        seed_per_row=keys is not None and keys.seeds.numel() > 1,
        sample_ids=0 if keys is None else address(kept[1]),
        draw=0 if keys is None else keys.draw,
        stream=0 if keys is None else int(keys.stream),
        log_sum=address(log_sum),
        mean=address(mean),
        column=address(column),
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
    weights, before = readable(weights.detach()), readable(before.detach())
    log_sum = torch.empty(rows, dtype=torch.float64, device="cpu")
    fitted, relaxed = (torch.empty(columns, dtype=torch.float64, device="cpu") for _ in range(2))
    common: dict[str, Any] = {
        "float64": x.dtype == torch.float64,
        "rows": rows,
        "columns": columns,
        "weights": address(weights),
        "before": address(before),
        "omega": omega,
        "log_sum": address(log_sum),
        "fitted": address(fitted),
        "relaxed": address(relaxed),
    }
    bias = bias.detach()
    found = None if kept is None else kept.factors(scale, bias)
    if found is not None:
        made, factors, known = found
        factors = factors.to(x.dtype)
        _C.sweep_kept(
            **common,
            terms=address(made),
            factors=address(factors),
            known=address(known),
            threads=thread_count(rows * columns, PARALLEL_FROM),
        )
        return log_sum, fitted, relaxed
    x, y = readable(x.detach()), readable(y.detach())
    own = bias.clamp(min=NOWHERE).to(x.dtype)
    terms = None if kept is None else kept.room(_C.kept_size(rows, columns), x)
    _C.sweep_pairs(
        **common,
        dims=dims,
        x=address(x),
        y=address(y),
        bias=address(own),
        scale=scale,
        terms=0 if terms is None else address(terms),
        threads=thread_count(rows * columns * dims, PARALLEL_FROM),
    )
    if kept is not None and terms is not None:
        kept.keep(scale, bias, log_sum)
    return log_sum, fitted, relaxed
