"""Derivatives and batching rules of the torch operators, for every way torch has to ask.

`torch.library.register_autograd` knows the reverse mode alone: tangents of the forward mode vanish
in it, and `torch.func` refuses it. `register` gives an operator both modes at every level of
`torch.func`, and a rule for both kinds of vmap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.utils import _pytree as pytree

from fastgen.common.checks import why_not_dense
from fastgen.common.memory import refusal
from fastgen.common.transforms import tangent_of

Setup = Callable[[Any, tuple[Any, ...], Any], None]
Backward = Callable[[Any, list[Tensor | None]], tuple[Any, ...]]
Forward = Callable[[tuple[Any, ...], tuple[Any, ...]], list[Tensor]]


@dataclass(frozen=True)
class _Call:
    """One call: the keys it is dispatched by, and how its arguments are nested.

    sizes: leaves of each argument.
    """

    keys: Any
    spec: Any
    sizes: tuple[int, ...]

    def arguments(self, flat: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = pytree.tree_unflatten(list(flat), self.spec)
        return found


def register(
    library: torch.library.Library,
    name: str,
    differentiable: tuple[str, ...],
    setup: Setup,
    backward: Backward,
    jvp: Forward,
) -> None:
    """Give an operator of ``fastgen`` that returns a list of tensors its derivatives and vmap.

    Args:
        library: where it is defined.
        name: the operator's.
        differentiable: names of the arguments that have derivatives; for others they are refused.
        setup, backward: as in `torch.library.register_autograd`; ``ctx.needed`` says in the
            arguments' structure which gradients are wanted.
        jvp: (arguments, their tangents or None in the same structure) to the tangents of all
            outputs. It is called with one tangent at least.
    """
    operator = getattr(torch.ops.fastgen, name).default
    names = [argument.name for argument in operator._schema.arguments]

    def below(keys: Any, arguments: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)

    class Function(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, call: _Call, *flat: Any) -> tuple[Tensor, ...]:
            arguments = call.arguments(flat)
            # Outer levels of torch.func take their derivatives of what runs in here.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                result = below(call.keys, arguments)
            ctx.call = call
            if forward_ad._current_level >= 0:  # the way back does not need the inputs
                ctx.flat = flat
            setup(ctx, arguments, result)
            return tuple(result)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
            ctx.needed = ctx.call.arguments(ctx.needs_input_grad[1:])
            found = backward(ctx, list(gradients))
            flat: list[Tensor | None] = []
            for gradient, size in zip(found, ctx.call.sizes, strict=True):
                flat += gradient if isinstance(gradient, list) else [gradient] * size
            return None, *flat

        @staticmethod
        def jvp(ctx: Any, _: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
            primals = [x.detach() if isinstance(x, Tensor) else x for x in ctx.flat]
            call = ctx.call
            with forward_ad._set_fwd_grad_enabled(True):  # for outer levels here too
                return tuple(jvp(call.arguments(primals), call.arguments(tangents)))

    def kernel(keys: Any, *arguments: Any) -> Any:
        reverse = torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)
        if not reverse and forward_ad._current_level < 0:
            return below(keys, arguments)
        for own, value in zip(names, arguments, strict=False):  # defaults are left out
            if own not in differentiable and differentiated(value):
                raise ValueError(
                    f"{own}: fastgen::{name} has derivatives in {', '.join(differentiable)} "
                    f"alone; detach {own}, or write the combination in torch operations"
                )
        flat, spec = pytree.tree_flatten(arguments)
        call = _Call(keys, spec, tuple(len(pytree.tree_leaves(a)) for a in arguments))
        with enable_single_level_autograd_function():
            apply: Any = Function.apply  # type: ignore[attr-defined]
            return list(apply(call, *flat))

    implement: Any = library.impl
    implement(name, kernel, "Autograd", with_keyset=True)
    register_batching(library, name)


def register_batching(library: torch.library.Library, name: str) -> None:
    """`torch.vmap` of an operator without one of its own: a call for each member of the batch.

    That is right for everything, noise included, which is a function of its keys alone.
    """
    operator = getattr(torch.ops.fastgen, name).default

    def rule(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        flat, spec = pytree.tree_flatten(arguments)
        places = pytree.tree_leaves(dims)
        members = []
        for n in range(info.batch_size):
            chosen = [x if d is None else x.select(d, n) for x, d in zip(flat, places, strict=True)]
            members.append(operator(*pytree.tree_unflatten(chosen, spec)))
        stacked = _stacked(name, members)
        return stacked, pytree.tree_map(lambda _: 0, stacked)

    def legacy(*arguments: Any) -> Any:
        """The same for the vmap behind `is_grads_batched` and `jacobian(vectorize=True)`."""
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        flat, spec = pytree.tree_flatten(arguments)
        # An axis is put in front of tensors outside the batch too, of size 1.
        wide = [
            torch._remove_batch_dim(x, level, 1, 0) if isinstance(x, Tensor) else x for x in flat
        ]
        size = max(len(x) for x in wide if isinstance(x, Tensor))
        members = []
        for n in range(size):
            chosen = [x[n if len(x) > 1 else 0] if isinstance(x, Tensor) else x for x in wide]
            members.append(operator(*pytree.tree_unflatten(chosen, spec)))
        stacked = _stacked(name, members)
        return pytree.tree_map(lambda x: torch._add_batch_dim(x, 0, level), stacked)

    torch.library.register_vmap(f"fastgen::{name}", rule, lib=library)
    implement: Any = library.impl
    implement(name, legacy, "Batched")
    register_refusals(library, name)


# Tensors that do not lie in memory as arrays of numbers come by these keys to an operator.
_WITHOUT_MEMORY = [
    "AutogradNestedTensor",
    *(f"{kind}{place}" for kind in ("NestedTensor", "Sparse", "SparseCsr", "Quantized")
      for place in ("CPU", "CUDA")),
    "MkldnnCPU",
]  # fmt: skip


def register_refusals(library: torch.library.Library, name: str) -> None:
    """Make an operator refuse nested, sparse and quantized tensors by name and with a remedy."""
    names = [a.name for a in getattr(torch.ops.fastgen, name).default._schema.arguments]

    def refuse(*arguments: Any) -> Any:
        for argument, value in zip(names, arguments, strict=False):
            for x in pytree.tree_leaves(value):
                reason = why_not_dense(x) if isinstance(x, Tensor) else None
                if reason is not None:
                    raise refusal(x, reason, argument)
        raise ValueError(f"fastgen::{name}: expected dense tensors")

    implement: Any = library.impl
    for key in _WITHOUT_MEMORY:
        implement(name, refuse, key)


def _stacked(name: str, members: list[Any]) -> Any:
    if not members:
        raise ValueError(f"fastgen::{name} under torch.vmap: expected a batch of one or more")
    if isinstance(members[0], Tensor):
        return torch.stack(members)
    return [torch.stack(parts) for parts in zip(*members, strict=True)]


def differentiated(value: Any) -> bool:
    """Whether derivatives of a tensor, or of any in a list, are asked for here."""
    return any(
        (torch.is_grad_enabled() and x.requires_grad)
        or (x.is_floating_point() and tangent_of(x) is not None)
        for x in (value if isinstance(value, list) else [value])
        if isinstance(x, Tensor)
    )
