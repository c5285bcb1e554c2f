"""Tensors of every kind that has no memory of its own, or other numbers than lie in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree


class Wrapper(Tensor):
    """A subclass that holds another tensor and has no memory."""

    inner: Tensor

    @staticmethod
    def __new__(cls, x: Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(
            cls, x.shape, dtype=x.dtype, device=x.device, strides=x.stride()
        )

    def __init__(self, x: Tensor) -> None:
        self.inner = x

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def opened(value):
            return value.inner if isinstance(value, Wrapper) else value

        args, kwargs = pytree.tree_map(opened, (args, kwargs or {}))
        return pytree.tree_map(
            lambda v: Wrapper(v) if isinstance(v, Tensor) else v, function(*args, **kwargs)
        )


def _masked(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.masked.masked_tensor(x, x > 0)


def _fake(x: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


def _freed(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def _jagged(x: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(x.unbind()), layout=torch.jagged)


# Without numbers in memory: to be refused. Each takes float [rows, n].
WITHOUT_MEMORY: dict[str, Callable[[Tensor], Tensor]] = {
    "wrapper": Wrapper,
    "masked": _masked,
    "functional": lambda x: torch._to_functional_tensor(x.clone()),
    "fake": _fake,
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "jagged": _jagged,
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "freed": _freed,
}

# With other numbers than lie there: to be read as what they say.
RESOLVED: dict[str, Callable[[Tensor], Tensor]] = {
    "negative": lambda x: torch._neg_view(-x),
    "imaginary": lambda x: torch.complex(x, -x).conj().imag,
    "one imaginary": lambda x: torch.complex(x, -x).conj()[:, :1].imag.expand_as(x),
    "zeros": lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
}
