"""From what the user gives (any state, any times, any function) to rows of numbers and back."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgen.common.checks import as_numbers, check_dense, check_real_device
from fastgen.common.compiled_kernels import Kernels
from fastgen.common.layouts import in_channels_last
from fastgen.common.memory import OwnMemory, why_no_memory
from fastgen.common.padding import Padding
from fastgen.common.unwritten import unwritten, unwritten_calls

STEPS = ("per_sample", "joint")


class StateLayout:
    """How a state of tensors is laid out in rows [R, N].

    With per-sample steps row r holds sample r of every tensor, with joint steps the one row holds
    all. Images that lie in memory with their channels last lie so in rows too, and f is given them
    so. segment_ends: where each tensor's part of a row ends. direct: the state is one tensor and
    rows are its samples as they stand, so that f may work on them as on its state. live: int64
    [R, G], how many elements of each part are not padding; None where there is none.

    Raises:
        TypeError: for a state without tensors, or with others than float32 or float64.
        ValueError: where the tensors' batch axes differ.
    """

    def __init__(self, y0: Any, joint: bool, live: Tensor | None = None) -> None:
        leaves, self.spec = pytree.tree_flatten(y0)
        self.joint, self.single, self.live = joint, isinstance(y0, Tensor), live
        if not leaves:
            raise TypeError("y0: expected at least one tensor")
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise TypeError(f"y0: expected tensors, got {type(leaf).__name__}")
            check_dense("y0", leaf)
            check_real_device("y0", leaf)
            if leaf.dtype not in (torch.float32, torch.float64):
                remedy = "torch.view_as_real(y0)" if leaf.is_complex() else "y0.float()"
                raise TypeError(f"y0: expected float32 or float64, got {leaf.dtype}; use {remedy}")
            if leaf.dtype != leaves[0].dtype or leaf.device != leaves[0].device:
                raise TypeError("y0: its tensors differ in dtype or device; convert them first")
            if not joint and (leaf.ndim == 0 or leaf.shape[0] != leaves[0].shape[0]):
                raise ValueError(
                    f"y0: per-sample steps need one batch axis, the first, for all tensors, got "
                    f"{[tuple(x.shape) for x in leaves]}; use step='joint' for one step size"
                )
        self.shapes = [leaf.shape if joint else leaf.shape[1:] for leaf in leaves]
        # The axis of the channels, counted from the end, where they lie last.
        self._channels = [1 - x.ndim if in_channels_last(x) else None for x in leaves]
        self.direct = self.single and self._channels == [None]
        self.sizes = [shape.numel() for shape in self.shapes]
        ends = list(itertools.accumulate(self.sizes))
        self.segment_ends = torch.tensor(ends, dtype=torch.int64, device="cpu")
        self.leaves: list[Tensor] = leaves
        self.rows = 1 if joint else leaves[0].shape[0]
        self.dtype, self.device = leaves[0].dtype, leaves[0].device

    def flat(self, value: Any = None, lead: tuple[int, ...] | None = None) -> Tensor:
        """A state as [R, N]; with ``lead`` one with these axes before a sample's, [*lead, N]."""
        leaves = self.leaves if value is None else pytree.tree_leaves(value)
        lead = (self.rows,) if lead is None else lead
        parts = [
            (x if axis is None else x.movedim(axis, -1)).reshape((*lead, n))
            for x, axis, n in zip(leaves, self._channels, self.sizes, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def tree(self, rows: Tensor) -> Any:
        """[*lead, R, N] as the user's state, with the leading axes in front."""
        lead = rows.shape[:-2] if self.joint else rows.shape[:-1]
        flat = rows.squeeze(-2) if self.joint else rows
        if self.direct:
            return flat.reshape((*lead, *self.shapes[0]))
        parts = torch.split(flat, self.sizes, -1)
        leaves = []
        for x, axis, shape in zip(parts, self._channels, self.shapes, strict=True):
            if axis is None:
                leaves.append(x.reshape((*lead, *shape)))
            else:
                lying = (*shape[:axis], *shape[axis + 1 :], shape[axis])
                leaves.append(x.reshape((*lead, *lying)).movedim(-1, axis))
        return leaves[0] if self.single else pytree.tree_unflatten(leaves, self.spec)


class Field:
    """The vector field on rows.

    compact: whether f may be called with some of the samples. A function with a keyword argument
    ``rows`` is told which, as an int64 tensor. compiled: whether there may be `kernels`.
    """

    compiled = False

    def __init__(self, f: Callable[..., Any], state: StateLayout, compact: bool | None) -> None:
        if not callable(f):
            raise TypeError(f"f: expected a callable f(t, y), got {f!r}")
        self.f, self.state = f, state
        self.told = not state.joint and accepts_rows(f)
        self._own = OwnMemory()
        self.compact = (self.told if compact is None else compact) and not state.joint

    def call(self, t: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
        """f at times [A] and rows [A, N]: [A, N]."""
        state = self.state
        time = t[0] if state.joint else t
        value = unwritten("f", self._at(rows), time, state.tree(y))
        found: Tensor = self._own(self.checked(value, y))
        return found

    def _at(self, rows: Tensor | None) -> Callable[..., Any]:
        if not self.told:
            return self.f
        if rows is None:  # all of them
            rows = torch.arange(self.state.rows, device=self.state.device)
        return functools.partial(self.f, rows=rows)

    def bound(
        self, t: Tensor, y: Tensor, rows: Tensor | None
    ) -> tuple[Callable[..., Any], Tensor, Any]:
        """(f, time, state) such that f(time, state) evaluates on these buffers, again and again."""
        state = self.state
        time, tree = t[0] if state.joint else t, state.tree(y)
        f = unwritten_calls("f", self._at(rows), tree)
        if state.direct:
            return f, time, tree
        if state.single:
            return lambda time, tree: self.checked(f(time, tree), y), time, tree
        lead = (y.shape[0],)
        # A tuple of tensors is taken apart at once: pytree takes as long as a small network.
        expected = [(*lead, *shape) for shape in state.shapes]
        plain = state.spec == pytree.tree_structure((0,) * len(expected)) and not state.joint

        def flattened(time: Tensor, tree: Any) -> Tensor:
            found = f(time, tree)
            if (
                plain
                and type(found) is tuple
                and [getattr(x, "shape", 0) for x in found] == expected
            ):
                return state.flat(found, lead)
            if pytree.tree_structure(found) != state.spec:
                return self.checked(found, y)  # says what is wrong
            return state.flat(found, lead)

        return flattened, time, tree

    def kernels(self, bound: Callable[..., Any]) -> tuple[Kernels, Tensor] | None:
        """What C++ calls instead of an f of `bound` once it was called, and where it leaves f."""
        return None

    def checked(self, value: Any, y: Tensor) -> Tensor:
        """What f returned as [A, N], like y, or an error that says what it should have been."""
        state = self.state
        leaves, spec = pytree.tree_flatten(value)
        if spec != state.spec and not (state.single and isinstance(value, Tensor)):
            raise TypeError(f"f: expected the state's structure, {state.spec}, got {spec}")
        lead = () if state.joint else (y.shape[0],)
        for leaf, shape in zip(leaves, state.shapes, strict=True):
            if not isinstance(leaf, Tensor):
                raise TypeError(f"f: expected tensors, got {type(leaf).__name__}")
            check_dense("f", leaf)
            if leaf.shape != (*lead, *shape) or leaf.is_complex() or leaf.device != y.device:
                raise ValueError(
                    f"f: expected a real tensor of shape {(*lead, *shape)} on {y.device}, got "
                    f"{leaf.dtype} {tuple(leaf.shape)} on {leaf.device}"
                )
        return state.flat(value, (y.shape[0],)).to(y.dtype).contiguous()


def unpadded(
    f: Callable[..., Any], y0: Any, mask: Any, joint: bool
) -> tuple[Callable[..., Any], Any, StateLayout]:
    """f and y0 with zeros and no derivatives in the padding, and how y0 is laid out.

    f is told of ``rows`` as `Field` tells it.
    """
    told, padding = accepts_rows(f), Padding(mask, y0, joint)
    y0 = padding.clear(y0)

    def cleared(t: Tensor, y: Tensor, rows: Tensor | None = None) -> Any:
        y = padding.clear(y, rows)
        found = f(t, y, rows=rows) if told else f(t, y)
        return padding.clear(found, rows)

    return cleared, y0, StateLayout(y0, joint, padding.count)


def accepts_rows(f: Callable[..., Any]) -> bool:
    """Whether a function has a keyword argument ``rows``."""
    target = f.forward if isinstance(f, nn.Module) else f
    plain = getattr(target, "__func__", target)
    if type(plain) is FunctionType and not {"__wrapped__", "__signature__"} & vars(plain).keys():
        code = plain.__code__  # `signature` takes longer than a small network
        return "rows" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    try:
        return "rows" in inspect.signature(target).parameters
    except (TypeError, ValueError):  # builtins have no signature
        return False


def parameters_of(
    f: Callable[..., Any], given: Iterable[Tensor] | nn.Module | None
) -> tuple[Tensor, ...]:
    """The tensors that f's value depends on and whose gradients are wanted."""
    if isinstance(given, nn.Module):
        given = given.parameters()
    if given is None:
        owner = f
        while isinstance(owner, functools.partial):
            owner = owner.func
        owner = getattr(owner, "__self__", owner)
        given = owner.parameters() if isinstance(owner, nn.Module) else ()
    found = tuple(given)
    for p in found:
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters: expected tensors, got {type(p).__name__}")
    return tuple(p for p in found if p.requires_grad)


def times_of(t: Sequence[float] | Tensor, rows: int, joint: bool, device: torch.device) -> Tensor:
    """The times as float64 [T] or [R, T]; differentiable in t.

    Raises:
        ValueError: naming the sample whose times are empty, not finite or not in order.
    """
    times = as_numbers("t", t, device)
    if times.ndim not in (1, 2) or times.shape[-1] == 0:
        raise ValueError(f"t: expected [T] or [B, T] with T >= 1 times, got {tuple(times.shape)}")
    if times.ndim == 2 and (joint or times.shape[0] != rows):
        wanted = "[T] with step='joint'" if joint else f"[T] or [{rows}, T]"
        raise ValueError(f"t: expected {wanted}, got {tuple(times.shape)}")
    known = times.detach()
    if known.is_cpu and why_no_memory(known) is None:
        numbers = known.numpy(force=True)
        ahead = numbers[..., 1:] - numbers[..., :-1]
        if np.isfinite(numbers).all() and ((ahead >= 0).all() or (ahead <= 0).all()):
            return times
    steps = known.diff()
    ordered = (steps >= 0).all(-1) | (steps <= 0).all(-1)
    good = ordered & torch.isfinite(known).all(-1)
    if not bool(good.all()):
        where = "" if known.ndim == 1 else f" of sample {int((~good).nonzero()[0])}"
        worst = known if known.ndim == 1 else known[~good][0]
        raise ValueError(
            f"t: the times{where} must be finite and increase or decrease throughout, got "
            f"{worst.tolist()[:8]}"
        )
    return times


def tolerance(name: str, value: float | Tensor, state: StateLayout) -> Tensor:
    """A tolerance as float64 [R]."""
    if type(value) is float and 0 <= value < math.inf:
        return torch.full((), value, dtype=torch.float64, device=state.device).expand(state.rows)
    found = as_numbers(name, value, state.device).detach()
    if found.ndim > 1 or (found.ndim == 1 and found.shape[0] != state.rows):
        raise ValueError(
            f"{name}: expected a number or one for each of {state.rows} samples, got shape "
            f"{tuple(found.shape)}"
        )
    if not bool((found >= 0).all()) or not bool((found < math.inf).all()):
        raise ValueError(f"{name}={value!r}: expected 0 <= {name} < inf")
    return found.expand(state.rows)
