"""The calls whose kernels `aot` compiles, as samplers, trainers and solvers make them.

The constants of a kernel come from the functions that the launches themselves use, so what is
compiled is what would run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from triton.compiler import ASTSource

from fastgen.kernels.bridge import triton as bridge
from fastgen.kernels.bridge.triton_kernels import bridge_kernel
from fastgen.kernels.brownian import triton as brownian
from fastgen.kernels.brownian.area_triton_kernels import brownian_area_kernel
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH
from fastgen.kernels.brownian.triton_kernels import brownian_kernel
from fastgen.kernels.cascade import triton as cascade
from fastgen.kernels.cascade.triton_kernels import cascade_kernel
from fastgen.kernels.combine import triton as combine
from fastgen.kernels.combine.triton_kernels import combine_kernel
from fastgen.kernels.contract import compute_dtype
from fastgen.kernels.gram import triton as gram
from fastgen.kernels.gram.triton_kernels import gram_kernel
from fastgen.kernels.normals.triton_kernels import normals_kernel
from fastgen.kernels.pairwise import triton as pairwise
from fastgen.kernels.pairwise.triton_kernels import BEST, LOG_SUM, MEAN, SAMPLE, pairs_kernel
from fastgen.kernels.runge_kutta import triton as runge_kutta
from fastgen.kernels.runge_kutta.triton_kernels import (
    SCALARS,
    commit_kernel,
    control_kernel,
    error_kernel,
    stage_kernel,
    step_kernel,
)
from fastgen.kernels.stochastic_combine import triton as stochastic_combine
from fastgen.kernels.stochastic_combine.triton_kernels import stochastic_kernel
from fastgen.kernels.triton_support.geometry import THREADS, Geometry, geometry
from fastgen.kernels.triton_support.launch import ALIGNMENT, OPTIONS

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
POINTERS = {F32: "*fp32", F64: "*fp64", BF16: "*bf16", F16: "*fp16"}
# Arguments beside tuples of tensors whose accesses are wide.
ALIGNED = {"output", "x", "y", "bias", "values", "weights", "log_sum", "mean", "column"}
DIVISIBLE = [["tt.divisibility", ALIGNMENT]]
IMAGES, POINTS, WHOLE, ODD = (64, 3072), (65536, 2), (1, 1 << 26), (7, 35)
LARGE_IMAGES = (64, 49152)


@dataclass(frozen=True)
class Variant:
    """A call: dtypes, [rows, elements] and what else the compiled kernel depends on."""

    name: str
    inputs: tuple[torch.dtype, ...]
    outputs: tuple[torch.dtype, ...]
    shape: tuple[int, int] = IMAGES
    noises: int = 0
    clip: bool = False
    by_row: bool = False
    seed_per_row: bool = False
    draws_per_row: bool = False
    known: tuple[torch.dtype, int, int] | None = None  # see `combine.specialise`
    soft: bool = False  # what is known has weights
    tree: bool = False  # the Brownian tree, [times * rows, elements]
    area: bool = False  # the tree with areas
    ceiling: int = 64  # registers of a thread, by which 1024 run on a multiprocessor; AMD has twice
    stack: int = 0  # bytes that may be kept there, each 4 of them by one access
    library: bool = False  # calls of exp and log, or divisions, in float64: these hold fused steps
    given: tuple[torch.dtype, ...] | None = None  # of `stochastic_combine`: the noises it is given
    tensor_cores: bool = False

    def options(self, target: str, wave: int) -> dict[str, Any]:
        """What the compiler is told for a target whose threads go `wave` at a time."""
        return OPTIONS | {"num_warps": THREADS // wave}

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants, and its geometry."""
        rows, elements = self.shape
        if self.tree:
            g = brownian.cut(rows, elements)
            constants = (self.seed_per_row, self.by_row, *g[3:], BROWNIAN_DEPTH)
            pointers = ["*fp64", "*i64", "*i64", "*fp64"]
            if self.area:
                return _source(brownian_area_kernel, [*pointers, *["i64"] * 4], constants), g
            return _source(brownian_kernel, [*pointers, *["i64"] * 3], constants), g
        if not self.inputs:
            g = geometry(rows, elements, list(self.outputs), 1, 1, False)
            signature: list[Any] = [POINTERS[self.outputs[0]], *["*i64"] * 3, *["i64"] * 3]
            return _source(normals_kernel, signature, (self.seed_per_row, *g[2:])), g
        if self.given is not None:
            return self._stochastic(self.given)
        special = combine.specialise(
            rows,
            elements,
            list(self.inputs),
            list(self.outputs),
            rows if self.by_row else 1,
            self.clip,
            self.noises,
            rows if self.seed_per_row else 1,
            self.draws_per_row,
            self.known,
        )
        tensors = [tuple(POINTERS[d] for d in kinds) for kinds in (self.inputs, self.outputs)]
        keys = ["*i64" if self.noises else "constexpr"] * 3
        given = ["constexpr"] * 2
        if self.known is not None:
            given = [POINTERS[self.known[0]], POINTERS[self.known[0]] if self.soft else "*i1"]
        signature = [*tensors, "*fp64", *keys, *given, *["i64"] * 5]
        return _source(combine_kernel, signature, special.constants()), special.geometry

    def _stochastic(self, given: tuple[torch.dtype, ...]) -> tuple[ASTSource, Geometry]:
        special = stochastic_combine.specialise(
            *self.shape,
            list(self.inputs),
            list(given),
            list(self.outputs),
            self.shape[0] if self.by_row else 1,
            self.noises,
            self.shape[0] if self.seed_per_row else 1,
            self.draws_per_row,
        )
        kinds = self.inputs + given, self.outputs
        tensors = [tuple(POINTERS[d] for d in part) for part in kinds]
        keys = ["*i64" if self.noises else "constexpr"] * 3
        signature = [*tensors, "*fp64", *keys, *["i64"] * 4]
        return _source(stochastic_kernel, signature, special.constants()), special.geometry


