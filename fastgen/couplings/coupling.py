"""Couplings of minibatches: which noise sample is paired with which data sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_positive, check_shape
from fastgen.common.display import displayed
from fastgen.common.transforms import constant
from fastgen.common.typed import typed
from fastgen.couplings.assignment import assign
from fastgen.couplings.hilbert import hilbert_index
from fastgen.couplings.pairs import round_to_permutation, sample_pairs
from fastgen.couplings.points import check_batch, equal_batches
from fastgen.couplings.sinkhorn import RegScale, sinkhorn


@displayed
class Coupling(ABC):
    """Pairs two batches. Subclasses say how, by indices.

    Where a coupling is asked for and only called, a function of the same arguments will do.
    """

    def _facts(self) -> dict[str, Any]:
        return {name.lstrip("_"): v for name, v in vars(self).items() if v is not None}

    @abstractmethod
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Indices (i, j) of the pairs (x0[i[k]], x1[j[k]]), int64 [pairs].

        No sample is in two pairs but where a coupling says so.

        Args:
            x0: [n, ...] noise; x1: [m, ...] data. labels0: [n], labels1: [m], where they matter.
        """

    @typed
    def pair(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The paired samples (x0[i], x1[j]), and labels1[j] if given; [pairs, ...]."""
        i, j = self(x0, x1, labels0, labels1)
        paired = (x0[i], x1[j])
        return paired if labels1 is None else (*paired, labels1[j])


def check_no_labels(coupling: object, labels0: Tensor | None, labels1: Tensor | None) -> None:
    """Raise a ValueError for labels: nothing is silently ignored."""
    for name, labels in (("labels0", labels0), ("labels1", labels1)):
        if labels is not None:
            raise ValueError(
                f"{name}: {type(coupling).__name__} pairs points whatever their labels; wrap it in "
                "ByLabel to pair within labels"
            )


class Independent(Coupling):
    """x0[k] with x1[k]: independent if the batches are."""

    @constant
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; the longer batch's rest is left out."""
        check_batch("x0", x0)
        check_batch("x1", x1)
        k = torch.arange(min(len(x0), len(x1)), device=x0.device)
        return k, k


class ExactOT(Coupling):
    """Minibatch optimal transport (Pooladian et al. 2023, arXiv 2304.14772; Tong et al. 2023,
    arXiv 2302.00482).

    Args:
        replace: False keeps each sample once. True draws pairs of the plan with replacement, as
            torchcfm does: about 63 % of the samples are in a batch.
        generator: for replace=True.
        options: those of `assign` (cost, mode, epsilon, threads, backend).
    """

    def __init__(
        self, *, replace: bool = False, generator: torch.Generator | None = None, **options: Any
    ):
        known = ("cost", "mode", "epsilon", "threads", "backend")
        for name in options:
            if name not in known:
                raise TypeError(f"ExactOT: unknown argument {name!r}; known: {', '.join(known)}")
        if generator is not None and not replace:
            raise ValueError("generator: nothing is random with replace=False")
        self._replace, self._generator, self._options = replace, generator, options

    @constant
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends unless replace=True. Labels play no part."""
        i, j = assign(x0, x1, **self._options).indices()
        if self._replace:
            drawn = torch.randint(len(i), (len(i),), generator=self._generator, device="cpu").to(
                i.device
            )
            i, j = i[drawn], j[drawn]
        return i, j


@dataclass(repr=False)
class Sinkhorn(Coupling):
    """Pairs from the entropic plan: ``i, j = Sinkhorn(reg)(x0, x1)``.

    The k-th call with the same object uses draw k, so that a run is a function of its seed.

    Args:
        reg: the regularisation.
        reg_scale: "mean_cost" (reg is a part of the mean cost of the batch) or "absolute".
        pairs: "sample": every x0[i] once, with a partner drawn from its row of the plan;
            "plan": as many pairs as x0 has points, each drawn from the whole plan, which leaves
            points out where it is unbalanced or partial; "permutation": a pairing near the plan in
            which no partner repeats.
        seed: of the draws.
        options: further keyword arguments of `sinkhorn`; a tolerance that is not reached raises a
            `SinkhornError`.
    """

    reg: float = 0.05
    reg_scale: RegScale = "mean_cost"
    pairs: Literal["sample", "plan", "permutation"] = "sample"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    draw: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Check what no call would check before it is too late."""
        check_choice("pairs", self.pairs, ("sample", "plan", "permutation"))
        check_positive("reg", self.reg)

    def at(self, seed: int, draw: int) -> Sinkhorn:
        """The same coupling, whose next call uses this seed and this draw."""
        found = replace(self, seed=seed)
        found.draw = draw
        return found

    @constant
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; with pairs="sample" or "plan" points may be in several pairs.

        Labels do not enter the cost: wrap the coupling in `ByLabel` to pair within labels.

        Raises:
            ValueError: naming the argument; also for labels, which would be ignored.
        """
        check_no_labels(self, labels0, labels1)
        result = sinkhorn(
            x0.detach(), x1.detach(), self.reg, reg_scale=self.reg_scale, **self.options
        )
        draw, self.draw = self.draw, self.draw + 1
        if self.pairs == "permutation":
            return torch.arange(len(x0), device=x0.device), round_to_permutation(result)
        count = len(x0) if self.pairs == "plan" else None
        return sample_pairs(result, count, seed=self.seed, draw=draw)


class ByLabel(Coupling):
    """Pairs only samples of the same label, each label by itself with `inner`.

    Coupling across labels biases conditional generation: the noise of a label's samples is then
    not that of the prior.

    Args:
        inner: the coupling within a label.
    """

    def __init__(self, inner: Coupling):
        self._inner = inner

    @constant
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends.

        Without labels0, noise goes to labels as it comes: the first samples to the label of the
        first x1, and so on; n = m then. With both, what a label has too many of is left out.

        Raises:
            ValueError: without labels1, or for labels that are not one integer a sample.
        """
        check_batch("x0", x0)
        check_batch("x1", x1)
        if labels1 is None:
            raise ValueError("labels1: ByLabel needs the labels of x1")
        if labels0 is None:
            if len(x0) != len(x1):
                raise ValueError(f"labels0: needed for {len(x0)} samples in x0, {len(x1)} in x1")
            labels0 = labels1
        for name, labels, x in (("labels0", labels0, x0), ("labels1", labels1, x1)):
            check_shape(name, labels, (len(x),))
        i, j = [], []
        for label in torch.unique(labels1):
            rows, columns = (labels0 == label).nonzero()[:, 0], (labels1 == label).nonzero()[:, 0]
            if len(rows):
                inner_i, inner_j = self._inner(x0[rows], x1[columns])
                i.append(rows[inner_i])
                j.append(columns[inner_j])
        if not i:
            raise ValueError("labels0: no label in common with labels1")
        all_i, all_j = torch.cat(i), torch.cat(j)
        order = all_i.argsort(stable=True)
        return all_i[order], all_j[order]


class Sorted(Coupling):
    """Pairs by rank along one direction: O(n log n), and optimal in one dimension.

    Args:
        direction: [d], or None for the direction of most variance of x1.
    """

    def __init__(self, direction: Tensor | None = None):
        self._direction = direction

    @constant
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends. Batches must be of one size."""
        flat0, flat1 = equal_batches(x0, x1)
        direction = self._direction
        if direction is None:
            direction = _principal(flat1)
        if direction.numel() != flat1.shape[1]:
            raise ValueError(
                f"direction: expected {flat1.shape[1]} numbers, got {direction.numel()}"
            )
        direction = direction.to(flat0).flatten()
        return _by_rank(flat0 @ direction, flat1 @ direction)


class Hilbert(Coupling):
    """Pairs by rank along a Hilbert curve (Bernton et al. 2019, arXiv 1905.03747): O(n log n).

    Near in space follows from near on the curve, so that pairs are short in few dimensions.
    """

    @constant
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends. Batches must be of one size, of points of at most 31 numbers.

        Each cloud's own bounding box is mapped to the unit cube.
        """
        flat0, flat1 = equal_batches(x0, x1)
        return _by_rank(hilbert_index(flat0), hilbert_index(flat1))


def _principal(x: Tensor) -> Tensor:
    # A few power iterations: any direction is a valid choice.
    x = x.double() - x.double().mean(0)
    direction = x[x.norm(dim=1).argmax()]
    for _ in range(10):
        direction = x.T @ (x @ direction)
        direction = direction / direction.norm().clamp(min=1e-300)
    return direction


def _by_rank(key0: Tensor, key1: Tensor) -> tuple[Tensor, Tensor]:
    order0, order1 = key0.argsort(stable=True), key1.argsort(stable=True)
    j = torch.empty_like(order0)
    j[order0] = order1
    return torch.arange(len(j), device=j.device), j
