"""Inner products of each sample's tensors with each other and with ones."""

import torch
from torch import Tensor


def gram(inputs: list[Tensor]) -> Tensor:
    """G[b, i, j] = sum_e x_i[b, e] x_j[b, e] with x_N = 1: the last row and column hold sums.

    All norms, angles, means and deviations of linear combinations of the inputs follow from it:
    |sum_i w_i x_i|^2 = w' G w. Products of float32 numbers are exact in float64, in which all is
    added up, so that also what is left of x_0 - x_1 keeps its digits. The order of additions is the
    implementation's; it does not depend on the batch.

    Args:
        inputs: N tensors [B, ...] of one shape; float32, float64, bfloat16 or float16.

    Returns:
        float64 [B, N + 1, N + 1].
    """
    found = vectors(inputs)
    return found @ found.mT


def vectors(inputs: list[Tensor], last: float = 1.0) -> Tensor:
    """The inputs as float64 [B, N + 1, elements], after them one that is constant."""
    rows = inputs[0].shape[0]
    flat = [x.reshape(rows, x[:1].numel()).double() for x in inputs]
    return torch.stack([*flat, torch.full_like(flat[0], last)], 1)
