"""`normals` as a torch operator: `torch.compile(fullgraph=True)`, fake tensors."""

import torch
from torch import Tensor

from fastgen.kernels import dispatch
from fastgen.kernels.contract import Noise, check_elements, check_noise, rows_of_ids
from fastgen.kernels.derivatives import register_batching

_LIBRARY = torch.library.Library("fastgen", "FRAGMENT")
_LIBRARY.define(
    "normals(int elements, Tensor seeds, Tensor sample_ids, Tensor draw, int stream) -> Tensor"
)


def normals(elements: int, seeds: Tensor, sample_ids: Tensor, draw: Tensor, stream: int) -> Tensor:
    """Standard normals [rows, elements] of the noise contract, float32; see `normals.reference`.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    result: Tensor = torch.ops.fastgen.normals(elements, seeds, sample_ids, draw, stream)
    return result


def _check(
    elements: int, seeds: Tensor, sample_ids: Tensor, draw: Tensor, stream: int
) -> tuple[int, int]:
    """The shape of the result, or a ValueError: a saved graph holds the operator's calls alone."""
    check_elements(elements)
    rows = rows_of_ids(sample_ids)
    check_noise(Noise(seeds, sample_ids, draw, stream), rows, sample_ids.device, 1)
    return rows, elements


def _normals(elements: int, seeds: Tensor, sample_ids: Tensor, draw: Tensor, stream: int) -> Tensor:
    _check(elements, seeds, sample_ids, draw, stream)
    kernel = dispatch.find("normals", sample_ids.device)
    result: Tensor = kernel(elements, seeds, sample_ids, draw, stream)
    return result


def _normals_fake(
    elements: int, seeds: Tensor, sample_ids: Tensor, draw: Tensor, stream: int
) -> Tensor:
    shape = _check(elements, seeds, sample_ids, draw, stream)
    return torch.empty(shape, dtype=torch.float32, device=sample_ids.device)


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("normals", _normals, _key)
torch.library.register_fake("fastgen::normals", _normals_fake, lib=_LIBRARY)
register_batching(_LIBRARY, "normals")
