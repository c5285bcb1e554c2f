"""Guidance that merges outputs, for rows of a batch at different steps of different plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fastgen.model.guidance import Guidance
from fastgen.model.scales import check_scale
from fastgen.plans import Plan

# The guidance scale of one request: of one branch, or by name.
RequestScale = float | Mapping[str, float]


def of_request(guidance: Guidance, scale: RequestScale | None) -> Guidance:
    """A batch's guidance with the scale of a request; None: its own."""
    if scale is None:  # 2 stands for one per sample
        return guidance.with_scales([2.0 if isinstance(s, Tensor) else s for s in guidance.scales])
    if isinstance(scale, Mapping) != isinstance(guidance.scale, Mapping):
        raise ValueError(f"scale={scale!r}: expected one like the sampler's, {guidance.scale!r}")
    return replace(guidance, scale=scale)


def check_request_scale(guidance: Guidance | None, scale: RequestScale | None) -> None:
    """Raise an error for what is no scale of one request."""
    if scale is None and guidance is not None and guidance.per_sample:
        raise ValueError("scale: the sampler has one per sample; give the request its own")
    if scale is None:
        return
    check_scale("scale", scale)
    numbers = scale.values() if isinstance(scale, Mapping) else [scale]
    if any(isinstance(number, Tensor) for number in numbers):
        raise TypeError("scale: expected one number for the one sample")


def numbers_of(guidance: Guidance, plan: Plan, length: int) -> Tensor:
    """For each evaluation of a plan its time, whether it is guided, and the scales; then zeros."""
    found = torch.zeros((length, 2 + len(guidance.branches)), dtype=torch.float64, device="cpu")
    for k, evaluation in enumerate(plan.evaluations):
        t = evaluation.time
        scales = [s(t) if callable(s) else s for s in guidance.scales]
        found[k] = torch.tensor([t, guidance.active(t), *scales], dtype=torch.float64, device="cpu")
    return found


class MergedRows:
    """What a batch's merging reads of each row's own step, and what its rule remembers."""

    def __init__(self, guidance: Guidance, rows: int, length: int, device: torch.device) -> None:
        self._guidance, self._length = guidance, length
        size = rows * length, 2 + len(guidance.branches)
        self._numbers = torch.zeros(size, dtype=torch.float64, device=device)
        self._memory: Tensor | None = None
        self._now = self._numbers[:rows]

    def admit(self, row: int, numbers: Tensor) -> None:
        """Take a request into a row: what `numbers_of` says of it."""
        part = slice(row * self._length, (row + 1) * self._length)
        self._numbers[part].copy_(numbers)
        if self._memory is not None:
            self._memory[row].zero_()

    def look(self, position: Tensor) -> None:
        """The next outputs are those of each row's evaluation at its place in the tables."""
        self._now = self._numbers.index_select(0, position)

    def merge(self, outputs: tuple[Tensor, ...], k: int) -> Tensor:
        """One output of those of all branches."""
        time, active, *scales = self._now.unbind(1)
        columns = [scale[:, None] for scale in scales]
        memory = self._memory
        if memory is None and self._guidance.remembers:
            kind = torch.promote_types(outputs[0].dtype, torch.float32)
            with torch.inference_mode(False):  # for later steps in whatever mode
                memory = self._memory = torch.zeros(
                    outputs[0].shape, dtype=kind, device=outputs[0].device
                )
        found = self._guidance.merge_rows(outputs, time, columns, active > 0, memory)
        if found.memory is not None and memory is not None:
            memory.copy_(found.memory)
        return found.output

    def forget(self) -> None:
        """Undo what trial steps left in the memory."""
        if self._memory is not None:
            self._memory.zero_()
