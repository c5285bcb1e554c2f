"""What a rule is: algebra on combinations of outputs, of which it knows the inner products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fastgen.common.display import displayed
from fastgen.common.kept import keeps
from fastgen.common.typed import shown

# A combination of the outputs: float64 [B, N], or [1, N] where it is that of every sample. Rules
# that say so (`Rule.of_arrays`) are given NumPy's arrays where nothing is to be differentiated and
# the outputs are on a CPU: of numbers this few torch takes three times as long.
Vector: TypeAlias = Any
# Times that a rule is given: one, or one of each sample, [B].
Time = float | Tensor


@displayed
class Space:
    """The combinations of N tensors [B, ...]: inner products from their Gram matrices.

    A vector w [B, N] stands for sum_i w_i x_i, so vectors are added and scaled as tensors are.

    Args:
        gram: float64 [B, N + 1, N + 1], see `fastgen.kernels.gram`.
        arrays: whether vectors are NumPy's arrays instead of tensors.

    ``xp`` has the functions on vectors, torch or numpy.
    """

    def __init__(self, gram: Tensor, arrays: bool = False) -> None:
        self.gram = gram
        self.count = gram.shape[-1] - 1
        self.xp: Any = np if arrays else torch
        self._matrix: Any = gram.numpy() if arrays else gram
        self._least: Any = np.maximum if arrays else torch.clamp_min
        self._basis = _arrays(self.count) if arrays else _basis(self.count, gram.device)
        self._places = {id(vector): i for i, vector in enumerate(self._basis)}

    def taken(self, value: Any) -> Any:
        """Numbers as they stand beside vectors: a tensor [B, 1], or an array."""
        return value.numpy() if self.xp is np and isinstance(value, Tensor) else value

    def tensor(self, vector: Vector) -> Tensor:
        """A vector as a tensor."""
        if self.xp is not np:
            return vector  # type: ignore[no-any-return]
        # The basis is read-only, of which torch warns.
        found: Tensor = torch.from_numpy(vector if vector.flags.writeable else vector.copy())
        return found

    def _facts(self) -> dict[str, object]:
        return {"samples": len(self.gram), "tensors": self.count}

    def basis(self) -> list[Vector]:
        """The vectors of the tensors themselves."""
        return list(self._basis)

    @cached_property
    def _squares(self) -> Any:
        """|x_i|^2, [B, N]."""
        return self._matrix.diagonal(0, 1, 2)[:, :-1]

    @cached_property
    def _centred(self) -> Any:
        """Inner products of the tensors without their means, [B, N + 1, N + 1]."""
        m = self._matrix
        return m - m[:, :, -1:] * m[:, -1:, :] / self._least(m[:, -1:, -1:], 1)

    def inner(self, a: Vector, b: Vector) -> Any:
        """The inner product in each sample, [B, 1]."""
        return self._product(self._matrix, a, b)

    def _product(self, matrix: Any, a: Vector, b: Vector) -> Any:
        i, j = self._places.get(id(a)), self._places.get(id(b))
        if i is not None and j is not None:  # of tensors themselves it is there
            return matrix[:, i, j, None]
        if i is not None or j is not None:
            row, other = (matrix[:, i], b) if i is not None else (matrix[:, j], a)
            return (row[:, :-1] * other).sum(1)[:, None]
        return (a[:, None] @ matrix[:, :-1, :-1] @ b[..., None])[..., 0]

    def square(self, a: Vector) -> Any:
        """|a|^2 in each sample, [B, 1]; never below 0, as rounding could make it."""
        return self._least(self.inner(a, a), 0)

    def norm(self, a: Vector) -> Any:
        """|a| in each sample, [B, 1]."""
        return self.xp.sqrt(self.square(a))

    def variance(self, a: Vector) -> Any:
        """The variance of a's elements in each sample, [B, 1]; 0 for one element.

        What is left of a difference of sums that agree to the last digits is no variance.
        """
        n = self._least(self._matrix[:, -1:, -1], 1)
        found = self._product(self._centred, a, a) / n
        rounding = 1e-14 * (a * a * self._squares).sum(1)[:, None] / n
        return self.xp.where(found > rounding, found, 0.0)

    def projection(self, a: Vector, b: Vector) -> Vector:
        """What of a is along b; nothing where b is zero."""
        return b * self.ratio(self.inner(a, b), self.square(b))

    def ratio(self, a: Any, b: Any) -> Any:
        """a / b, and 0 where b is 0."""
        return self.xp.where(b == 0, 0.0, a / self.xp.where(b == 0, 1.0, b))


@keeps(64)
def _basis(count: int, device: torch.device) -> tuple[Tensor, ...]:
    eye = torch.eye(count, dtype=torch.float64, device=device)
    return eye[:, None].unbind()


@cache
def _arrays(count: int) -> tuple[Any, ...]:
    found = tuple(np.eye(count)[:, None])
    for vector in found:
        vector.flags.writeable = False
    return found


@displayed
class Branches(NamedTuple):
    """What a rule combines.

    space: where inner products are. outputs: the network's own output, then that of each branch.
    against: for each branch the number of the output that it is compared with. scales: the scale of
    each branch, [B, 1] or [1, 1]. t: the time of the evaluation, or that of each sample, [B].
    derived: what `Rule.derive` gave. memory: what the rule remembers.
    """

    space: Space
    outputs: Sequence[Vector]
    against: Sequence[int]
    scales: Sequence[Any]
    t: Time
    derived: Sequence[Vector] = ()
    memory: Vector | None = None

    def pairs(self) -> list[tuple[Vector, Vector, Any]]:
        """For each branch the output it is compared with, its own, and the scale."""
        partners = [self.outputs[i] for i in self.against]
        return list(zip(partners, self.outputs[1:], self.scales, strict=True))


@displayed
class Combined(NamedTuple):
    """What a rule makes: the guided output, and what it remembers until the next evaluation."""

    output: Vector
    memory: Vector | None = None


@dataclass(frozen=True)
class Rule:
    """How the outputs of guidance's branches become one; see `Guidance`.

    A rule of one conditional and one unconditional branch is a `Pair`.
    """

    # Whether it is given a tensor that it made at the evaluation before, zeros at first.
    remembers: ClassVar[bool] = False
    # Whether its weights follow from scales alone.
    linear: ClassVar[bool] = False
    # Whether its algebra does with NumPy's arrays too: operators, and the functions of `Space`.
    of_arrays: ClassVar[bool] = False

    def check(self, names: Sequence[str], scales: Sequence[float | None]) -> None:
        """Raise a ValueError for branches or (known) scales that the rule does not take."""
        if self.remembers and len(names) > 1:
            raise ValueError(f"rule={self!r}: momentum is that of one branch, got {list(names)}")

    def derive(self, outputs: Sequence[Tensor], against: Sequence[int]) -> list[Tensor]:
        """Further tensors like the outputs, made of them, that the rule combines."""
        return []

    def combine(self, given: Branches) -> Combined:
        """The guided output."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pair(Rule):
    """A rule of two outputs; of several branches each is taken with its partner, and added up.

    out = c + sum_j (rule(a_j, b_j; s_j) - a_j), a_j the output that branch j is compared with.
    """

    def pair(self, space: Space, c: Vector, u: Vector, scale: Any, t: Time) -> Vector:
        """The guided output of c and u; c itself for the scale 1."""
        raise NotImplementedError

    def combine(self, given: Branches) -> Combined:
        """See `Rule.combine`."""
        total = given.outputs[0]
        for c, u, scale in given.pairs():
            found = self.pair(given.space, c, u, scale, given.t)
            total = found if total is c else total + (found - c)
        return Combined(total)


