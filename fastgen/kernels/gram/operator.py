"""`gram` as a torch operator: `torch.compile(fullgraph=True)`, fake tensors, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.common.typed import typed
from fastgen.kernels import dispatch
from fastgen.kernels.derivatives import register
from fastgen.kernels.gram.contract import check_gram, matrices_like
from fastgen.kernels.gram.reference import vectors

_LIBRARY = torch.library.Library("fastgen", "FRAGMENT")
_LIBRARY.define("gram(Tensor[] inputs) -> Tensor[]")


@typed
def gram(inputs: list[Tensor]) -> Tensor:
    """Inner products of each sample's tensors with each other and with ones, in one pass.

    G[b, i, j] = sum_e x_i[b, e] x_j[b, e] with x_N = 1; see `fastgen.kernels.gram.reference`.
    Differentiable, in reverse and in forward mode.

    Args:
        inputs: N = 1 to 8 tensors [B, ...] of one shape and device; float32, float64, bfloat16 or
            float16.

    Returns:
        float64 [B, N + 1, N + 1].

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> fastgen.kernels.gram([a, b])[0].tolist()
        [[5.0, 11.0, 3.0], [11.0, 25.0, 7.0], [3.0, 7.0, 2.0]]
    """
    if not inputs:  # no tensor says which device the operator is for
        check_gram(inputs)
    (found,) = torch.ops.fastgen.gram(inputs)
    result: Tensor = found
    return result


def _gram(inputs: list[Tensor]) -> list[Tensor]:
    check_gram(inputs)
    return [dispatch.find("gram", inputs[0].device)(inputs)]


def _gram_fake(inputs: list[Tensor]) -> list[Tensor]:
    check_gram(inputs)
    return [matrices_like(inputs)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*inputs[0])


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    """Of x_i: sum_j (g_ij + g_ji) x_j, with x_N = 1."""
    tensors = list(ctx.saved_tensors)
    (g,) = gradients
    if g is None:
        return ([None] * len(tensors),)
    found = (g + g.mT) @ vectors(tensors)
    parts = found[:, :-1].unbind(1)
    return ([y.reshape(x.shape).to(x.dtype) for x, y in zip(tensors, parts, strict=True)],)


def _jvp(arguments: tuple[Any, ...], tangents: tuple[Any, ...]) -> list[Tensor]:
    """dG_ij = <dx_i, x_j> + <x_i, dx_j>, where x_N = 1 does not move."""
    inputs = arguments[0]
    changes = [
        torch.zeros_like(x) if d is None else d for x, d in zip(inputs, tangents[0], strict=True)
    ]
    half = vectors(changes, last=0.0) @ vectors(inputs).mT
    return [half + half.mT]


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("gram", _gram, _key)
torch.library.register_fake("fastgen::gram", _gram_fake, lib=_LIBRARY)
register(_LIBRARY, "gram", ("inputs",), _setup, _backward, _jvp)
