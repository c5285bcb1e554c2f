"""What a scheduler holds on one grid between two steps, and how a step runs on given tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from fastgen.common.checks import check_number, check_tensor
from fastgen.common.transforms import transforming
from fastgen.integrations.diffusers.contract_noise import ContractNoise, Generators
from fastgen.integrations.diffusers.fused_step import FIRST_REGISTER, Call, FusedStep
from fastgen.integrations.diffusers.tables import HostTable, host, watch
from fastgen.kernels import dispatch
from fastgen.kernels.combine.operator import combine
from fastgen.kernels.contract import compute_dtype
from fastgen.plans.forms import Form

# Dtype of the next state: that of the model's output, of the sample, or what both promote to.
ResultDtype: TypeAlias = Literal["output", "sample", "promoted"]
# A register: the tensor, and whether it is a buffer of ours, to be written again once it is free.
Register: TypeAlias = "tuple[Tensor, bool]"
# State, output, data prediction and noise of a step.
StepInputs: TypeAlias = "tuple[Tensor | None, ...]"
# Floating dtypes that timesteps are rounded to when a pipeline casts them to its network's.
ROUNDED = frozenset(
    d
    for d in vars(torch).values()
    if isinstance(d, torch.dtype) and d.is_floating_point and d.itemsize < 4
)


class SchedulerRun:
    """Steps, history and noise of one scheduler on one grid of timesteps.

    Attributes:
        steps: the fused steps by key. A key says all that a step's coefficients depend on.
        direct_calls: the calls of those that need state and output only, by the same keys. C++
            looks them up without Python.
        registers: what steps keep for later ones, by number from FIRST_REGISTER on.
        free_buffers: memory of ours that no register has any more.
        binding: stands for the tensors that prepared calls hold by address. When those are
            replaced it is too, and the calls are prepared again.
        data: the data prediction after "threshold".
        tables: host numbers of timesteps, sigmas and the scheduler's other tables of a grid.
        unchanged: whether vars(scheduler) has all that steps depend on as this run read it.
        positions: of each timestep the first and the second position, which may be the same.

    Args:
        own: vars(scheduler).
        names: the tables of the grid.
        others: what steps depend on besides.
    """

    def __init__(self, own: dict[str, Any], names: Sequence[str], others: Iterable[str]) -> None:
        self.made_of = tuple(names), tuple(others)
        names = ("timesteps", "sigmas", *names)
        self.own = {name: own.get(name) for name in ("_internal_dict", *names, *others)}
        self.unchanged = watch(own, self.own)
        self.config = own["_internal_dict"]
        self.tables: dict[str, HostTable] = {name: host(own.get(name)) for name in names}
        self.timesteps: Tensor | None = own["timesteps"]
        self.host_timesteps: list[float] = self.table("timesteps")
        self.host_sigmas: list[float] = self.table("sigmas")
        floating = self.timesteps is not None and self.timesteps.is_floating_point()
        self.floating = self.timesteps.dtype if floating and self.timesteps is not None else None
        self.positions: dict[float, tuple[int, int]] = {}
        for i, t in enumerate(self.host_timesteps):
            first, second = self.positions.get(t, (i, i))
            self.positions[t] = first, i if second == first else second
        self.roundings: dict[torch.dtype, dict[float, list[float]]] = {}
        self.steps: dict[Any, FusedStep] = {}
        self.direct_calls: dict[Any, Call] = {}
        self.contract: ContractNoise | None = None
        self.registers: dict[int, Register] = {}
        self.free_buffers: list[Register] = []
        self.binding = object()
        self.data: Tensor | None = None

    def table(self, name: str) -> list[float]:
        """A table of the grid as host numbers."""
        found = self.tables[name]
        return found if isinstance(found, list) else [found]

    def number(self, name: str) -> float:
        """A table of one number.

        Raises:
            ValueError: if it has more.
        """
        found = self.tables[name]
        if isinstance(found, list):
            if len(found) != 1:
                raise ValueError(f"scheduler.{name}: expected one number, got {len(found)}")
            found = found[0]
        return float(found)

    def sigmas_at(self, k: int) -> tuple[float, float]:
        """The sigmas that step k goes between.

        Raises:
            IndexError: after the last step of the grid.
        """
        if not 0 <= k < len(self.host_sigmas) - 1:
            raise IndexError(
                f"step_index={k}: scheduler.sigmas has {len(self.host_sigmas) - 1} steps; call "
                "set_timesteps before another run"
            )
        return self.host_sigmas[k], self.host_sigmas[k + 1]

    def __reduce__(self) -> Any:
        """Copies and pickles: tables and layouts, which hold addresses, are made again."""
        # Buffers of ours are written again: a shallow copy has none of them.
        held = {k: v.clone() if own else v for k, (v, own) in self.registers.items()}
        return _restored, (self.own, *self.made_of, held, self.contract)

    def index(self, timestep: float | Tensor) -> int | None:
        """Position of a timestep in the grid; the second of several, as diffusers has it.

        Raises:
            ValueError: see `value`.
        """
        found = self.positions.get(self.value(timestep))
        return None if found is None else found[1]

    def value(self, timestep: float | Tensor, k: int | None = None) -> float:
        """The timestep as a number.

        A view into ``scheduler.timesteps``, which is what loops over it give, is placed by its
        offset; only another tensor on a device must be read from there. One in a 16-bit dtype is
        the timestep that is rounded to it.

        Args:
            timestep: a number, or a tensor with one element.
            k: the step's position, where it is known.

        Raises:
            ValueError: for a tensor of several, or if more than one timestep is rounded to it.
        """
        if not isinstance(timestep, Tensor):
            return (
                timestep if type(timestep) in (int, float) else check_number("timestep", timestep)
            )
        grid = self.timesteps
        if (
            not timestep.is_cpu
            and grid is not None
            and timestep.device == grid.device
            and timestep.untyped_storage().data_ptr() == grid.untyped_storage().data_ptr()
        ):
            return self.host_timesteps[timestep.storage_offset() - grid.storage_offset()]
        if timestep.dtype in ROUNDED:
            return self._unrounded(timestep, k)
        if timestep.numel() != 1:
            raise ValueError(
                f"timestep: expected one number, got a tensor of shape {tuple(timestep.shape)}; "
                "a step takes all samples from one timestep to the next"
            )
        return timestep.item()

    def _unrounded(self, timestep: Tensor, k: int | None) -> float:
        """The timestep of the grid that is this one in its dtype."""
        number, dtype = timestep.item(), timestep.dtype
        if dtype not in self.roundings:
            rounded = (
                torch.tensor(self.host_timesteps, dtype=torch.float64, device="cpu")
                .to(dtype)
                .tolist()
            )
            table: dict[float, list[float]] = {}
            for own, at in zip(self.host_timesteps, rounded, strict=True):
                same = table.setdefault(at, [])
                if own not in same:
                    same.append(own)
            self.roundings[dtype] = table
        found = self.roundings[dtype].get(number, [])
        if k is not None and k < len(self.host_timesteps) and self.host_timesteps[k] in found:
            return self.host_timesteps[k]
        if len(found) == 1:
            return found[0]
        if not found and abs(number) * torch.finfo(dtype).eps < 2 and number == int(number):
            return number  # whole numbers of this size are not rounded
        what = f"{len(found)} of" if found else "none of"
        raise ValueError(
            f"timestep={number} in {dtype}: {what} scheduler.timesteps are rounded to it; give "
            "step the timesteps as they are and cast only what the network is given"
        )

    def use_contract(self, generator: Generators, output: Tensor, draw: int) -> None:
        """Set what the kernels draw next."""
        assert self.contract is not None
        if self.contract.use(generator, output.shape[0], output.device, draw):
            self.binding = object()

    def holds(self, register: int) -> bool:
        """Whether a register has a value."""
        return FIRST_REGISTER + register in self.registers

    def advance(
        self,
        step: FusedStep,
        kind: ResultDtype,
        sample: Tensor,
        output: Tensor,
        z: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Run a step: the next state and perhaps a second result; registers change as it says.

        z: what the step reads as noise.
        """
        given: StepInputs = (sample, output, self.data, z)
        if transforming():
            return self._general(step, kind, given)
        if step.bound_to is self.binding:
            results = step.call(self.registers, self.free_buffers, *given)
            if results is not None:
                return results
        for name, tensor in (("sample", sample), ("model_output", output)):
            check_tensor(name, tensor)
        # A network may return a transposed view in every step, as lerobot's does.
        given = tuple([t if t is None or t.is_contiguous() else t.contiguous() for t in given])
        if step.bound_to is self.binding:
            results = step.call(self.registers, self.free_buffers, *given)
            if results is not None:
                return results
        if self._prepare(step, kind, given):
            results = step.call(self.registers, self.free_buffers, *given)
            if results is not None:
                return results
        return self._general(step, kind, given)

    def _tensors(self, step: FusedStep, given: StepInputs) -> list[Tensor]:
        found = [self.registers[i][0] if i >= FIRST_REGISTER else given[i] for i in step.inputs]
        return [t for t in found if t is not None]

    def _prepare(self, step: FusedStep, kind: ResultDtype, given: StepInputs) -> bool:
        """Give the step a call for tensors laid out like these, if C++ can run them."""
        tensors, sample = self._tensors(step, given), given[0]
        assert sample is not None
        # C++ keeps registers in float32, or in float64 for a float64 sample: no other tensor may be
        # float64 where the sample is not.
        plain = sample.ndim > 0 and all(
            t.__class__ is Tensor
            and t.is_cpu
            and t.is_contiguous()
            and not t.requires_grad
            and t.shape == sample.shape
            and (t.dtype is torch.float64) <= (sample.dtype is torch.float64)
            for t in [sample, *tensors]
        )
        describe = dispatch.load("combine_registers", dispatch.choose(sample.device))
        if not plain or describe is None:
            return False
        step.call = describe(
            sample,
            step.inputs,
            tensors,
            _dtypes(step, kind, tensors, given)[: 1 + step.returns],
            step.keep if step.moves_registers else None,
            step.table,
            step.clip,
            self.contract.noise if step.in_kernel and self.contract is not None else None,
        )
        step.bound_to = self.binding
        step.direct_for = None if step.draws or step.data_step is not None else self.binding
        return True

    def _general(self, step: FusedStep, kind: ResultDtype, given: StepInputs) -> tuple[Tensor, ...]:
        """The same by the operator: any device, any strides, differentiable."""
        tensors = self._tensors(step, given)
        found: dict[int, Any] = dict(enumerate(given))
        found |= {k: t for k, (t, _) in self.registers.items()}
        results = combine(
            tensors,
            step.table_on(tensors[0].device),
            _dtypes(step, kind, tensors, given),
            clip=step.clip,
            noise=self.contract.noise if step.in_kernel and self.contract is not None else None,
        )
        if step.moves_registers:
            written = iter(results[1 + step.returns :])
            kept = {k: next(written) if i is None else found[i] for k, i in step.keep}
            self.registers.clear()  # not a new dict: C++ holds this one
            self.registers.update((k, (t, False)) for k, t in kept.items())
        return tuple(results[: 1 + step.returns])


