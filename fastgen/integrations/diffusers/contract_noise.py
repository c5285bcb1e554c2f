"""The library's reproducible noise in a scheduler's run: noise="contract"."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from fastgen.common.transforms import outside_transforms
from fastgen.integrations.common.noise import fresh_seed
from fastgen.kernels import Noise, Stream
from fastgen.noise.keys import id_tensor, seed_tensor

Generators: TypeAlias = "torch.Generator | list[torch.Generator] | None"


def check_generator(generator: Any) -> None:
    """Raise a TypeError for what is neither a generator of torch, nor a list of them, nor None."""
    if generator is None or isinstance(generator, torch.Generator):
        return
    if not isinstance(generator, list) or not all(
        isinstance(g, torch.Generator) for g in generator
    ):
        raise TypeError(
            f"generator={generator!r}: expected a torch.Generator, or a list of one for each "
            "sample; torch.Generator().manual_seed(1) makes one of a seed"
        )


class ContractNoise:
    """Seeds, sample ids and the current draw of a run.

    The seeds are those of the generators. With a list of generators every sample is number 0 of its
    generator's seed, so that one image of a batch can be made again alone.

    Args:
        seed: for steps that are given no generator; None draws one for each run.
        drawn: the seed that was drawn for this run.
    """

    def __init__(self, seed: int | None, drawn: int | None = None) -> None:
        self.seed, self.drawn = seed, drawn
        self.noise: Noise | None = None
        self.key: object = None
        self.draw: Any = None  # numpy's view of draws on a CPU: quicker to write to

    def begin(self) -> None:
        """A new run: where no generator and no seed said otherwise, another one is drawn."""
        if self.drawn is not None:
            self.key = self.drawn = None

    def __reduce__(self) -> Any:
        """Copies make new tensors, so that two schedulers never share a draw."""
        return ContractNoise, (self.seed, self.drawn)

    @outside_transforms
    def use(self, generator: Generators, rows: int, device: torch.device, draw: int) -> bool:
        """Point at a draw; True if that needed new tensors, at other addresses."""
        if isinstance(generator, list):
            seeds: Any = tuple([g.initial_seed() for g in generator])
        else:
            seeds = None if generator is None else generator.initial_seed()
        key = (seeds, rows, device)
        fresh = key != self.key
        if fresh:
            self.key = key
            own = list(seeds) if isinstance(seeds, tuple) else [seeds]
            own = [self._own() if s is None else s for s in own]
            ids = [0] * rows if len(own) > 1 else None
            self.noise = Noise(
                seed_tensor(own, rows, device),
                id_tensor(ids, rows, device),
                torch.zeros(1, dtype=torch.int64, device=device),
                Stream.SOLVER,
            )
            self.draw = self.noise.draws.numpy() if device.type == "cpu" else None
        assert self.noise is not None
        if self.draw is not None:
            self.draw[0] = draw
        else:
            self.noise.draws.fill_(draw)
        return fresh

    def _own(self) -> int:
        if self.seed is not None:
            return self.seed
        if self.drawn is None:
            self.drawn = fresh_seed()
        return self.drawn
