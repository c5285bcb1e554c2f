"""What is drawn: any shard of a set, the same bits wherever and whenever it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.generation.formats.block import Block, Layout
from fastgen.generation.identity import digest
from fastgen.generation.statistics import Features
from fastgen.sampling.sampler import Sampler

DTYPES = ("uint8", "float16", "float32", "float64")
# The network's arguments: the same for all, or those of samples of some ids, int64 [B].
NetKwargs = Mapping[str, Any] | Callable[[Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """A set of samples: what draws them, and as what they are stored.

    Attributes:
        sampler: draws a batch.
        state: the shape of one state; that of a sample is the same unless ``decode`` changes it.
        seed: of all noise; sample i is the one of sample id i.
        batch: states in every call of the network, the last of a shard too.
        labels: int64 [count]: handed to the network as ``label_name``, and stored.
        net_kwargs: further arguments of the network.
        decode: from a batch of states to a batch of samples.
        limits: what is black and white, where samples are stored as whole numbers.
        features: what statistics are of; None: there are none.
        layout: of the shards.
    """

    sampler: Sampler
    state: tuple[int, ...]
    seed: int
    batch: int
    labels: NDArray[np.int64] | None
    label_name: str
    net_kwargs: NetKwargs | None
    decode: Callable[[Tensor], Tensor] | None
    limits: tuple[float, float]
    features: Features | None
    layout: Layout

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What decides the bits, as JSON has it; without the number of samples."""
        sampler, layout = self.sampler, self.layout
        model = sampler.model
        own = {"predicts": model.predicts, "net": model.net, "time_input": model.time_input}
        own |= {"parametrisation": model.parametrisation, "second_time": model.second_time}
        own |= {"dtype": model.dtype, "time_dtype": model.time_dtype}
        labels = None if self.labels is None else {"name": self.label_name}
        return {
            "seed": self.seed,
            "shape": list(layout.shape),
            "state": list(self.state),
            "dtype": layout.dtype,
            "limits": list(self.limits) if layout.dtype == "uint8" else None,
            "shard": layout.shard,
            "batch": self.batch,
            "plan": json.loads(sampler.plan.to_json()),
            "model": digest(own),
            "sampler": digest((sampler.noise, sampler.dtype, sampler.transform, sampler.backend)),
            "guidance": None if sampler.guidance is None else digest(sampler.guidance),
            "labels": labels,
            "net_kwargs": None if self.net_kwargs is None else digest(self.net_kwargs),
            "decode": None if self.decode is None else digest(self.decode),
            "features": None if self.features is None else self.features.facts,
        }

    def first_labels(self, count: int) -> str | None:
        """A hash of the labels of so many samples."""
        return None if self.labels is None else digest(self.labels[:count])

    def block(
        self, k: int, unwanted: Callable[[], bool] = lambda: False
    ) -> tuple[Block, NDArray[np.float32] | None] | None:
        """Draw a shard; and the features of its samples, where statistics are wanted.

        Args:
            k: the shard.
            unwanted: asked between batches; None is returned if so.

        Raises:
            FloatingPointError: for samples with NaN or infinity, naming the first id.
        """
        layout, first = self.layout, self.layout.first(k)
        rows = layout.rows(k)
        samples = np.empty((rows, *layout.shape), dtype=layout.dtype)
        features: list[NDArray[np.float32]] = []
        for begin in range(0, rows, self.batch):
            if begin and unwanted():
                return None
            stored = self.drawn(first + begin)
            end = min(begin + self.batch, rows)
            samples[begin:end] = stored[: end - begin]
            if self.features is not None:
                features.append(self.features(torch.from_numpy(stored))[: end - begin])
        labels = None if self.labels is None else self.labels[first : first + rows]
        return Block(first, samples, labels), np.concatenate(features) if features else None

    def drawn(self, first: int) -> NDArray[Any]:
        """The batch that begins with a sample, all of it, as it is stored: [batch, ...]."""
        ids = torch.arange(first, first + self.batch, device="cpu")
        given: dict[str, Any] = {}
        if self.net_kwargs is not None:
            made = self.net_kwargs(ids) if callable(self.net_kwargs) else self.net_kwargs
            given |= made
        if self.labels is not None:  # beyond the end that of the last sample, which nobody sees
            rows = np.minimum(ids.numpy(), len(self.labels) - 1)
            labels = torch.from_numpy(self.labels[rows])
            given[self.label_name] = labels.to(self.sampler.model.device)
        shape = (self.batch, *self.state)
        x = self.sampler(shape, seed=self.seed, sample_ids=ids, net_kwargs=given)
        if self.decode is not None:
            x = self.decode(x.clone())
        seen = min(self.batch, self.layout.count - first)
        if not bool(x[:seen].isfinite().all()):
            bad = (~x[:seen].isfinite().flatten(1).all(1)).nonzero()
            raise FloatingPointError(
                f"sample {first + int(bad[0])}: NaN or infinity; see docs/howto/debugging.md"
            )
        found: NDArray[Any] = stored_as(x, self.layout.dtype, self.limits).cpu().numpy()
        if found.shape[1:] != self.layout.shape:
            raise ValueError(
                f"decode: expected samples {list(self.layout.shape)}, got {list(found.shape[1:])}"
            )
        return found

    def batches(self, k: int) -> Iterator[tuple[int, int]]:
        """First row and number of samples of each batch of a shard."""
        rows = self.layout.rows(k)
        for begin in range(0, rows, self.batch):
            yield begin, min(self.batch, rows - begin)


def stored_as(x: Tensor, dtype: str, limits: tuple[float, float]) -> Tensor:
    """Samples in the dtype that they are stored in.

    As whole numbers: limits[0] is 0 and limits[1] is 255, to the nearest, halves upwards, as
    EDM's generate.py has it (Karras et al. 2022): floor(255 (x - low) / (high - low) + 1/2).
    """
    if dtype != "uint8":
        return x.to(getattr(torch, dtype))
    low, high = limits
    scale = 255 / (high - low)
    return (x.to(torch.float32) * scale + (0.5 - low * scale)).clamp_(0, 255).to(torch.uint8)
