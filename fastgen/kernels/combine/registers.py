"""`combine` in C++ for a loop that is not ours: every tensor is new, and some outlive their call.

A step of a diffusers scheduler is such a call. Its caller hands it a sample and a network output
that lie elsewhere each time, gets new tensors back, and expects the scheduler to remember earlier
outputs. `combine.cpp.bind` holds buffers by address and cannot serve it. Here the tensors come with
the call; what it keeps for the next one is in registers, a dict of tensors by number that C++
updates in place. What `describe` makes of a step stays good for as long as shapes and dtypes do.
`follow` goes one further: it finds the step of a scheduler as well, so that Python has no part in
it. Used by `fastgen.integrations.diffusers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.combine.contract import check_combine
from fastgen.kernels.contract import DTYPE_CODES, Noise
from fastgen.kernels.cpp_support import address, key_addresses, readable

# A call brings this many tensors, and register number i is input GIVEN + i.
GIVEN = 4
# A tensor, and whether its memory is ours: free to be written when no register has it any more.
Entry: TypeAlias = "tuple[Tensor, bool]"
Registers: TypeAlias = dict[int, Entry]
# run(registers by input number, free buffers, *given): the new tensors, or None where an input
# does not fit and nothing ran. Registers and free buffers are updated in place.
Step: TypeAlias = Callable[..., "tuple[Tensor, ...] | None"]
# unchanged(vars(object)): whether the attributes that are watched are what they were.
Unchanged: TypeAlias = Callable[[dict[str, object]], bool]
# follow(vars(object), key, timestep, first, second): as a step.
Follow: TypeAlias = Callable[..., "tuple[Tensor, ...] | None"]


def describe(
    like: Tensor,
    source: Sequence[int],
    inputs: list[Tensor],
    made: list[torch.dtype],
    keep: Sequence[tuple[int, int | None]] | None,
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
) -> Step:
    """A `combine` with one table for all rows, checked on these tensors.

    Table and noise are held; draws, which are contiguous, take effect where they are written to.

    Args:
        like: the first given tensor, which new tensors are like; buffers are float64 where it is,
            else float32.
        source: of each input its position among the given, or GIVEN + the number of its register.
        inputs: the tensors there.
        made: dtypes of the outputs that are new tensors; those after them are what ``keep`` has.
        keep: all registers after the call: GIVEN + number, and what it keeps: an input by its
            number as in ``source``, or None for the next output. None in place of the list: the
            call leaves the registers as they are.
        table: contiguous float64 [1, M (+ 1), N (+ 1) + K] on the CPU.
        clip: bounds of the clipped value.
        noise: what the table's last columns draw.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    wide = torch.float64 if like.dtype is torch.float64 else torch.float32
    written = sum(source is None for _, source in keep or ())
    check_combine(inputs, table, made + [wide] * written, clip, noise)
    if table.shape[0] != 1:
        raise ValueError(f"table: expected one for all rows, got {table.shape[0]}")
    described = None
    table = readable(table)
    if noise is not None:
        noise = noise._replace(seeds=readable(noise.seeds), sample_ids=readable(noise.sample_ids))
        keys = key_addresses(*noise[:2], noise.stream)
        described = *keys, address(noise.draws), noise.draws.numel()
    return _C.describe_step(
        empty_like=torch.empty_like,
        thread_count=torch.get_num_threads,
        grad_enabled=torch.is_grad_enabled,
        shape=like.shape,
        source=list(source),
        inputs=[(x.dtype, DTYPE_CODES[x.dtype]) for x in [*inputs, like]],
        made=[(None if kind is like.dtype else kind, DTYPE_CODES[kind]) for kind in made],
        buffers=(wide, DTYPE_CODES[wide]),
        keep=None if keep is None else [(n, -1 if i is None else i) for n, i in keep],
        table=table,
        table_address=address(table),
        clip=clip,
        noise_owner=noise,
        noise=described,
    )


def watch(own: dict[str, object], names: Sequence[str]) -> Unchanged:
    """Attributes of an object as they are now, to tell later whether they still are.

    Compared are the objects and what tensors hold: bytes of contiguous tensors on a CPU up to
    64 KiB, of others how often torch has written to them.

    Args:
        own: vars(object).
        names: of its attributes; also of those that it has not.

    Returns:
        unchanged(vars(object)).
    """
    unchanged: Unchanged = _C.watch(own, list(names))
    return unchanged


def follow(
    unchanged: Unchanged, steps: dict[object, Step], held: Registers, free: list[Entry]
) -> Follow:
    """Steps of an object, found and run in one call: what finding them in Python takes is saved.

    Args:
        unchanged: what `watch` returned for the object: where it says no, nothing runs.
        steps: what `describe` made, by any key; steps may be added.
        held: registers of the steps, updated in place.
        free: buffers of theirs, updated in place.

    Returns:
        follow(vars(object), key, timestep, first, second): what the step returns for these two
        given tensors; None, with nothing run, where there is no such step or the timestep is an
        int.
    """
    return _C.follow(unchanged, steps, held, free)