@dataclass(frozen=True)
class Training(Variant):
    """A `bridge`: x0 (unless there is one input only) and x1 are chosen by indices.

    sampling: how t is drawn, -1 for given times with coefficients for every row.
    """

    sampling: int = 0

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants, and its geometry."""
        rows, elements = self.shape
        kinds = [*self.inputs, *self.outputs]
        g = bridge.cut(rows, elements, kinds, bool(self.noises))
        drawn = self.sampling >= 0
        tensors = [tuple(POINTERS[d] for d in kinds) for kinds in (self.inputs, self.outputs)]
        has_x0 = len(self.inputs) > 1
        signature: list[Any] = [*tensors, "*i64" if has_x0 else "constexpr", "*i64", "*fp64"]
        signature += ["constexpr", "*fp64"] if drawn else ["*fp64", "constexpr"]
        signature += [*["*i64"] * 3, "*fp32", *["i64"] * 7]
        wide = compute_dtype(kinds) == torch.float64
        seeds = rows if self.seed_per_row else 1
        noisy = bool(self.noises)
        values = bridge.constants(g, has_x0, noisy, drawn, self.sampling, seeds, wide)
        return _source(bridge_kernel, signature, values), g


def _source(kernel: Any, signature: list[Any], constants: tuple[Any, ...]) -> ASTSource:
    """What `kernel[grid](...)` hands to the compiler for aligned tensors."""
    first = len(signature)
    values: dict[tuple[int, ...], Any] = {(first + i,): c for i, c in enumerate(constants)}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, kind in enumerate(signature):
        if isinstance(kind, tuple):
            attributes |= {(i, n): DIVISIBLE for n in range(len(kind))}
        elif kernel.arg_names[i] in ALIGNED:
            attributes[i,] = DIVISIBLE
        elif kind == "constexpr":
            values[i,] = None
    kinds = [*signature, *["constexpr"] * len(constants)]
    names = kernel.arg_names
    return ASTSource(kernel, dict(zip(names, kinds, strict=True)), values, attributes)


STEP = (F32, F32, BF16)  # state, history, network output
TREE = partial(Variant, inputs=(), outputs=(F64,), tree=True, ceiling=128)
AREAS = partial(TREE, area=True, library=True)
VARIANTS = [
    Variant("scale", (F32,), (F32,), WHOLE),
    Variant("3 fp32", (F32,) * 3, (F32,), WHOLE),
    Variant("3 fp32, images", (F32,) * 3, (F32, F32)),
    Variant("3 bf16", (BF16,) * 3, (BF16,), WHOLE),
    Variant("3 fp16", (F16,) * 3, (F16,), WHOLE),
    Variant("3 fp64", (F64,) * 3, (F64,), WHOLE),
    Variant("fp32 state, bf16 network", STEP, (F32, BF16)),
    Variant("6 fp32 to 3", (F32,) * 6, (F32,) * 3),
    Variant("6 mixed to 3, clip", (*STEP, *STEP), (F32, F32, BF16), clip=True),
    Variant("guidance, by row", (F32, BF16, BF16), (F32, BF16), by_row=True),
    Variant("3 fp32, odd", (F32,) * 3, (F32,), (1, 35)),
    Variant("noise fp32", (F32, F32), (F32,), noises=1),
    Variant("noise fp32, large", (F32, F32), (F32,), LARGE_IMAGES, noises=1),
    Variant("noise bf16", (BF16, BF16), (BF16,), noises=1),
    Variant("noise fp16, seeds by row", (F16, F16), (F16,), noises=1, seed_per_row=True),
    Variant("noise mixed, clip", STEP, (F32, BF16), noises=1, clip=True),
    Variant("noise fp64", (F64, F64), (F64,), noises=1),
    Variant("2 noises fp32", (F32,) * 3, (F32, F32), noises=2),
    Variant("noise, points", (F32, F32), (F32,), POINTS, noises=1),
    Variant("noise, points, all by row", STEP, (F32, BF16), POINTS, 1, True, True, True),
    Variant("noise, scalars", (F32, F32), (F32,), (4096, 1), noises=1),
    Variant("noise, odd rows", (F32, BF16), (F32,), ODD, noises=1),
    Variant("serving, images", STEP, (F32, BF16), IMAGES, 1, True, True, True, True),
    Variant("serving, points", STEP, (F32, BF16), POINTS, 1, True, True, True, True),
    Variant("known, images", (F32, F32), (F32,), known=(F32, 1, 1)),
    Variant("known, by row, bf16", STEP, (F32, BF16), noises=1, known=(F32, 64, 64)),
    Variant("known, soft", STEP, (F32, BF16), by_row=True, known=(F32, 64, 64), soft=True),
    Variant("limits fp32", (F32,) * 24, (F32,) * 8, IMAGES, 8, True, True, True, True, ceiling=255),
    Variant("limits fp64", (F64,) * 24, (F64,) * 8, IMAGES, 8, True, True, True, True, ceiling=255),
    Variant("12 to 4, points", (*STEP,) * 4, (F32,) * 4, POINTS, 2, True, True, True, ceiling=128),
    Variant("SDE Euler", (F32,) * 3, (F32,), noises=1, given=()),
    Variant("SDE Milstein, points", (F32,) * 4, (F32,), POINTS, 1, given=()),
    Variant("SDE SRK", (F32,) * 7, (F32,), noises=2, given=(), ceiling=80),
    Variant("SDE SRK, given", (F32,) * 7, (F32,), given=(F32, F32)),
    Variant("SDE fp64, bf16 network", (F64, BF16, BF16), (F64,), noises=1, given=()),
    Variant("SDE by row, given", (F32,) * 3, (F32, F32), by_row=True, given=(F32,)),
    Variant("normals fp32", (), (F32,), noises=1),
    Variant("normals fp32, large", (), (F32,), LARGE_IMAGES, noises=1),
    Variant("normals bf16", (), (BF16,), noises=1, seed_per_row=True),
    Variant("normals fp64, points", (), (F64,), POINTS, noises=1),
    Training("bridge, straight", (F32, F32), (F32, F32)),
    Training("bridge, Brownian", (F32, F32), (F32, F32, F32), noises=1),
    Training("bridge, bf16, antithetic", (BF16, BF16), (BF16, BF16), noises=1, sampling=2),
    Training("bridge, noise to data", (F32,), (F32, BF16), noises=1, sampling=1),
    Training("bridge, points", (F32, F32), (F32, F32), POINTS, 1, False, False, True),
    Training("bridge, rows given", (F32, F32), (F32, F32, F32), noises=1, sampling=-1),
    Training("bridge fp64, odd", (F64, F64), (F64, F64), ODD, noises=1),
    TREE("brownian"),
    TREE("brownian, one row", shape=WHOLE),
    TREE("brownian, points, by row", shape=POINTS, by_row=True, seed_per_row=True),
    TREE("brownian, odd", shape=ODD, by_row=True, seed_per_row=True),
    AREAS("areas"),
    AREAS("areas, points, by row", shape=POINTS, by_row=True, seed_per_row=True, ceiling=168),
]


STEP_KERNELS = {
    "stage": stage_kernel,
    "error": error_kernel,
    "control": control_kernel,
    "commit": commit_kernel,
    "step": step_kernel,
}

# Tables of int64 of the kernels of error-controlled steps, and how many buffers these have.
INTEGERS = ("count", "segment_ends", "live", "held_count", "tile_ends", "first_tiles")
BUFFERS = {"stage": 5, "error": 3, "control": 3, "commit": 6, "step": 6}


@dataclass(frozen=True)
class StepVariant(Variant):
    """A kernel of error-controlled steps, for dopri5: its name, the state's dtype, row length."""

    kernel: str = "stage"
    block: int = 256
    stack: int = 32  # ptxas keeps what lives across its calls of float64's division

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants; no accesses are promised to be wide."""
        kernel, kind = STEP_KERNELS[self.kernel], POINTERS[self.inputs[0]]
        tables = {"a", "c", "error", "dense", "control", "numbers", "times", "held", "partial"}
        types: dict[str, Any] = {"slopes": (kind,) * (self.kernel != "commit")}
        types["buffers"] = (kind,) * BUFFERS[self.kernel]
        for name in kernel.arg_names[2:]:
            if name in tables:
                types[name] = "*fp64"
            elif name in INTEGERS:
                types[name] = "*i64"
            elif name in SCALARS:
                types[name] = "i64"
            elif name == "arrived":
                types[name] = "*i32"
        # Of dopri5: seven stages, of which the second has no weight in error and interpolant.
        constants = {
            "COUNT": 5 if self.kernel == "stage" else 7,
            "USED": 0b11111 if self.kernel == "stage" else 0b1111101,
            "LAST": False,
            "BLOCK": self.block,
            "DEGREE": 4,
            "DENSE": 0b1111101,
            "NEXT": True,
            "TILE": runge_kutta.TILE,
        }
        values: dict[tuple[int, ...], Any] = {}
        for i, name in enumerate(kernel.arg_names):
            if name in constants:
                types[name], values[i,] = "constexpr", constants[name]
        source = ASTSource(kernel, types, values, {})
        return source, geometry(2, 3, [self.inputs[0]], 1, 0, True)._replace(exact=False)


VARIANTS += [
    StepVariant(
        f"{name} {POINTERS[kind][1:]} {block}",
        (kind,),
        (),
        ceiling=ceiling,
        library=name != "stage",
        kernel=name,
        block=block,
    )
    for name, ceiling in zip(STEP_KERNELS, (64, 64, 128, 128, 128), strict=True)
    for kind in (F32, F64)
    for block in (2, 256)
]


@dataclass(frozen=True)
class PairwiseVariant(Variant):
    """A reduction over pairs: what is wanted, for which dimension of the points.

    Its inner products run on tensor cores: fused, with operands in shared memory.
    """

    want: int = LOG_SUM
    rows: int = 1024
    features: int = 64
    ceiling: int = pairwise.REGISTERS
    stack: int = 72  # ptxas keeps a few addresses there for sm_80 and sm_100
    tensor_cores: bool = True

    def cut(self, target: str) -> pairwise.Cut:
        """How such a call is cut for a target."""
        return pairwise.cut(self.want, self.rows, self.features, target.startswith("gfx"))

    def options(self, target: str, wave: int) -> dict[str, Any]:
        """What the compiler is told for a target whose threads go `wave` at a time."""
        return self.cut(target).options(wave)

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants; no accesses are promised to be wide."""
        pairs = self.cut(target).constants()
        tensors = ["*fp32"] * 5 + ["*i64"] * 2 + ["*fp64", "*fp32", "*i64"]
        constants = (self.want, self.seed_per_row, *pairs)
        source = _source(pairs_kernel, [*tensors, *["i64"] * 6], constants)
        return source, geometry(2, 3, [F32], 1, 0, True)._replace(exact=False)


