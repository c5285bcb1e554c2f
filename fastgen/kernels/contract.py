"""What all implementations of the kernels share: limits, dtypes and the description of noise."""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

# Limits of one `combine` call. Order-8 multistep methods and 13-stage tableaus fit.
MAX_INPUTS, MAX_OUTPUTS, MAX_NOISES = 24, 8, 8

# Codes by which csrc knows the dtypes it reads and writes.
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Stream(IntEnum):
    """Families of draws that must never share numbers (counter word 3, bits 0..7).

    128 and above belong to Brownian motions, one to each tree id.
    """

    INITIAL = 0
    SOLVER = 1
    TRAINING = 2
    PROBE = 3
    PLAN = 4
    USER = 5
    TIME = 6


# The virtual Brownian tree: levels of bisection, the first of its streams, and their number.
BROWNIAN_DEPTH = 24
BROWNIAN_STREAM, BROWNIAN_TREES = 128, 128
# Added to a node's draw id for the second normal of its space-time Levy area.
AREA_NODES = 2**31


class Noise(NamedTuple):
    """Which standard normals a kernel call draws.

    seeds: int64 [1] or [rows], the keys; sample_ids: int64 [rows]; draws: int64 [K], one draw id
    per noise column of the coefficient table, or [rows, K] for rows at different steps of their
    runs; stream: the family of draws.
    """

    seeds: Tensor
    sample_ids: Tensor
    draws: Tensor
    stream: int = Stream.SOLVER

    @property
    def noises(self) -> int:
        """K, the number of draws of each row."""
        return self.draws.shape[-1]


# The functions of time of which a path's coefficients may be sums: 1, t, r = sqrt(t (1 - t)), its
# derivative (1 - 2 t) / (2 r), and 1 / r.
FEATURES = 5
# Outputs of one `bridge` call; its terms are x0, x1 and a normal.
MAX_TARGETS, TERMS = 6, 3


class Sampling(IntEnum):
    """How the times of one batch hang together.

    INDEPENDENT: every row draws its own. STRATIFIED: row b of B draws from the b-th of B equal
    shares of the probability. ANTITHETIC: rows 2 k and 2 k + 1 take u and 1 - u.
    """

    INDEPENDENT = 0
    STRATIFIED = 1
    ANTITHETIC = 2


class Clock(NamedTuple):
    """The distribution of times: quantiles float64 [K + 1], Q(k / K), never falling."""

    quantiles: Tensor
    sampling: int = Sampling.INDEPENDENT


def compute_dtype(dtypes: list[torch.dtype]) -> torch.dtype:
    """Arithmetic is float64 if any operand is, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def check_combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    clip: tuple[float, float] | None,
    noise: Noise | None,
) -> None:
    """Raise a ValueError that names the argument where a `combine` call is malformed."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise ValueError(f"inputs: expected 1 to {MAX_INPUTS} tensors, got {len(inputs)}")
    if not 1 <= len(dtypes) <= MAX_OUTPUTS:
        raise ValueError(f"dtypes: expected 1 to {MAX_OUTPUTS} outputs, got {len(dtypes)}")
    first = inputs[0]
    for i, x in enumerate(inputs):
        if x.shape != first.shape or x.ndim == 0:
            raise ValueError(
                f"inputs[{i}]: expected shape {tuple(first.shape)} like inputs[0], with a batch "
                f"axis, got {tuple(x.shape)}"
            )
        if x.device != first.device:
            raise ValueError(f"inputs[{i}]: expected device {first.device}, got {x.device}")
    for name, kinds in (("inputs", [x.dtype for x in inputs]), ("dtypes", dtypes)):
        for i, kind in enumerate(kinds):
            if kind not in DTYPE_CODES:
                raise ValueError(f"{name}[{i}]: expected one of {list(DTYPE_CODES)}, got {kind}")
    noises = 0 if noise is None else noise.noises
    if noises > MAX_NOISES:
        raise ValueError(f"noise.draws: expected at most {MAX_NOISES} draws, got {noises}")
    rows = first.shape[0]
    clipped = clip is not None
    shape = (len(dtypes) + clipped, len(inputs) + clipped + noises)
    if (
        table.ndim != 3
        or tuple(table.shape[1:]) != shape
        or table.shape[0] not in (1, rows)
        or table.dtype != torch.float64
    ):
        raise ValueError(
            f"table: expected float64 [1 or {rows}, {shape[0]}, {shape[1]}], "
            f"got {table.dtype} {list(table.shape)}"
        )
    if table.device != first.device:
        raise ValueError(f"table: expected device {first.device}, got {table.device}")
    if clip is not None and not clip[0] <= clip[1]:
        raise ValueError(f"clip: expected low <= high, got {clip}")
    if noise is not None:
        check_noise(noise, rows, first.device)


