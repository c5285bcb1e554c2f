"""Rows of a continuous batch: their arguments, network calls, and how far their samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.errors import nearest
from fastgen.kernels import Known
from fastgen.kernels.combine.reference import mixed
from fastgen.model.arguments import Declared
from fastgen.sampling.capture import StaticArguments
from fastgen.sampling.network_calls import NetworkCalls, converted
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.served_guidance import MergedRows


class ServedArguments:
    """The network's arguments of a batch, and what is known: requests write their rows of both.

    network: what the network is handed. known: what stages keep of the data, or None.

    Args:
        prepared: what the batch runs.
        declared: which arguments have a row for each request.
        given: what the batch is made with, which holds where a request says nothing.
        like: states of all rows.

    Raises:
        ValueError: for something known that cannot be written where stages read it.
    """

    def __init__(
        self, prepared: Prepared, declared: Declared, given: Mapping[str, Any], like: Tensor
    ) -> None:
        self._initial = StaticArguments(given, like.device).values
        self._values = StaticArguments(given, like.device).values
        self._rows, self._has_rows = len(like), declared.has_rows
        self.network, self.known = prepared.split(self._values, like)
        argument = None if prepared.known is None else prepared.known.argument
        if argument in self._values:
            self.known = Known(
                **{
                    "values" if name == "known" else name: x
                    for name, x in self._values[argument].items()
                }
            )
            for name, x in self._values[argument].items():
                if not (x.is_floating_point() or (name == "mask" and x.dtype == torch.bool)):
                    raise ValueError(
                        f"{argument}[{name!r}]: expected numbers of a floating-point dtype"
                        f"{', or bool' * (name == 'mask')}, to which requests write theirs, got "
                        f"{x.dtype}"
                    )

    def write(self, row: int, given: Mapping[str, Any]) -> None:
        """Write a row of the arguments: a request's own, and for others what the batch began with.

        Raises:
            ValueError: naming the argument, before anything is written.
        """
        for name in given:
            if name not in self._values:
                raise ValueError(f"unknown argument {name!r}: {nearest(name, self._values)}")
        writes: list[tuple[Tensor, Tensor]] = []
        for name in self._values:
            own, structure = pytree.tree_flatten(self._values[name])
            taken = [
                x[row] if self._has_rows(name, x, self._rows) else x
                for x in pytree.tree_leaves(self._initial[name])
            ]
            if name in given:
                taken, other = pytree.tree_flatten(given[name])
                if other != structure:
                    raise ValueError(f"{name}: expected the structure {structure}, got {other}")
            for static, x in zip(own, taken, strict=True):
                if not self._has_rows(name, static, self._rows):
                    if name in given:
                        raise ValueError(
                            f"{name}: it has no batch axis of {self._rows}; all rows share it"
                        )
                    continue
                if not isinstance(x, Tensor) or x.shape != static.shape[1:]:
                    expected = tuple(static.shape[1:])
                    found = tuple(x.shape) if isinstance(x, Tensor) else repr(x)
                    raise ValueError(
                        f"{name}: expected a tensor {expected} for one row, got {found}"
                    )
                writes.append((static[row], x))
        for target, x in writes:
            target.copy_(x, non_blocking=True)

    def kept(self, row: int, data: Tensor) -> Tensor:
        """A row's data prediction [...] with what is known of it."""
        if self.known is None:
            return data
        return mixed(data, *[part[row if len(part) > 1 else 0] for part in self.known])


class ServedCalls:
    """The network at times of each row; made once, but each time where guidance joins arguments."""

    def __init__(
        self,
        prepared: Prepared,
        x: Tensor,
        keys: tuple[Tensor, Tensor],
        network: Mapping[str, Any],
        merging: MergedRows | None,
    ) -> None:
        self._prepared, self._x, self._keys = prepared, x, keys
        self._network, self._merging = network, merging
        self._made: NetworkCalls | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": None}

    def at(self, times: tuple[Tensor, ...]) -> NetworkCalls:
        """The calls of one step, as evaluation 0."""
        if self._made is not None:
            self._made.times = [times]
            return self._made
        guidance, merging = self._prepared.guidance, self._merging
        joint = 1 if guidance is None else guidance.joint
        made = NetworkCalls(
            self._prepared.model,
            self._prepared.plan,
            self._x,
            *self._keys,
            [times],
            [tuple([t.repeat(joint) for t in times])] if joint > 1 else (),
            guidance,
            None,
            self._network,
            False,
            lambda: None,
            guided=[guidance is not None],
            merge=None if merging is None else merging.merge,
        )
        self._made = made if guidance is None else None
        return made


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
