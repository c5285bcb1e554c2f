"""A scheduler's step as data: linear forms of the tensors it reads, lowered to one kernel call.

A scheduler writes the mathematics of a step as an `Update`. A `FusedStep` is what is made of it:
the numbers of the tensors it reads, the table of coefficients, and the call of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fastgen.common.transforms import outside_transforms
from fastgen.plans.forms import Form, Value

# What a step may read, by number. From FIRST_REGISTER on: what earlier steps kept, in registers.
SAMPLE, OUTPUT, DATA, NOISE = range(4)
FIRST_REGISTER = 4

# call(registers, free buffers, state, output, data, noise): the results, or None where the tensors
# are not those it was prepared for, and nothing ran.
Call: TypeAlias = Callable[..., "tuple[Tensor, ...] | None"]
# The data prediction as it enters the step: as it is, clipped, or through a function of a tensor.
Transform: TypeAlias = tuple[float, float] | Literal["threshold"] | None


def symbol(index: int) -> Form:
    """The tensor with this index as a form."""
    return Form({Value(index): 1.0})


x, out, data, noise = (symbol(i) for i in (SAMPLE, OUTPUT, DATA, NOISE))
r = [symbol(FIRST_REGISTER + i) for i in range(16)]  # registers r[0], r[1], ...


@dataclass(frozen=True)
class Update:
    """What one step computes.

    Attributes:
        sample: the next state.
        raw: the data prediction before the transform. In every other form ``data`` stands for it
            afterwards.
        returned: a second result.
        keep: register number -> form, all that the next steps may read.
        draws: the step takes noise from the caller's generator, even if no form reads it.
    """

    sample: Form
    raw: Form | None = None
    returned: Form | None = None
    keep: Mapping[int, Form] = field(default_factory=dict)
    draws: bool = False


class FusedStep:
    """An `Update` as one `combine`: which tensors in which order, the table, and the call.

    Attributes:
        inputs: numbers of the tensors it reads.
        keep: (register, number of the tensor it takes over, or None if the kernel writes it).
        draws: whether the caller's generator is asked for noise.
        in_kernel: whether the kernel makes the noise.
        data_step: computes the data prediction before a "threshold", which is read here as DATA.
        moves_registers: False for such a data_step, which leaves the registers as they are.
        call: the kernel's call, prepared for tensors of one layout.
        bound_to: the run's binding for which the call is good.
        direct_for: the same, where the call needs state and output only: no noise is to be drawn
            before it and nothing is to be thresholded.
    """

    def __init__(
        self, update: Update, transform: Transform, contract: bool, moves_registers: bool = True
    ) -> None:
        self.moves_registers = moves_registers
        forms = [update.sample]
        if update.returned is not None:
            forms.append(update.returned)
        self.returns = update.returned is not None
        self.draws = update.draws
        self.data_step: FusedStep | None = None
        self.clip = transform if isinstance(transform, tuple) else None
        reads = {s for f in (*forms, *update.keep.values()) for s in f.terms}
        if update.raw is None or Value(DATA) not in reads:
            self.clip = None
        elif transform is None:
            raw = update.raw
            update = Update(
                _substitute(update.sample, raw),
                keep={k: _substitute(f, raw) for k, f in update.keep.items()},
            )
            forms = [update.sample, *(_substitute(f, raw) for f in forms[1:])]
        elif transform == "threshold":
            assert update.raw is not None
            self.data_step = FusedStep(Update(update.raw), None, contract, moves_registers=False)
        keep: list[tuple[int, int | None]] = []
        for register, form in update.keep.items():
            source = _renamed(form)
            if (source == DATA and self.clip is not None) or (source == NOISE and contract):
                source = None  # the kernel must write it: it has no tensor yet
            if source is None:
                forms.append(form)
            keep.append((FIRST_REGISTER + register, source))
        self.keep = tuple(keep)
        self.written = sum(source is None for _, source in keep)

        clipped = [] if self.clip is None or update.raw is None else [update.raw]
        read = {s.index for f in forms + clipped for s in f.terms if isinstance(s, Value)}
        if self.clip is not None:
            read.discard(DATA)
        self.in_kernel = contract and NOISE in read
        if self.in_kernel:
            read.discard(NOISE)
        self.inputs = tuple(sorted(read)) or (SAMPLE,)
        columns = [*self.inputs, *([DATA] if clipped else []), *([NOISE] if self.in_kernel else [])]
        self.table = torch.tensor(
            [[[f.terms.get(Value(c), 0.0) for c in columns] for f in clipped + forms]],
            dtype=torch.float64,
            device="cpu",
        )
        self.call: Call = _unprepared
        self.bound_to: object = None
        self.direct_for: object = None
        self._tables: dict[torch.device, Tensor] = {}

    @property
    def outputs(self) -> int:
        """How many tensors the step computes."""
        return 1 + self.returns + self.written

    @outside_transforms
    def table_on(self, device: torch.device) -> Tensor:
        """The table on a device; it is sent once, without waiting for the device."""
        if device.type == "cpu":
            return self.table
        if device not in self._tables:
            source = self.table.pin_memory() if device.type == "cuda" else self.table
            self._tables[device] = source.to(device, non_blocking=True)
        return self._tables[device]


def _unprepared(*_: object) -> None:
    """The call of a step that was not yet prepared."""


def _substitute(form: Form, raw: Form) -> Form:
    weight = form.terms.get(Value(DATA), 0.0)
    rest = Form({s: c for s, c in form.terms.items() if s != Value(DATA)})
    return rest + weight * raw


def _renamed(form: Form) -> int | None:
    """The tensor that the form is, if it is just that."""
    if len(form.terms) == 1:
        ((s, c),) = form.terms.items()
        if c == 1.0 and isinstance(s, Value):
            return s.index
    return None
