"""A network's keyword arguments: which belong to the samples, and how two calls become one.

One rule for guidance, error-controlled solvers and served batches. An argument's tensors, also
inside of dictionaries, lists and tuples, are

* shared by all samples if its name is in ``Model(shared=...)``,
* a row for each sample if its name is in ``Model(per_sample=...)``,
* otherwise undeclared. One whose first axis is not B is taken as it is by every call. One whose
  first axis is B may be either: a table of B rows looks like B labels. Then the network is called
  in a way that is right for both: with the whole batch, and once for each branch of guidance.

So a declaration saves work and never changes a result.
"""

from __future__ import annotations

import enum
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# What cannot hold numbers of samples.
_PLAIN = (str, bytes, numbers.Number, type(None), torch.dtype, torch.device, enum.Enum)


@dataclass(frozen=True)
class Declared:
    """Names of arguments that all samples share, and of those that have a row for each sample."""

    shared: frozenset[str] = frozenset()
    per_sample: frozenset[str] = frozenset()

    @classmethod
    def of(cls, shared: Collection[str], per_sample: Collection[str]) -> Declared:
        """From what a user gave.

        Raises:
            TypeError: unless both are collections of names.
            ValueError: for a name in both.
        """
        for name, value in (("shared", shared), ("per_sample", per_sample)):
            if isinstance(value, (str, Tensor)) or not isinstance(value, Collection):
                raise TypeError(f"{name}={value!r}: expected names, such as {name}=('labels',)")
            if not all(isinstance(key, str) for key in value):
                raise TypeError(f"{name}={value!r}: expected names of the network's arguments")
        both = set(shared) & set(per_sample)
        if both:
            raise ValueError(f"shared, per_sample: {sorted(both)} cannot be both")
        return cls(frozenset(shared), frozenset(per_sample))

    def has_rows(self, name: str, leaf: Any, batch: int) -> bool:
        """Whether a part of an argument is taken for one row per sample where rows are named."""
        return (
            name not in self.shared
            and isinstance(leaf, Tensor)
            and leaf.ndim > 0
            and leaf.shape[0] == batch
        )

    def undeclared(self, kwargs: Mapping[str, Any], batch: int) -> bool:
        """Whether a value of an argument without a declaration may belong to the samples."""
        known = self.shared | self.per_sample
        return any(_may_have_rows(v, batch) for name, v in kwargs.items() if name not in known)

    def check(self, kwargs: Mapping[str, Any], batch: int) -> None:
        """Raise a ValueError for an argument said to be per sample that has other rows."""
        for name in self.per_sample & set(kwargs):
            for leaf in pytree.tree_leaves(kwargs[name]):
                known = isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] in (1, batch)
                if not known and leaf is not None:
                    found = list(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                    raise ValueError(
                        f"{name}: Model(per_sample=...) says that it has a row for each of "
                        f"{batch} samples; expected tensors [{batch}, ...], got {found}"
                    )

    def of_rows(self, kwargs: Mapping[str, Any], rows: Tensor, batch: int) -> dict[str, Any]:
        """The arguments for some samples [A] of the batch; what is not per sample as it is."""

        def chosen(leaf: Tensor) -> Tensor:
            return leaf[rows.to(leaf.device)] if leaf.ndim and leaf.shape[0] == batch else leaf

        return {
            name: pytree.tree_map_only(Tensor, chosen, value) if name in self.per_sample else value
            for name, value in kwargs.items()
        }

    def taken(self, kwargs: Mapping[str, Any], rows: Tensor, batch: int) -> dict[str, Any]:
        """The arguments for rows [A] of the batch, where what may be per sample is so."""
        found = {}
        for name, value in kwargs.items():
            leaves, structure = pytree.tree_flatten(value)
            chosen = [
                leaf[rows.to(leaf.device)] if self.has_rows(name, leaf, batch) else leaf
                for leaf in leaves
            ]
            found[name] = pytree.tree_unflatten(chosen, structure)
        return found

    def joined(self, calls: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any] | None:
        """The arguments of one call on the rows of several, or None where one cannot have them.

        Args:
            calls: arguments of the first B rows, of the next, and so on.
            batch: B.
        """
        first = calls[0]
        if any(call.keys() != first.keys() for call in calls):
            return None
        found = {}
        for name, value in first.items():
            if name in self.shared:
                if any(call[name] is not value for call in calls):
                    return None
                found[name] = value
                continue
            flat = [pytree.tree_flatten(call[name]) for call in calls]
            parts, structure = [leaves for leaves, _ in flat], flat[0][1]
            declared = name in self.per_sample
            if any(other != structure for _, other in flat) or (
                _is_batch(value, batch) and not declared
            ):
                return None
            leaves = [self._joined(name, same, batch) for same in zip(*parts, strict=True)]
            if any(leaf is _APART for leaf in leaves):
                return None
            found[name] = pytree.tree_unflatten(leaves, structure)
        return found

    def _joined(self, name: str, same: tuple[Any, ...], batch: int) -> Any:
        """One part of an argument for all calls, from that of each."""
        c, *others = same
        one = all(u is c for u in others)
        if all(isinstance(u, Tensor) for u in same):
            if one and name not in self.per_sample:
                return _APART if _may_have_rows(c, batch) else c
            rows = all(u.ndim and u.shape[0] in (1, batch) for u in same)
            if not rows or any(u.shape[1:] != c.shape[1:] or u.device != c.device for u in others):
                return _APART
            return torch.cat([u.expand(batch, *u.shape[1:]) for u in same])
        if isinstance(c, _PLAIN):
            return c if all(type(u) is type(c) and u == c for u in others) else _APART
        return c if one and not _may_have_rows(c, batch) else _APART


# What stands for a part that one call cannot have.
_APART = object()


def _is_batch(value: Any, batch: int) -> bool:
    """Whether a list or tuple may be one of B things, of which each belongs to a sample."""
    return isinstance(value, (list, tuple)) and len(value) == batch


def _may_have_rows(value: Any, batch: int) -> bool:
    """Whether numbers of the samples may be in it."""
    if isinstance(value, Tensor):
        return value.ndim > 0 and value.shape[0] == batch
    if isinstance(value, _PLAIN):
        return False
    if isinstance(value, Mapping):
        return any(_may_have_rows(v, batch) for v in value.values())
    if isinstance(value, (list, tuple)):
        return _is_batch(value, batch) or any(_may_have_rows(v, batch) for v in value)
    return not isinstance(value, (Callable, range, slice))  # type: ignore[arg-type]