def _dtypes(
    step: FusedStep, kind: ResultDtype, tensors: list[Tensor], given: StepInputs
) -> list[torch.dtype]:
    sample, output = given[:2]
    assert sample is not None
    assert output is not None
    wide = compute_dtype([sample.dtype, *(t.dtype for t in tensors)])
    return [resolved_dtype(kind, sample, output)] + [wide] * (step.outputs - 1)


def index_of(timestep: float | Tensor) -> int | None:
    """A timestep that is a training index on the host: an int, or an int64 tensor of no axes."""
    if timestep.__class__ is not Tensor:
        return timestep if timestep.__class__ is int else None
    if timestep.dtype is not torch.int64 or timestep.ndim or not timestep.is_cpu:
        return None
    return timestep.item()  # type: ignore[return-value]


def resolved_dtype(kind: torch.dtype | ResultDtype, sample: Tensor, output: Tensor) -> torch.dtype:
    """The dtype that a kind stands for."""
    if kind == "output":
        return output.dtype
    if kind == "sample":
        return sample.dtype
    if kind == "promoted":
        return torch.promote_types(sample.dtype, output.dtype)
    return kind


def _restored(
    own: dict[str, Any],
    names: Sequence[str],
    others: Iterable[str],
    held: dict[int, Tensor],
    contract: ContractNoise | None,
) -> SchedulerRun:
    run = SchedulerRun(own, names, others)
    run.registers = {k: (v, False) for k, v in held.items()}
    run.contract = contract
    return run


def distinct(nodes: list[float], values: list[Form]) -> tuple[list[float], list[Form]]:
    """The nodes without those that come again, newest first, and their values.

    A grid may have a level twice: the step between the two goes nowhere, and of the values there,
    which are one, the newest is kept. Differences of them would divide by zero.
    """
    first = dict(reversed(list(zip(nodes, values, strict=True))))
    kept = list(dict.fromkeys(nodes))
    return kept, [first[node] for node in kept]
