"""A whole sampling run as one CUDA graph that can be replayed with other inputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.checks import check_sizes
from fastgen.common.devices import Turns
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.common.graphs import Recording, recorded, warm_up
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import check_untraced
from fastgen.common.typed import typed
from fastgen.model.guidance import Guidance
from fastgen.model.model import merged
from fastgen.model.scales import check_scale
from fastgen.plans import Plan
from fastgen.plans.forms import Computed
from fastgen.sampling.network_calls import TimeTables
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.run import BufferKey, InPlaceRun, kind_of_known
from fastgen.sampling.tables import Tables


class StaticArguments:
    """Keyword arguments of a network whose tensors lie in memory that stays.

    Args:
        arguments: tensors, also inside of lists, tuples and dictionaries, are copied; everything
            else is kept as it is.
        device: where the copies are.
    """

    def __init__(self, arguments: Mapping[str, Any], device: torch.device) -> None:
        with torch.inference_mode(False):  # to be written to in whatever mode
            self.values = {
                name: pytree.tree_map_only(
                    Tensor, lambda x: x.detach().to(device, copy=True).contiguous(), value
                )
                for name, value in arguments.items()
            }

    def load(self, arguments: Mapping[str, Any]) -> None:
        """Copy tensors into place; those left out keep their values.

        Raises:
            TypeError: for an argument that the capture did not have.
            ValueError: for a tensor of another shape or dtype, or another value of something that
                is not a tensor.
        """
        for name, value in arguments.items():
            if name not in self.values:
                raise TypeError(
                    f"unknown argument {name!r} of the captured network: "
                    f"{nearest(name, self.values)}"
                )
            given, structure = pytree.tree_flatten(value)
            own, expected = pytree.tree_flatten(self.values[name])
            if structure != expected:
                raise ValueError(f"{name}: expected the structure {expected}, got {structure}")
            for x, static in zip(given, own, strict=True):
                self._copy(name, x, static)

    @staticmethod
    def _copy(name: str, x: Any, static: Any) -> None:
        if not isinstance(static, Tensor):
            if isinstance(x, Tensor) or x != static:
                raise ValueError(
                    f"{name}: {static!r} is built into the capture, got {x!r}; make another"
                )
        elif not isinstance(x, Tensor) or x.shape != static.shape or x.dtype != static.dtype:
            found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)
            raise ValueError(
                f"{name}: expected a tensor {static.dtype} {tuple(static.shape)} as at the "
                f"capture, got {found}"
            )
        else:
            static.copy_(x, non_blocking=True)


class _Recorded(NamedTuple):
    """What a graph works on, and the graph."""

    run: InPlaceRun
    tables: Tables
    times: TimeTables
    signature: tuple[object, ...]
    recording: Recording


@displayed
class Captured:
    """One recorded run of a sampler; made by `Sampler.capture`.

    ``captured(seed=7)`` gives what the sampler gives for the captured shape and this seed, bit
    for bit. Not to be called from two threads at once. A copy has memory of its own and is
    recorded when it is first used.

    Attributes:
        graphed: whether it is a CUDA graph; otherwise the run is repeated eagerly, on the same
            memory.
        prepared: the model and plan that it runs, which `exchange` replaces.
    """

    def __init__(
        self,
        prepared: Prepared,
        shape: Sequence[int],
        device: torch.device,
        warmup: int,
        net_kwargs: dict[str, Any],
    ) -> None:
        self.prepared, self._warmup = prepared.quickest, warmup
        self._shape, self._device = check_sizes("shape", shape), device
        self._arguments = StaticArguments(net_kwargs, device)
        self._turns = Turns(device)
        self._made: _Recorded | None = None
        self._recorded()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": None}

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.prepared.facts()
        facts |= {"shape": self._shape, "device": self._device}
        facts |= {"arguments": self._arguments.values} if self._arguments.values else {}
        made = self._made  # a copy is recorded when it is used, not when it is looked at
        graphed = "when it is used" if made is None else made.recording.graphed
        return {**facts, "graphed": graphed}

    def __copy__(self) -> Captured:
        """Of the same model and plan, with arguments of its own."""
        return copy.deepcopy(self, {id(self.prepared): self.prepared})

    def _recorded(self) -> _Recorded:
        """The recording, made now if this is the first use of a copy."""
        if self._made is not None:
            return self._made
        prepared, device = self.prepared, self._device
        x, seeds, ids = prepared.initial(torch.zeros(self._shape, device="cpu"), 0, None, device)
        arguments, known = prepared.split(self._arguments.values, x)
        # A seed for every sample: one for all is then a special case.
        kind = x.shape[0], False, False, kind_of_known(known, x), prepared.channels_last
        key = BufferKey(tuple(x.shape), x.device, prepared.dtypes, *kind, prepared.weighs)
        tables = prepared.new_tables(device)
        times = prepared.new_time_tables(x.shape[0], device)
        run = InPlaceRun(prepared.program(), tables, key, prepared.backend)

        def work() -> None:
            state, seeds, ids = run.slots[0], run.seeds, run.ids
            calls = prepared.network_calls(state, seeds, ids, arguments, tables=times)
            for k in range(-1, prepared.plan.nfe):
                run.advance(k, calls)

        def start() -> None:
            run.start(x, seeds, ids, False, known)
            work()

        with unrecorded(prepared.model.net):
            refused = warm_up(start, device, self._warmup)
            recording = recorded(work, device, "sampling loop", refused)
        self._made = _Recorded(run, tables, times, signature(prepared, times.path), recording)
        return self._made

    @property
    def graphed(self) -> bool:
        """Whether a graph is replayed."""
        return self._recorded().recording.graphed

    def __call__(
        self,
        x: Tensor | None = None,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        data: Tensor | None = None,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Draw a batch of the captured shape.

        Args:
            x: the initial state [B, ...]; the default is drawn from the seed.
            seed, sample_ids, data: as in `Sampler.__call__`.
            net_kwargs, **kwargs: tensors of the shapes they had at the capture, which replace
                those; arguments that are left out keep their last values.

        Returns:
            The sample [B, ...], in new memory.

        Raises:
            ValueError: for an argument of another shape than at the capture.
        """
        given = {"x": x, "data": data, "net_kwargs": (net_kwargs, kwargs)}
        check_untraced("a captured run", "use the Sampler", **given)
        self._turns.take()
        made = self._recorded()
        run, shape = made.run, made.run.key.shape
        if x is not None and tuple(x.shape) != shape:
            raise ValueError(f"x: expected shape {shape} as at the capture, got {tuple(x.shape)}")
        keys = seed, sample_ids, run.key.device
        start = self.prepared.initial(shape if x is None else x, *keys, data)
        self._arguments.load(merged(net_kwargs, kwargs))
        known = self.prepared.split(self._arguments.values, start[0])[1]
        with unrecorded(self.prepared.model.net):
            run.start(*start, False, known)
            made.recording.replay()
        return run.finish()

    @typed
    def exchange(self, plan: Plan | None = None, *, scale: float | Tensor | None = None) -> None:
        """Sample by another plan, or with another guidance scale, from the next call on.

        Only numbers are replaced: coefficients, draw ids and times.

        Args:
            plan: of the captured plan's structure: the same solver and number of steps on another
                time grid, say.
            scale: one number or one per sample, as at the capture.

        Raises:
            ValueError: if the graph has something built in that would be another.
        """
        self._turns.take()
        old, made = self.prepared, self._recorded()
        guidance = old.guidance
        if scale is not None:
            guidance = _rescaled(guidance, scale)
        new = old.with_plan(old.plan if plan is None else plan, guidance)
        times = new.new_time_tables(made.run.key.shape[0], self._device)
        if signature(new, times.path) != made.signature:
            raise ValueError(
                f"plan: {new.plan.solver!r} with {new.plan.nfe} evaluations does not fit the "
                f"captured {old.plan.solver!r} with {old.plan.nfe}: its stages, its clipping, what "
                "is guided, or numbers that are not in tables (see Sampler.capture) differ; "
                "capture it on its own"
            )
        made.tables.load(new.new_tables(self._device))
        made.times.load(times)
        self.prepared = new


