"""One row of a continuous batch: its arguments, and how far its sample is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.errors import nearest
from fastgen.sampling.network_calls import converted
from fastgen.sampling.prepared import Prepared


def write_arguments(
    row: int,
    rows: int,
    by_row: Callable[[str, Any, int], bool],
    initial: Mapping[str, Any],
    values: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Write a row of the network's arguments.

    Args:
        row: of ``rows``.
        rows: of the batch.
        by_row: whether a part of an argument has a row for each request.
        initial: what the batch was made with, which holds where a request says nothing.
        values: what the network is handed, written in place.
        given: the request's own.

    Raises:
        ValueError: naming the argument, before anything is written.
    """
    for name in given:
        if name not in values:
            raise ValueError(f"unknown argument {name!r}: {nearest(name, values)}")
    writes: list[tuple[Tensor, Tensor]] = []
    for name in values:
        own, structure = pytree.tree_flatten(values[name])
        leaves = pytree.tree_leaves(initial[name])
        taken = [x[row] if by_row(name, x, rows) else x for x in leaves]
        if name in given:
            taken, other = pytree.tree_flatten(given[name])
            if other != structure:
                raise ValueError(f"{name}: expected the structure {structure}, got {other}")
        for static, x in zip(own, taken, strict=True):
            if not by_row(name, static, rows):
                if name in given:
                    raise ValueError(f"{name}: it has no batch axis of {rows}; all rows share it")
                continue
            if not isinstance(x, Tensor) or x.shape != static.shape[1:]:
                expected = tuple(static.shape[1:])
                found = tuple(x.shape) if isinstance(x, Tensor) else repr(x)
                raise ValueError(f"{name}: expected a tensor {expected} for one row, got {found}")
            writes.append((static[row], x))
    for target, x in writes:
        target.copy_(x, non_blocking=True)


class Seen:
    """What the last step's evaluation was given and returned, for previews."""

    def __init__(self, like: Tensor) -> None:
        with torch.inference_mode(False):  # for later steps in whatever mode
            self._input = torch.zeros_like(like)
        self._outputs: Sequence[Tensor] = ()

    def before(self, given: Tensor) -> None:
        """Keep the network's input, which the step overwrites."""
        self._input.copy_(given)

    def after(self, outputs: Sequence[Tensor]) -> None:
        """Keep its outputs: of every branch, or merged."""
        self._outputs = outputs

    def data(self, row: int, prepared: Prepared, evaluation: int) -> Tensor:
        """The data prediction [...] of a row at an evaluation of its own plan, the last one."""
        time, kind = prepared.plan.evaluations[evaluation].time, prepared.dtypes[0]
        part = slice(row, row + 1)
        state = self._input[part].to(kind) / prepared.model.parametrisation.input_scale(time)
        outputs = [output[part].to(kind) for output in self._outputs]
        guidance, output = prepared.guidance, outputs[0]
        if guidance is not None and len(outputs) > 1 and guidance.active(time):
            output = guidance.merge(outputs, time).output
        found = converted(prepared.parametrisation, "data", time, state, output)
        clip = prepared.plan.clip
        return (found if clip is None else found.clamp(*clip))[0].clone()
