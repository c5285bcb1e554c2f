"""What the implementations of the virtual Brownian tree share: its size, streams, and checks."""

import torch
from torch import Tensor

from fastgen.common.checks import check_tensor
from fastgen.kernels.contract import Noise, check_elements, check_noise, rows_of_ids

# Levels of bisection, the first of the tree's streams, and the number of trees.
BROWNIAN_DEPTH = 24
BROWNIAN_STREAM, BROWNIAN_TREES = 128, 128
# Added to a node's draw id for the second normal of its space-time Levy area.
AREA_NODES = 2**31


def check_brownian(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> None:
    """Raise a ValueError that names the argument where a `brownian` call is malformed."""
    check_elements(elements)
    rows, device = rows_of_ids(sample_ids), sample_ids.device
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    check_noise(Noise(seeds, sample_ids, nothing), rows, device)
    if not 0 <= tree < BROWNIAN_TREES:
        raise ValueError(f"tree={tree}: expected 0 <= tree < {BROWNIAN_TREES}")
    if not 1 <= depth <= BROWNIAN_DEPTH:
        raise ValueError(f"depth={depth}: expected 1 <= depth <= {BROWNIAN_DEPTH}")
    check_tensor("times", times)
    if (
        times.dtype != torch.float64
        or times.ndim not in (1, 2)
        or (times.ndim == 2 and times.shape[1] != rows)
    ):
        raise ValueError(
            f"times: expected float64 [T] or [T, {rows}], got {times.dtype} {list(times.shape)}"
        )
    if times.device != device:
        raise ValueError(f"times: expected device {device}, got {times.device}")
