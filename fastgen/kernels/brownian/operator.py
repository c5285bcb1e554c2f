"""`brownian` as a torch operator: `torch.compile(fullgraph=True)`, fake tensors."""

import torch
from torch import Tensor

from fastgen.common.transforms import traced
from fastgen.kernels import dispatch
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH, check_brownian
from fastgen.kernels.derivatives import register_batching

_LIBRARY = torch.library.Library("fastgen", "FRAGMENT")
_LIBRARY.define(
    "brownian(int elements, Tensor seeds, Tensor sample_ids, int tree, Tensor times, "
    "int depth=24) -> Tensor"
)


def brownian(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> Tensor:
    """Brownian motions at given times, [T, rows, elements], float64.

    See `fastgen.kernels.brownian.reference` for the exact contract. Times outside [0, 1] give
    NaN: to find them on a device would need a synchronisation.

    Args:
        elements: number of elements per sample.
        seeds: int64 [1] or [rows].
        sample_ids: int64 [rows].
        tree: which of the sample's independent motions, 0 <= tree < 128.
        times: float64 [T], or [T, rows].
        depth: levels of bisection, 1 <= depth <= 24.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if (torch.is_grad_enabled() and times.requires_grad) or traced(times):
        raise ValueError("times: a Brownian path has no derivative in time; detach them")
    result: Tensor = torch.ops.fastgen.brownian(elements, seeds, sample_ids, tree, times, depth)
    return result


def _brownian(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> Tensor:
    check_brownian(elements, seeds, sample_ids, tree, times, depth)
    kernel = dispatch.find("brownian", sample_ids.device)
    result: Tensor = kernel(elements, seeds, sample_ids, tree, times, depth)
    return result


def _brownian_fake(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> Tensor:
    check_brownian(elements, seeds, sample_ids, tree, times, depth)
    shape = times.shape[0], sample_ids.shape[0], elements
    return torch.empty(shape, dtype=torch.float64, device=sample_ids.device)


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("brownian", _brownian, _key)
torch.library.register_fake("fastgen::brownian", _brownian_fake, lib=_LIBRARY)
register_batching(_LIBRARY, "brownian")