@displayed
@dataclass(frozen=True)
class OfGram(Rule):
    """A user's rule: ``function(gram, t)`` gives the weights of the outputs.

    Args:
        function: gram: float64 [B, N + 1, N + 1], inner products of the N outputs, the network's
            own first, and of ones (see `fastgen.kernels.gram`); t: the time, a float, or [B] where
            samples have their own. It returns weights [B, N], or [N] for all samples. The scales of
            the guidance are not used.
    """

    function: Callable[[Tensor, Time], Tensor]

    def combine(self, given: Branches) -> Combined:
        """See `Rule.combine`."""
        space = given.space
        found = self.function(space.gram, given.t)
        shapes = (space.count,), (1, space.count), (len(space.gram), space.count)
        if not isinstance(found, Tensor) or tuple(found.shape) not in shapes:
            raise ValueError(
                f"rule: expected weights [{len(space.gram)}, {space.count}] of the outputs, got "
                f"{shown(found)}"
            )
        return Combined(found.to(space.gram).reshape(-1, space.count))


def rescaled(space: Space, own: Vector, guided: Vector, phi: float) -> Vector:
    """g (phi std(c) / std(g) + 1 - phi): the guided output with the standard deviation of c.

    Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16, in every sample. An output whose elements are
    all equal has no deviation to keep and stays as it is.
    """
    xp, before, after = space.xp, space.variance(own), space.variance(guided)
    flat = after == 0
    factor = xp.sqrt(xp.where(flat, 1.0, before / xp.where(flat, 1.0, after)))
    return guided * (phi * factor + (1 - phi))
