"""Lowered programs that are kept between calls, with their coefficients and buffers."""

from __future__ import annotations

from collections import deque

import torch

from fastgen.plans import Program
from fastgen.sampling.run import BufferKey, InPlaceRun, Tables

_idle: deque[tuple[Prepared, InPlaceRun]] = deque(maxlen=8)


class Prepared:
    """A program; its tables on each device; buffers of the last runs, of all programs together."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._tables: dict[torch.device, Tables] = {}

    def tables(self, device: torch.device) -> Tables:
        """The coefficients on a device."""
        if device not in self._tables:
            self._tables[device] = Tables(self.program, device)
        return self._tables[device]

    def workspace(self, key: BufferKey) -> InPlaceRun:
        """Buffers and prepared calls: those of an earlier run where they fit."""
        for _ in range(len(_idle)):
            try:
                owner, work = _idle.popleft()
            except IndexError:  # another thread took it
                break
            if owner is self and work.key == key:
                return work
            _idle.append((owner, work))
        with torch.inference_mode(False):  # buffers for later runs in whatever mode
            return InPlaceRun(self.program, self.tables(key.device), key, None)

    def keep(self, work: InPlaceRun) -> None:
        """Keep the buffers of a run that is over."""
        _idle.append((self, work))