def _rescaled(guidance: Guidance | None, scale: float | Tensor) -> Guidance:
    if guidance is None:
        raise ValueError("scale: the captured sampler has no guidance")
    check_scale("scale", scale)
    if isinstance(scale, Tensor) != isinstance(guidance.scale, Tensor) or (
        isinstance(scale, Tensor)
        and isinstance(guidance.scale, Tensor)
        and scale.shape != guidance.scale.shape
    ):
        raise ValueError(
            f"scale: expected one like {guidance.scale!r} at the capture, got {scale!r}"
        )
    return replace(guidance, scale=scale)


def signature(prepared: Prepared, path: Any) -> tuple[object, ...]:
    """All that a graph of the run has built in, beside the network.

    Coefficients, times and draws lie in tables. Transforms, guidance that merges outputs and
    inputs computed from the data get times, scales and variances as plain numbers.
    """
    program, guidance, plan = prepared.program(), prepared.guidance, prepared.plan
    computed = any(isinstance(i, Computed) for s in program.stages if s for i in s.inputs)
    built_in: list[object] = []
    if prepared.transform is not None or computed:
        built_in += [e.time for e in plan.evaluations]
    if guidance is not None:
        built_in += [guidance.active(e.time) for e in plan.evaluations]
        if guidance.merges or prepared.transform is not None or computed:
            built_in += [id(s) if isinstance(s, Tensor) else s for s in guidance.scales]
            built_in += [e.time for e in plan.evaluations] if guidance.merges else []
    structure = None if path is None else path.structure
    return program.signature(), tuple(built_in), structure
