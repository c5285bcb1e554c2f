"""Instructions that move values: between registers, from arguments, from and to memory."""

import re

import numpy as np

from tests.ptx.values import DTYPES, bits_of

MOVEMENT = {}  # {name: function of a machine and operands}
NUMBERS = {"": 1, ".v2": 2, ".v4": 4}


def _add(name, function):
    MOVEMENT[name] = function


def address(machine, operand, kind):
    """`[register + offset]` for each active lane, int64."""
    register, offset = re.match(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand).groups()
    base = machine.get(register, kind).astype("i8")
    return machine.spread(base + (int(offset, 0) if offset else 0))


def _listed(operand):
    return operand if isinstance(operand, list) else [operand]


def _move(kind):
    def function(machine, operands):
        target, source = operands
        if isinstance(target, list):  # unpacked, lowest bits first
            part = bits_of(kind) // len(target)
            values = machine.get(source, kind)
            for i, register in enumerate(target):
                shifted = values >> values.dtype.type(part * i)
                machine.put(register, shifted.astype(f"u{part // 8}"))
        elif isinstance(source, list):
            part, whole = bits_of(kind) // len(source), DTYPES[kind].type
            total = np.zeros(1, whole)
            for i, register in enumerate(source):
                values = machine.get(register, f"u{part}").astype(whole)
                total = total | (values << whole(part * i))
            machine.put(target, total)
        else:
            machine.put(target, machine.get(source, kind).copy())

    return function


for kind in ("b16", "b32", "b64", "u16", "u32", "u64", "s32", "s64", "f32", "f64", "pred"):
    _add(f"mov.{kind}", _move("b" + kind[1:] if kind != "pred" else kind))


def _load_argument(kind):
    def function(machine, operands):
        target, name = operands
        value = machine.arguments[machine.program.parameters[name.strip("[] ")]]
        bits = int(value) & ((1 << bits_of(kind)) - 1)
        machine.put(target, np.array([bits], f"u{DTYPES[kind].itemsize}").view(DTYPES[kind]))

    return function


def _load_global(kind, count):
    def function(machine, operands):
        at = address(machine, operands[1], "u64")
        for register, row in zip(
            _listed(operands[0]), machine.memory.load(at, DTYPES[kind], count), strict=True
        ):
            machine.put(register, row)

    return function


def _store_global(kind, count):
    def function(machine, operands):
        values = [machine.spread(machine.get(x, kind)) for x in _listed(operands[1])]
        assert len(values) == count
        machine.memory.store(address(machine, operands[0], "u64"), values, DTYPES[kind])

    return function


def _load_shared(kind, count):
    def function(machine, operands):
        at = address(machine, operands[1], "u32")
        memory, places = machine.shared.places(at, machine.blocks, DTYPES[kind], count)
        for k, register in enumerate(_listed(operands[0])):
            machine.put(register, memory[places + k])

    return function


def _store_shared(kind, count):
    def function(machine, operands):
        at = address(machine, operands[0], "u32")
        memory, places = machine.shared.places(at, machine.blocks, DTYPES[kind], count)
        for k, register in enumerate(_listed(operands[1])):
            memory[places + k] = machine.get(register, kind)

    return function


for kind in (
    "b8",
    "u8",
    "s8",
    "b16",
    "u16",
    "s16",
    "b32",
    "u32",
    "s32",
    "f32",
    "b64",
    "u64",
    "s64",
    "f64",
):
    _add(f"ld.param.{kind}", _load_argument(kind))
    for form, count in NUMBERS.items():
        if bits_of(kind) * count > 128:
            continue
        _add(f"ld.global{form}.{kind}", _load_global(kind, count))
        _add(f"st.global{form}.{kind}", _store_global(kind, count))
        _add(f"ld.shared{form}.{kind}", _load_shared(kind, count))
        _add(f"st.shared{form}.{kind}", _store_shared(kind, count))


def _atomic_add(kind):
    """Lanes one after another: each gets what the lanes before it have left."""

    def function(machine, operands):
        target, where, value = operands
        dtype = DTYPES[kind]
        at = address(machine, where, "u64")
        values = machine.spread(machine.get(value, kind))
        memory, found = machine.memory, np.empty(at.size, dtype)
        for lane in range(at.size):
            one = at[lane : lane + 1]
            found[lane] = memory.load(one, dtype, 1)[0, 0]
            memory.store(one, [found[lane : lane + 1] + values[lane]], dtype)
        machine.put(target, found)

    return function


for kind in ("u32", "s32", "u64"):
    _add(f"atom.global.gpu.acq_rel.add.{kind}", _atomic_add(kind))


def _copy(machine, operands):
    """`cp.async`: of `size` bytes the first `count` come from global memory, the rest are zeros."""
    size = int(operands[2], 0)
    at, dtype = address(machine, operands[1], "u64"), np.dtype("u4")
    memory, places = machine.shared.places(
        address(machine, operands[0], "u32"), machine.blocks, dtype, size // 4
    )
    given = machine.get(operands[3], "u32") if len(operands) > 3 else np.full(1, size, "u4")
    given = machine.spread(given)
    for k in range(size // 4):
        values = np.zeros(at.size, dtype)
        full = given > 4 * k
        if full.any():
            values[full] = machine.memory.load(at[full], dtype, size // 4)[k]
        memory[places + k] = values


def _nothing(machine, operands):
    """Waits for copies that are done as soon as they are begun."""


_add("cp.async.ca.shared.global", _copy)
_add("cp.async.cg.shared.global", _copy)
_add("cp.async.commit_group", _nothing)
_add("cp.async.wait_group", _nothing)
