"""`gram` in C++ on CPU tensors (``csrc/gram``)."""

from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.kernels.cpp_support import address, readable, thread_count
from fastgen.kernels.gram.contract import matrices_like


def gram(inputs: list[Tensor]) -> Tensor:
    """`gram.reference.gram`; what a sum is does not depend on the number of threads."""
    inputs = [readable(x) for x in inputs]
    found = matrices_like(inputs)
    rows, size = found.shape[0], inputs[0].numel()
    _C.gram(
        rows=rows,
        elements=size // max(rows, 1),
        inputs=[(address(x), DTYPE_CODES[x.dtype]) for x in inputs],
        output=address(found),
        threads=thread_count(size),
    )
    return found
