"""Pairing ahead of the training step: in a data loader's workers or in a background thread."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from fastgen.common.checks import check_at_least
from fastgen.common.display import displayed
from fastgen.couplings.coupling import Coupling


@displayed
class PairingCollate:
    """A `collate_fn` of torch's DataLoader that draws noise and pairs it in the worker process.

    Args:
        coupling: how batches are paired.
        noise: a function of the data batch [n, ...] that gives the noise batch; default standard
            normal numbers of torch's generator, which the DataLoader seeds for each worker.

    Samples are tensors, or tuples (tensor, label); batches are (x0, x1) or (x0, x1, labels).
    """

    def __init__(self, coupling: Coupling, noise: Callable[[Tensor], Tensor] = torch.randn_like):
        self._coupling, self._noise = coupling, noise

    def _facts(self) -> dict[str, Any]:
        return {"coupling": self._coupling, "noise": self._noise}

    def __call__(self, samples: list[Any]) -> tuple[Tensor, ...]:
        """The paired batch."""
        batch = default_collate(samples)
        x1, labels = batch if isinstance(batch, (list, tuple)) else (batch, None)
        return self._coupling.pair(self._noise(x1), x1, labels1=labels)


def paired_batches(
    batches: Iterable[tuple[Tensor, ...]],
    coupling: Coupling,
    *,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    depth: int = 2,
) -> Iterator[tuple[Tensor, ...]]:
    """Paired training batches, made by a background thread while the last ones are trained on.

    Args:
        batches: of (x0, x1) or (x0, x1, labels1); of any size, the one that is coupled.
        coupling: how they are paired.
        batch_size: of the training batches that each is cut into, after a shuffle; the rest of
            fewer than this comes last. None: as coupled.
        generator: of the shuffle, on the CPU.
        depth: how many training batches wait at most.

    Yields:
        (x0, x1) or (x0, x1, labels1), paired.

    Raises:
        Exception: what `batches` and `coupling` raise, in the caller's thread.
    """
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)
    check_at_least("depth", depth, 1)
    return _in_background(_cut(batches, coupling, batch_size, generator), depth)


def _cut(
    batches: Iterable[tuple[Tensor, ...]],
    coupling: Coupling,
    batch_size: int | None,
    generator: torch.Generator | None,
) -> Iterator[tuple[Tensor, ...]]:
    for x0, x1, *labels in batches:
        paired = coupling.pair(x0, x1, labels1=labels[0] if labels else None)
        if batch_size is None:
            yield paired
            continue
        # Pairs come sorted, and neighbours must not share a batch for that.
        order = torch.randperm(len(paired[0]), generator=generator, device="cpu").to(
            paired[0].device
        )
        cuts = list(range(batch_size, len(order), batch_size))
        for part in order.tensor_split(cuts):
            yield tuple(x[part] for x in paired)


def _in_background(items: Iterator[tuple[Tensor, ...]], depth: int) -> Iterator[tuple[Tensor, ...]]:
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    def consume() -> Iterator[tuple[Tensor, ...]]:
        thread = threading.Thread(target=work, daemon=True, name="fastgen-pairing")
        thread.start()

        def stop() -> None:
            stopped.set()
            thread.join()

        # Left in the middle of C++ at the interpreter's end, the thread would abort the process.
        atexit.register(stop)
        try:
            while True:
                kind, value = ready.get()
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                yield value
        finally:
            atexit.unregister(stop)
            stop()

    return consume()
