"""`gram` in Triton on CUDA and ROCm tensors.

With ``TRITON_INTERPRET=1`` set before this is imported it runs on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.memory import readable
from fastgen.kernels.gram.contract import matrices_like
from fastgen.kernels.gram.triton_kernels import gram_kernel
from fastgen.kernels.triton_support.launch import launch

# Elements of a row that a program adds up.
BLOCK = 1024


def gram(inputs: list[Tensor]) -> Tensor:
    """`gram.reference.gram`: a matrix for each part of a row, and the sum of these."""
    inputs = [readable(x) for x in inputs]
    found = matrices_like(inputs)
    if inputs[0].numel() == 0:
        return found.zero_()
    rows, size = found.shape[:2]
    elements = inputs[0].numel() // rows
    parts = -(-elements // BLOCK)
    shape = rows, parts, size, size
    partials = torch.empty(shape, dtype=torch.float64, device=found.device)
    tensors = tuple(inputs), partials
    launch(gram_kernel, (rows * parts, 1), tensors, (elements, parts), (BLOCK,))
    return partials.sum(1)
