"""What all callers of the C++ kernels share: tensors as C++ sees them, addresses, threads, memory.

To import this is to load the extension: an ImportError says that it is not built.
"""

import math
from collections.abc import Callable

import torch  # first: the extension must find torch's OpenMP runtime loaded, or there are two
from torch import Tensor

import fastgen._C as _C
from fastgen.common import memory
from fastgen.common.forks import keep_children_alone

# torch's table of C functions (2.10 and later), which makes looking at a tensor from C++ cheap;
# None: by its Python attributes.
EXCHANGE: object = getattr(Tensor, "__dlpack_c_exchange_api__", None)


def look_by(exchange: object) -> None:
    """How C++ looks at tensors from now on: by such a table, or with None by their attributes."""
    _C.use_tensor_type(Tensor, exchange, memory.address_on_cpu, memory.readable)


look_by(EXCHANGE)

# The only way from a tensor to an address: `memory.address_on_cpu`, in C++ where there is no error.
address: Callable[[Tensor], int] = _C.address
# What has an address, of the same numbers: `memory.readable`, and mostly the tensor itself.
readable: Callable[..., Tensor] = _C.readable

keep_children_alone()

# Below this many elements a second thread costs more than it brings.
PARALLEL_FROM = 65536


def thread_count(work: int, parallel_from: int = PARALLEL_FROM) -> int:
    """torch's number of threads for so many elements, or other units of work; 1 for fewer."""
    return torch.get_num_threads() if work >= parallel_from else 1


def pooled(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised; a large tensor is on memory that an earlier one has left."""
    whole = dtype in (torch.float32, torch.float64)
    if whole and math.prod(shape) * dtype.itemsize >= _C.POOLED_FROM:
        return _C.pooled(shape, dtype == torch.float64)
    return torch.empty(shape, dtype=dtype, device="cpu")


def key_addresses(seeds: Tensor, sample_ids: Tensor, stream: int) -> tuple[int, int, int, int]:
    """The keys of noise as C++ takes them; the contiguous tensors must outlive their use."""
    return address(seeds), seeds.numel(), address(sample_ids), int(stream)
