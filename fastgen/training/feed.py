"""The rows of each step: in memory, or read ahead from a disk by worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastgen.common.checks import (
    check_at_least,
    check_choice,
    check_floating,
    check_integer,
)
from fastgen.training.order import Order, check_labels
from fastgen.training.settings import Settings

ON_CORRUPT = ("raise", "skip")
TRIES = 100  # samples after a corrupt one that may take its place
REPORTED = 20  # corrupt samples that are told one by one


class Fetched(NamedTuple):
    """Samples, their numbers (of those that took the place of corrupt ones too), and faults."""

    data: Tensor
    numbers: Tensor
    faults: list[tuple[int, str]]


class Reader:
    """Reads samples by number and looks at them, in whatever process."""

    def __init__(self, records: Any, on_corrupt: str) -> None:
        self.records, self.skip = records, on_corrupt == "skip"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, numbers: slice) -> Fetched:
        """Consecutive samples."""
        return self.__getitems__(range(numbers.start, numbers.stop))

    def __getitems__(self, numbers: Sequence[int]) -> Fetched:
        """One batch; what a DataLoader's worker calls."""
        numbers = [int(k) for k in numbers]
        try:
            found = self.records.rows(numbers)
            if bool(found.isfinite().all()):
                return Fetched(found, torch.tensor(numbers, device="cpu"), [])
        except (ValueError, OSError):
            pass  # which of them it is, is found out below
        parts: list[Tensor] = []
        taken: list[int] = []
        faults: list[tuple[int, str]] = []
        for k in numbers:
            place, x = self._sample(k, faults)
            parts.append(x)
            taken.append(place)
        return Fetched(torch.cat(parts), torch.tensor(taken, device="cpu"), faults)

    def _sample(self, number: int, faults: list[tuple[int, str]]) -> tuple[int, Tensor]:
        """A sample, or the next one that is whole."""
        count = len(self.records)
        for k in range(min(count, TRIES)):
            place = (number + k) % count
            fault = ""
            try:
                x = self.records.rows([place])
                fault = "" if bool(x.isfinite().all()) else "NaN or infinity"
            except (ValueError, OSError) as error:
                fault = str(error)
            if not fault:
                return place, x
            if not self.skip:
                raise ValueError(
                    f"data: sample {place}: {fault}; mend it, or give on_corrupt='skip', which "
                    "takes the next one in its place"
                )
            faults.append((place, fault))
        raise ValueError(f"data: samples {number} and the {k} after it are all corrupt: {fault}")


class Feed:
    """``feed(step)``: the samples of this process and their labels.

    Args:
        data: a tensor [N, ...], or a set that is read by number (`fastgen.datasets`).
        labels: [N] or None.
        settings: with the batch, the seed, and whether classes are balanced.
        rank, processes: whose share is read: consecutive rows of each step's batch.
        device: where samples go, or None.
        workers: processes that read ahead, for sets on a disk.
        on_corrupt: "raise" or "skip".
    """

    def __init__(
        self,
        data: Any,
        labels: Tensor | None,
        settings: Settings,
        *,
        rank: int = 0,
        processes: int = 1,
        device: torch.device | None = None,
        workers: int = 0,
        on_corrupt: str = "raise",
    ) -> None:
        check_choice("on_corrupt", on_corrupt, ON_CORRUPT)
        check_at_least("workers", check_integer("workers", workers), 0)
        self.in_memory = isinstance(data, Tensor)
        if self.in_memory:
            check_floating("data", data, "[N, ...]")
            if len(data) and not bool(torch.isfinite(data).all()):
                raise ValueError("data: NaN or infinity among them")
            data = data if device is None else data.to(device)
        elif not hasattr(data, "rows") or not hasattr(data, "shape"):
            raise TypeError(
                f"data: expected a tensor, got {type(data).__name__}, or a set that is read by "
                "number: fastgen.datasets.Arrays, Images, Items (around any set of torch), Shards"
            )
        if labels is None and not self.in_memory:
            labels = data.labels
        check_labels(labels, len(data))
        if settings.balanced and labels is None:
            raise ValueError("balanced=True: the data have no labels; give them")
        self.data = data
        self.device = data.device if self.in_memory else device or torch.device("cpu")
        self.labels = None if labels is None else labels.to(self.device)
        self.order = Order(len(data), settings.seed, labels if settings.balanced else None)
        self.share, self.first = settings.batch // processes, rank * (settings.batch // processes)
        self.batch, self.workers = settings.batch, workers
        self.reader = Reader(data, on_corrupt)
        self.corrupt: dict[int, str] = {}
        self._ahead: tuple[int, Iterator[Fetched]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.data.shape[1:] if self.in_memory else self.data.shape)

    def __call__(self, step: int) -> tuple[Tensor, Tensor | None]:
        """The samples of a step and their labels, as they are stored."""
        if self.in_memory:
            chosen = self.numbers(step).to(self.device)
            return self.data[chosen], None if self.labels is None else self.labels[chosen]
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._read(step)
        found = next(self._ahead[1])
        self._ahead = step + 1, self._ahead[1]
        self._report(found.faults)
        data = found.data.to(self.device, non_blocking=True)
        labels = self.labels
        return data, None if labels is None else labels[found.numbers.to(self.device)]

    def numbers(self, step: int) -> Tensor:
        """Of the samples of a step that are this process's."""
        return self.order.at(step * self.batch + self.first, self.share)

    def _read(self, step: int) -> Iterator[Fetched]:
        loader: Any = DataLoader(
            self.reader,  # type: ignore[arg-type]
            batch_sampler=_From(self.numbers, step),
            num_workers=self.workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            pin_memory=self.device.type == "cuda",
            prefetch_factor=2 if self.workers else None,
        )
        return iter(loader)

    def _report(self, faults: list[tuple[int, str]]) -> None:
        for number, fault in faults:
            if number not in self.corrupt and len(self.corrupt) < REPORTED:
                warnings.warn(f"data: sample {number} is left out: {fault}", stacklevel=4)
            self.corrupt[number] = fault


class _From:
    """The numbers of each step from one on, without end."""

    def __init__(self, numbers: Callable[[int], Tensor], step: int) -> None:
        self.numbers, self.step = numbers, step

    def __iter__(self) -> Iterator[list[int]]:
        step = self.step
        while True:
            yield self.numbers(step).tolist()
            step += 1


def _as_it_is(found: Fetched) -> Fetched:
    return found
