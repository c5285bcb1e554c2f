"""Couplings for training: which noise sample is paired with which data sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from fastgen.couplings.assignment import assign
from fastgen.couplings.curves import hilbert_index


class Coupling(ABC):
    """Pairs two batches. Subclasses say how, by indices."""

    @abstractmethod
    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Indices (i, j) of the pairs (x0[i[k]], x1[j[k]]), int64, no sample in two pairs.

        Args:
            x0: [n, ...] noise; x1: [m, ...] data. labels0: [n], labels1: [m], where they matter.
        """

    def pair(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The paired samples (x0[i], x1[j]), and labels1[j] if given; [pairs, ...]."""
        i, j = self(x0, x1, labels0, labels1)
        paired = (x0[i], x1[j])
        return paired if labels1 is None else (*paired, labels1[j])


def _check_sizes(x0: Tensor, x1: Tensor) -> None:
    for name, x in (("x0", x0), ("x1", x1)):
        if x.ndim < 1 or x.numel() == 0:
            raise ValueError(f"{name}: expected shape [n, ...], not empty, got {tuple(x.shape)}")


class Independent(Coupling):
    """x0[k] with x1[k]: independent if the batches are."""

    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; the longer batch's rest is left out."""
        _check_sizes(x0, x1)
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

    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends unless replace=True. Labels play no part."""
        i, j = assign(x0, x1, **self._options).indices()
        if self._replace:
            drawn = torch.randint(len(i), (len(i),), generator=self._generator).to(i.device)
            i, j = i[drawn], j[drawn]
        return i, j


class ByLabel(Coupling):
    """Pairs only samples of the same label, each label by itself with `inner`.

    Coupling across labels biases conditional generation: the noise of a label's samples is then
    not that of the prior.

    Args:
        inner: the coupling within a label.
    """

    def __init__(self, inner: Coupling):
        self._inner = inner

    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends.

        Without labels0, noise goes to labels as it comes: the first samples to the label of the
        first x1, and so on; n = m then. With both, what a label has too many of is left out.

        Raises:
            ValueError: without labels1, or for labels that are not one integer a sample.
        """
        _check_sizes(x0, x1)
        if labels1 is None:
            raise ValueError("labels1: ByLabel needs the labels of x1")
        if labels0 is None:
            if len(x0) != len(x1):
                raise ValueError(f"labels0: needed for {len(x0)} samples in x0, {len(x1)} in x1")
            labels0 = labels1
        for name, labels, x in (("labels0", labels0, x0), ("labels1", labels1, x1)):
            if labels.shape != (len(x),):
                raise ValueError(f"{name}: expected shape ({len(x)},), got {tuple(labels.shape)}")
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

    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends. Batches must be of one size."""
        flat0, flat1 = _equal(x0, x1)
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

    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Coupling`; i ascends. Batches must be of one size, of points of at most 31 numbers.

        Each cloud's own bounding box is mapped to the unit cube.
        """
        flat0, flat1 = _equal(x0, x1)
        return _by_rank(hilbert_index(flat0), hilbert_index(flat1))


def _equal(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    _check_sizes(x0, x1)
    flat0, flat1 = x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)
    if flat0.shape != flat1.shape:
        raise ValueError(f"x1: expected shape {tuple(x0.shape)} as x0, got {tuple(x1.shape)}")
    for name, x in (("x0", flat0), ("x1", flat1)):
        if not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite numbers")
    return flat0.detach(), flat1.detach()


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
