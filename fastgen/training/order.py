"""In which order samples come: a function of (seed, position), whatever machine asks.

Position p of a run is row p mod B of step p // B, for batches of B.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.checks import check_integer, check_range, check_tensor
from fastgen.common.display import displayed
from fastgen.kernels import Stream
from fastgen.kernels.normals.reference import MASK, philox
from fastgen.training.steps import ITEMS, uniform_of_ids

# Ids of the draws of orders, beside those of `fastgen.training.steps`.
WITHIN_CLASSES, CLASSES = 4 * ITEMS, 5 * ITEMS
SORTED_UP_TO = 1 << 20  # samples whose order is a table: 16 bytes for each
MOST = 1 << 32  # positions that are asked for at once: 32 GiB of numbers
ROUNDS = 4  # of a Feistel network, from which on it passes for random (Luby and Rackoff 1988)


@displayed
class Order:
    """The numbers of the samples that come one after another, pass after pass.

    Each pass visits every sample once: in the order of uniform numbers of the noise contract up to
    2^20 samples, and above that by a permutation that is computed place by place and takes no
    memory, a Feistel network of Philox on the next power of 4 whose values beyond the set are sent
    through again (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        count: of the samples.
        seed: of the run.
        labels: of the samples [count], whole numbers >= 0: then classes come equally often. Of any
            C positions in a row that begin at a multiple of C each is of another class, and a class
            goes through its own samples pass after pass.

    Raises:
        ValueError: without samples.
    """

    def __init__(self, count: int, seed: int, labels: Tensor | None = None) -> None:
        if not check_integer("count", count) >= 1:
            raise ValueError("data: expected at least one sample, got none")
        self.count, self.seed = check_integer("count", count), check_range("seed", seed, 64)
        check_labels(labels, count)
        self._tables: dict[int, tuple[int, Tensor]] = {}
        self._members: list[Tensor] = []
        if labels is not None:
            sizes = labels.cpu().bincount()
            ends = sizes[sizes > 0].cumsum(0)[:-1]
            self._members = list(labels.cpu().argsort(stable=True).tensor_split(ends))

    def _facts(self) -> dict[str, object]:
        classes = {"classes": len(self._members)} if self._members else {}
        return {"count": self.count, "seed": self.seed, **classes}

    def at(self, first: int, count: int) -> Tensor:
        """The samples of ``count`` positions from ``first``, int64 [count].

        Raises:
            ValueError: for more than 2^32 positions at once.
        """
        first, count = check_range("first", first, 62), check_range("count", count, 62)
        if count > MOST:
            raise ValueError(f"count={count}: at most {MOST} positions at once; ask for less")
        if self._members and count:
            return self._balanced(first, count)
        return self._passes(first, count, self.count, ITEMS)

    def _passes(self, first: int, count: int, size: int, salt: int) -> Tensor:
        """Positions of pass after pass through ``size`` samples."""
        parts: list[Tensor] = []
        while count:
            epoch, start = divmod(first, size)
            taken = min(count, size - start)
            parts.append(self._permuted(epoch, start, taken, size, salt))
            first, count = first + taken, count - taken
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device="cpu")

    def _permuted(self, epoch: int, start: int, count: int, size: int, salt: int) -> Tensor:
        if size > SORTED_UP_TO:
            return feistel(
                torch.arange(start, start + count, device="cpu"), size, self.seed, epoch, salt
            )
        if salt not in self._tables or self._tables[salt][0] != epoch:
            u = uniform_of_ids(self.seed, torch.device("cpu"), salt, size, epoch)
            self._tables[salt] = epoch, u.argsort(stable=True)
        return self._tables[salt][1][start : start + count]

    def _balanced(self, first: int, count: int) -> Tensor:
        classes = len(self._members)
        begin, end = first // classes, -(-(first + count) // classes)  # blocks of all classes
        salts, salt = [], WITHIN_CLASSES
        for members in self._members:
            salts.append(salt)
            salt += len(members)
        of_class = [
            members[self._passes(begin, end - begin, len(members), salt)]
            for members, salt in zip(self._members, salts, strict=True)
        ]
        table = torch.stack(of_class, 1)  # [blocks, classes]
        order = torch.stack(
            [
                uniform_of_ids(self.seed, torch.device("cpu"), CLASSES, classes, block).argsort()
                for block in range(begin, end)
            ]
        )
        offset = first - begin * classes
        return table.gather(1, order).reshape(-1)[offset : offset + count]


def feistel(places: Tensor, size: int, seed: int, epoch: int, salt: int) -> Tensor:
    """A permutation of 0 .. size - 1 at some places, int64; one for each (seed, epoch, salt).

    L, R <- R, L xor F(R, round), on halves of equal width, with F the first word of Philox.
    """
    width = 1
    while 1 << 2 * width < size:
        width += 1
    half = (1 << width) - 1
    key = torch.tensor(seed & MASK, device="cpu"), torch.tensor((seed >> 32) & MASK, device="cpu")
    tag = torch.tensor(Stream.PLAN | (salt // ITEMS) << 8 | (epoch >> 32) << 16, device="cpu")

    def once(x: Tensor) -> Tensor:
        left, right = x >> width, x & half
        for number in range(ROUNDS):
            word = philox(
                (
                    right,
                    torch.tensor(epoch & MASK, device="cpu"),
                    torch.tensor((salt & MASK) ^ number << 28, device="cpu"),
                    tag,
                ),
                key,
            )[0]
            left, right = right, left ^ (word & half)
        return left << width | right

    found = once(places)
    outside = (found >= size).nonzero().flatten()
    while len(outside):  # walks the cycle until it comes back into the set
        found[outside] = once(found[outside])
        outside = outside[found[outside] >= size]
    return found


def check_labels(labels: Tensor | None, count: int, classes: int = 0) -> None:
    """Refuse labels that are not whole numbers, one for each sample.

    classes: how many the network knows, or 0.

    Raises:
        ValueError: naming what is wrong.
    """
    if labels is None:
        return
    check_tensor("labels", labels)
    if labels.shape != (count,):
        raise ValueError(
            f"labels: expected one for each of {count} samples, got {list(labels.shape)}"
        )
    if labels.is_floating_point() or (count and int(labels.min()) < 0):
        raise ValueError(
            f"labels: expected whole numbers >= 0, got {labels.dtype} from {labels.min()}"
        )
    if classes and count and int(labels.max()) > classes:
        raise ValueError(
            f"labels: expected 0 .. {classes - 1}, or {classes} for none, got "
            f"{int(labels.max())}; make the network with more classes"
        )