def check_bound(
    inputs: list[Tensor | None],
    outputs: list[Tensor],
    table: Tensor,
    noise: Noise | None,
    device: torch.device,
) -> None:
    """Raise a ValueError that names a tensor which cannot be held by address on the device."""
    named = {"table": table}
    named |= {f"inputs[{i}]": x for i, x in enumerate(inputs) if x is not None}
    named |= {f"outputs[{j}]": y for j, y in enumerate(outputs)}
    if noise is not None:
        named |= {f"noise.{name}": getattr(noise, name) for name in noise._fields[:3]}
    for name, tensor in named.items():
        if tensor.device != device or not tensor.is_contiguous():
            raise ValueError(
                f"{name}: expected a contiguous tensor on {device}, got strides "
                f"{tensor.stride()} on {tensor.device}"
            )
    check_outputs(outputs, outputs[0].shape)


def check_outputs(outputs: list[Tensor], shape: torch.Size) -> None:
    """Raise a ValueError that names an output which cannot be written."""
    for j, y in enumerate(outputs):
        if y.shape != shape or not y.is_contiguous():
            raise ValueError(
                f"outputs[{j}]: expected a contiguous tensor of shape {tuple(shape)}, "
                f"got shape {tuple(y.shape)} with strides {y.stride()}"
            )


def check_noise(noise: Noise, rows: int, device: torch.device) -> None:
    """Raise a ValueError that names the field where a noise description does not fit."""
    for name, tensor, sizes in (
        ("seeds", noise.seeds, {1, rows}),
        ("sample_ids", noise.sample_ids, {rows}),
        ("draws", noise.draws, {rows} if noise.draws.ndim == 2 else None),
    ):
        if tensor.dtype != torch.int64 or not 1 <= tensor.ndim <= 1 + (name == "draws"):
            raise ValueError(f"noise.{name}: expected a 1-D int64 tensor, got {tensor}")
        if sizes is not None and tensor.shape[0] not in sizes:
            raise ValueError(
                f"noise.{name}: expected {' or '.join(map(str, sorted(sizes)))} entries for a "
                f"batch of {rows}, got {tensor.shape[0]}"
            )
        if tensor.device != device:
            raise ValueError(f"noise.{name}: expected device {device}, got {tensor.device}")
    if not 0 <= noise.stream < 256:
        raise ValueError(f"noise.stream: expected 0 to 255, got {noise.stream}")


def check_brownian(
    seeds: Tensor, sample_ids: Tensor, tree: int, times: Tensor, depth: int = BROWNIAN_DEPTH
) -> None:
    """Raise a ValueError that names the argument where a `brownian` call is malformed."""
    rows, device = sample_ids.shape[0], sample_ids.device
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    check_noise(Noise(seeds, sample_ids, nothing), rows, device)
    if not 0 <= tree < BROWNIAN_TREES:
        raise ValueError(f"tree={tree}: expected 0 <= tree < {BROWNIAN_TREES}")
    if not 1 <= depth <= BROWNIAN_DEPTH:
        raise ValueError(f"depth={depth}: expected 1 <= depth <= {BROWNIAN_DEPTH}")
    if (
        times.dtype != torch.float64
        or times.ndim not in (1, 2)
        or (times.ndim == 2 and times.shape[1] != rows)
    ):
        raise ValueError(
            f"times: expected float64 [T] or [T, {rows}], got {times.dtype} {list(times.shape)}"
        )
    if times.device != device:
        raise ValueError(f"times: expected device {device}, got {times.device}")