VARIANTS += [
    PairwiseVariant("pairs, sum", (F32,), (), want=LOG_SUM),
    PairwiseVariant("pairs, sum, many", (F32,), (), want=LOG_SUM, rows=pairwise.MANY),
    PairwiseVariant("pairs, mean", (F32,), (), want=MEAN),
    PairwiseVariant("pairs, mean, points", (F32,), (), want=MEAN, features=2),
    PairwiseVariant("pairs, best", (F32,), (), want=BEST),
    PairwiseVariant("pairs, best, many", (F32,), (), want=BEST, rows=pairwise.MANY),
    PairwiseVariant("pairs, sample", (F32,), (), want=SAMPLE, seed_per_row=True),
]


@dataclass(frozen=True)
class CascadeVariant(Variant):
    """A `cascade`: how many accesses there are depends on its tables, so none are promised."""

    stack: int = 16  # ptxas keeps addresses there for sm_80

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants; no accesses are promised to be wide."""
        rows, elements = self.shape
        seeds = rows if self.seed_per_row else 1
        g, constants = cascade.specialise(
            rows, elements, self.inputs[0], self.noises, self.by_row, seeds
        )
        tensors = [POINTERS[self.inputs[0]], "*fp64", *["*i64"] * 2]
        keys = ["*i64" if self.noises else "constexpr"] * 3
        source = _source(cascade_kernel, [*tensors, *keys, *["i64"] * 9], constants)
        return source, g._replace(exact=False)


VARIANTS += [
    CascadeVariant("cascade fp32", (F32,), ()),
    CascadeVariant("cascade fp32, by row", (F32,), (), by_row=True),
    CascadeVariant("cascade fp32, noise", (F32,), (), noises=1),
    CascadeVariant("cascade fp64, points", (F64,), (), POINTS, 1, False, True, True, ceiling=128),
]


@dataclass(frozen=True)
class GramVariant(Variant):
    """Inner products of a sample's outputs; partial sums pass through shared memory.

    On AMD whole numbers are divided with fused steps.
    """

    library: bool = True

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants; no accesses are promised to be wide."""
        tensors = tuple(POINTERS[d] for d in self.inputs)
        source = _source(gram_kernel, [tensors, "*fp64", "i64", "i64"], (gram.BLOCK,))
        return source, geometry(2, 3, [F32], 1, 0, True)._replace(exact=False)


VARIANTS += [
    GramVariant("inner products, 2 fp32", (F32,) * 2, ()),
    GramVariant("inner products, 4 mixed", (BF16, BF16, F32, F16), (), ceiling=128),
    GramVariant("inner products, 8 fp64", (F64,) * 8, (), ceiling=255),
]