def check_clock(clock: Clock, device: torch.device) -> None:
    """Raise a ValueError that names the field where a distribution of times does not fit."""
    q = clock.quantiles
    if q.dtype != torch.float64 or q.ndim != 1 or q.shape[0] < 2 or q.device != device:
        raise ValueError(
            f"quantiles: expected float64 [at least 2] on {device}, got {q.dtype} {list(q.shape)} "
            f"on {q.device}"
        )
    if clock.sampling not in list(Sampling):
        raise ValueError(f"sampling: expected 0, 1 or 2, got {clock.sampling}")


def check_bridge(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times: Tensor | Clock,
    noise: Noise,
    dtypes: list[torch.dtype],
) -> None:
    """Raise a ValueError that names the argument where a `bridge` call is malformed."""
    rows, device = noise.sample_ids.shape[0], x1.device
    check_noise(noise, rows, device)
    if noise.draws.numel() != 1:
        raise ValueError(f"noise.draws: expected 1 draw, got {noise.draws.numel()}")
    for name, x, index in (("0", x0, index0), ("1", x1, index1)):
        if index is not None and (
            index.dtype != torch.int64 or tuple(index.shape) != (rows,) or index.device != device
        ):
            raise ValueError(
                f"index{name}: expected int64 [{rows}] on {device}, got {index.dtype} "
                f"{list(index.shape)} on {index.device}"
            )
        if x is None:
            if index is not None:
                raise ValueError(f"index{name}: x{name} is None, so there is nothing to choose")
            continue
        if x.ndim == 0 or x.shape[1:] != x1.shape[1:] or x.device != device:
            raise ValueError(
                f"x{name}: expected rows of shape {tuple(x1.shape[1:])} on {device}, got "
                f"{tuple(x.shape)} on {x.device}"
            )
        if index is None and x.shape[0] != rows:
            raise ValueError(f"x{name}: expected {rows} rows like sample_ids, got {x.shape[0]}")
        if x.dtype not in DTYPE_CODES:
            raise ValueError(f"x{name}: expected one of {list(DTYPE_CODES)}, got {x.dtype}")
    for i, kind in enumerate(dtypes):
        if kind not in DTYPE_CODES:
            raise ValueError(f"dtypes[{i}]: expected one of {list(DTYPE_CODES)}, got {kind}")
    if not 1 <= len(dtypes) <= MAX_TARGETS:
        raise ValueError(f"dtypes: expected 1 to {MAX_TARGETS} outputs, got {len(dtypes)}")
    shapes = [(len(dtypes), TERMS, FEATURES)]
    if not isinstance(times, Clock):
        shapes.append((rows, len(dtypes), TERMS))
    if (
        tuple(coefficients.shape) not in shapes
        or coefficients.dtype != torch.float64
        or coefficients.device != device
    ):
        raise ValueError(
            f"coefficients: expected float64 {' or '.join(map(str, shapes))} on {device}, got "
            f"{coefficients.dtype} {tuple(coefficients.shape)} on {coefficients.device}"
        )
    if isinstance(times, Clock):
        check_clock(times, device)
    elif times.dtype != torch.float64 or tuple(times.shape) != (rows,) or times.device != device:
        raise ValueError(
            f"times: expected float64 [{rows}] on {device}, got {times.dtype} "
            f"{list(times.shape)} on {times.device}"
        )
