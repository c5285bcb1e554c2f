"""Compile the kernels without a GPU and judge the machine code: ``python -m ...triton.aot``.

Every entry of `VARIANTS` is a call as a sampler makes it. The constants of its kernel come from
the functions that the dispatcher itself uses, so what is compiled is what would run. The gate is
closed by: a stack, spilled registers, shared memory, more registers than the entry's ceiling, an
access to a tensor narrower than 128 bits where they are promised, a fused multiply-add.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastgen.kernels.bridge.triton import constants, cut
from fastgen.kernels.bridge.triton_kernels import bridge_kernel
from fastgen.kernels.brownian import triton as tree
from fastgen.kernels.brownian.area_triton import brownian_area_kernel
from fastgen.kernels.combine.triton_kernels import combine_kernel, normals_kernel
from fastgen.kernels.contract import BROWNIAN_DEPTH, compute_dtype
from fastgen.kernels.pairwise.triton import THREADS as PAIRS_THREADS
from fastgen.kernels.pairwise.triton import geometry as pairs_geometry
from fastgen.kernels.pairwise.triton_kernels import BEST, LOG_SUM, MEAN, SAMPLE, pairs_kernel
from fastgen.kernels.random_combine.triton import describe_stochastic
from fastgen.kernels.random_combine.triton_kernels import stochastic_kernel
from fastgen.kernels.runge_kutta.triton_kernels import (
    SCALARS,
    commit_kernel,
    control_kernel,
    stage_kernel,
)
from fastgen.kernels.triton_support.geometry import THREADS, Geometry, geometry
from fastgen.kernels.triton_support.launch import ALIGNMENT, OPTIONS, describe

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
POINTERS = {F32: "*fp32", F64: "*fp64", BF16: "*bf16", F16: "*fp16"}
DIVISIBLE = [["tt.divisibility", ALIGNMENT]]
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
IMAGES, POINTS, WHOLE, ODD = (64, 3072), (65536, 2), (1, 1 << 26), (7, 35)


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
    tree: bool = False  # the Brownian tree, [times * rows, elements]
    area: bool = False  # the tree with areas
    ceiling: int = 64  # registers of a thread; 64 let 1024 threads run on a multiprocessor
    library: bool = False  # calls of exp and log, or divisions, in float64: these hold fused steps
    given: tuple[torch.dtype, ...] | None = None  # of `stochastic_combine`: the noises it is given
    tensor_cores: bool = False
    threads: int = THREADS

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants, and its geometry."""
        rows, elements = self.shape
        if self.tree:
            g = tree.describe(rows, elements)
            constants = (self.seed_per_row, self.by_row, *g[3:], BROWNIAN_DEPTH)
            pointers = ["*fp64", "*i64", "*i64", "*fp64"]
            if self.area:
                return _source(brownian_area_kernel, [*pointers, *["i64"] * 4], constants), g
            return _source(tree.brownian_kernel, [*pointers, *["i64"] * 3], constants), g
        if not self.inputs:
            g = geometry(rows, elements, list(self.outputs), 1, 1, False)
            signature: list[Any] = [POINTERS[self.outputs[0]], *["*i64"] * 3, *["i64"] * 3]
            return _source(normals_kernel, signature, (self.seed_per_row, *g[2:])), g
        if self.given is not None:
            return self._stochastic(self.given)
        stage = describe(
            rows,
            elements,
            list(self.inputs),
            list(self.outputs),
            rows if self.by_row else 1,
            self.clip,
            self.noises,
            rows if self.seed_per_row else 1,
            self.draws_per_row,
        )
        tensors = [tuple(POINTERS[d] for d in kinds) for kinds in (self.inputs, self.outputs)]
        keys = ["*i64" if self.noises else "constexpr"] * 3
        signature = [*tensors, "*fp64", *keys, *["i64"] * 5]
        return _source(combine_kernel, signature, stage.constants()), stage.geometry

    def _stochastic(self, given: tuple[torch.dtype, ...]) -> tuple[ASTSource, Geometry]:
        stage = describe_stochastic(
            *self.shape,
            list(self.inputs),
            list(given),
            list(self.outputs),
            self.shape[0] if self.by_row else 1,
            self.noises,
            self.shape[0] if self.seed_per_row else 1,
            self.draws_per_row,
        )
        kinds = self.inputs, given, self.outputs
        tensors = [tuple(POINTERS[d] for d in part) for part in kinds]
        keys = ["*i64" if self.noises else "constexpr"] * 3
        signature = [*tensors, "*fp64", *keys, *["i64"] * 3]
        return _source(stochastic_kernel, signature, stage.constants()), stage.geometry


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
        g = cut(rows, elements, kinds, bool(self.noises))
        drawn = self.sampling >= 0
        tensors = [tuple(POINTERS[d] for d in kinds) for kinds in (self.inputs, self.outputs)]
        has_x0 = len(self.inputs) > 1
        signature: list[Any] = [*tensors, "*i64" if has_x0 else "constexpr", "*i64", "*fp64"]
        signature += ["constexpr", "*fp64"] if drawn else ["*fp64", "constexpr"]
        signature += [*["*i64"] * 3, "*fp32", *["i64"] * 7]
        wide = compute_dtype(kinds) == torch.float64
        seeds = rows if self.seed_per_row else 1
        noisy = bool(self.noises)
        values = constants(g, has_x0, noisy, drawn, self.sampling, seeds, wide)
        return _source(bridge_kernel, signature, values), g


def _source(kernel: Any, signature: list[Any], constants: tuple[Any, ...]) -> ASTSource:
    """What `kernel[grid](...)` hands to the compiler for aligned tensors."""
    first = len(signature)
    values: dict[tuple[int, ...], Any] = {(first + i,): c for i, c in enumerate(constants)}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, kind in enumerate(signature):
        if isinstance(kind, tuple):
            attributes |= {(i, n): DIVISIBLE for n in range(len(kind))}
        elif kernel.arg_names[i] == "output":
            attributes[i,] = DIVISIBLE
        elif kind == "constexpr":
            values[i,] = None
    kinds = [*signature, *["constexpr"] * len(constants)]
    names = kernel.arg_names
    return ASTSource(kernel, dict(zip(names, kinds, strict=True)), values, attributes)


STEP = (F32, F32, BF16)  # state, history, network output
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
    Variant("normals bf16", (), (BF16,), noises=1, seed_per_row=True),
    Variant("normals fp64, points", (), (F64,), POINTS, noises=1),
    Training("bridge, straight", (F32, F32), (F32, F32)),
    Training("bridge, Brownian", (F32, F32), (F32, F32, F32), noises=1),
    Training("bridge, bf16, antithetic", (BF16, BF16), (BF16, BF16), noises=1, sampling=2),
    Training("bridge, noise to data", (F32,), (F32, BF16), noises=1, sampling=1),
    Training("bridge, points", (F32, F32), (F32, F32), POINTS, 1, False, False, True),
    Training("bridge, rows given", (F32, F32), (F32, F32, F32), noises=1, sampling=-1),
    Training("bridge fp64, odd", (F64, F64), (F64, F64), ODD, noises=1),
    Variant("brownian", (), (F64,), tree=True, ceiling=128),
    Variant("brownian, one row", (), (F64,), WHOLE, tree=True, ceiling=128),
    Variant(
        "brownian, points, by row", (), (F64,), POINTS, 0, False, True, True, tree=True, ceiling=128
    ),
    Variant("brownian, odd", (), (F64,), ODD, 0, False, True, True, tree=True, ceiling=128),
    Variant("areas", (), (F64,), tree=True, area=True, ceiling=128, library=True),
    Variant(
        "areas, points, by row",
        (),
        (F64,),
        POINTS,
        0,
        False,
        True,
        True,
        tree=True,
        area=True,
        ceiling=168,
        library=True,
    ),
]


STEP_KERNELS = {"stage": stage_kernel, "control": control_kernel, "commit": commit_kernel}


@dataclass(frozen=True)
class StepVariant(Variant):
    """A kernel of error-controlled steps, for dopri5: its name, the state's dtype, row length."""

    kernel: str = "stage"
    block: int = 256

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants; no accesses are promised to be wide."""
        kernel, kind = STEP_KERNELS[self.kernel], POINTERS[self.inputs[0]]
        tables = {"a", "c", "error", "dense", "control", "numbers", "times"}
        types: dict[str, Any] = dict.fromkeys(kernel.arg_names, kind)
        for name in types:
            if name in tables:
                types[name] = "*fp64"
            elif name in ("count", "segment_ends"):
                types[name] = "*i64"
            elif name in SCALARS:
                types[name] = "i64"
        # Of dopri5: seven stages, of which the second has no weight in error and interpolant.
        constants = {
            "COUNT": 5 if self.kernel == "stage" else 7,
            "USED": 0b11111 if self.kernel == "stage" else 0b1111101,
            "LAST": False,
            "BLOCK": self.block,
            "DEGREE": 4,
        }
        values: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], Any] = {}
        for i, name in enumerate(kernel.arg_names):
            if name in constants:
                types[name], values[i,] = "constexpr", constants[name]
            elif name in ("y", "k", "stage", "y_new", "ys"):
                attributes[i,] = DIVISIBLE
        source = ASTSource(kernel, types, values, attributes)
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
    for name, ceiling in (("stage", 64), ("control", 128), ("commit", 128))
    for kind in (F32, F64)
    for block in (2, 256)
]


@dataclass(frozen=True)
class Pairs(Variant):
    """A reduction over pairs: what is wanted, for which dimension of the points.

    Its inner products run on tensor cores: fused, with operands in shared memory.
    """

    want: int = LOG_SUM
    dims: int = 64
    ceiling: int = 255
    tensor_cores: bool = True
    threads: int = PAIRS_THREADS

    def source(self, target: str = "sm_90") -> tuple[ASTSource, Geometry]:
        """The kernel's source with all constants; no accesses are promised to be wide."""
        pairs = pairs_geometry(self.want, self.dims, target.startswith("gfx"))
        tensors = ["*fp32"] * 5 + ["*i64"] * 2 + ["*fp64", "*fp32", "*i64"]
        constants = (self.want, self.seed_per_row, *pairs)
        source = _source(pairs_kernel, [*tensors, *["i64"] * 6], constants)
        return source, geometry(2, 3, [F32], 1, 0, True)._replace(exact=False)


VARIANTS += [
    Pairs("pairs, sum, 2-D", (F32,), (), want=LOG_SUM, dims=2),
    Pairs("pairs, sum", (F32,), (), want=LOG_SUM),
    Pairs("pairs, mean", (F32,), (), want=MEAN),
    Pairs("pairs, best", (F32,), (), want=BEST),
    # AMD has 512 registers for a thread.
    Pairs("pairs, sample", (F32,), (), want=SAMPLE, seed_per_row=True, ceiling=288),
]


@dataclass
class Verdict:
    """Figures of one compiled kernel, and what is wrong with it."""

    variant: Variant
    target: str
    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    wide: int = 0
    promised: int = 0
    fused: int = 0
    faults: list[str] = field(default_factory=list)

    def row(self) -> str:
        """A line of the table."""
        wide = f"{self.wide}/{self.promised}" if self.promised else "-"
        v = self.variant
        return (
            f"{v.name:28}{self.target:8}{self.registers:5}{self.stack:6}{self.spills:7}"
            f"{self.shared:7}{wide:>8}{self.fused:5}  {'; '.join(self.faults) or 'ok'}"
        )


HEADER = f"{'kernel':28}{'target':8}{'regs':>5}{'stack':>6}{'spills':>7}{'shared':>7}{'128-bit':>8}"


def promised(variant: Variant, g: Geometry) -> int:
    """128-bit accesses of a thread where whole groups are read and written, else 0."""
    tensors = variant.inputs + (variant.given or ()) + variant.outputs
    sizes = [g.width * d.itemsize for d in tensors]
    return sum(n // ALIGNMENT * g.block // THREADS for n in sizes) if g.exact else 0


def judge(variant: Variant, target: str) -> Verdict:
    """Compile a variant for a target and read the result."""
    gpu = TARGETS[target]
    source, g = variant.source(target)
    options = OPTIONS | {"num_warps": variant.threads // gpu.warp_size}
    verdict = Verdict(variant, target, promised=promised(variant, g))
    try:
        compiled = triton.compile(source, target=gpu, options=options)
    except Exception as error:  # whatever the compiler throws belongs into the table
        verdict.faults.append(f"does not compile: {error}")
        return verdict
    verdict.shared = compiled.metadata.shared
    (_read_nvidia if gpu.backend == "cuda" else _read_amd)(compiled.asm, verdict)
    # float64 is read two elements at a time and noise made four at a time, and the accesses of odd
    # rows are shared out one by one: these alone may exchange values between threads.
    exchange = not verdict.promised or F64 in variant.inputs + variant.outputs
    for name in ("stack", "spills", "shared", "fused"):
        allowed = (name == "shared" and (exchange or variant.tensor_cores)) or (
            name == "fused" and (variant.library or variant.tensor_cores)
        )
        if getattr(verdict, name) and not allowed:
            verdict.faults.append(f"{name} {getattr(verdict, name)}")
    if verdict.registers > variant.ceiling:
        verdict.faults.append(f"more than {variant.ceiling} registers")
    if verdict.wide < verdict.promised:
        verdict.faults.append("accesses narrower than 128 bits")
    return verdict


def _read_nvidia(asm: Any, verdict: Verdict) -> None:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = _run(CUOBJDUMP, "-res-usage", file.name)
        sass = _run(CUOBJDUMP, "-sass", file.name)
    figures = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    verdict.registers, verdict.stack = int(figures["REG"]), int(figures["STACK"])
    verdict.spills = int(figures["LOCAL"]) + len(re.findall(r"\b(?:LDL|STL)\b", sass))
    verdict.wide = len(re.findall(r"\b(?:LDG|STG)\.E\.(?:\w+\.)*128\b", sass))
    # In the PTX, since correctly rounded square roots contain fused steps in machine code. A
    # product or sum without a rounding mode is one that ptxas may fuse.
    verdict.fused = len(re.findall(r"\b(?:fma|mad)\.\S*f\d|\b(?:mul|add|sub)\.f\d", asm["ptx"]))


def _read_amd(asm: Any, verdict: Verdict) -> None:
    text = asm["amdgcn"]

    def figure(name: str) -> int:
        return sum(map(int, re.findall(rf"\.{name}:\s+(\d+)", text)))

    verdict.registers = figure("vgpr_count")
    verdict.stack = figure("private_segment_fixed_size")
    verdict.spills = figure("vgpr_spill_count")  # scalar registers spill to vector registers
    verdict.wide = len(re.findall(r"\b(?:global|buffer)_(?:load|store)_dwordx4\b", text))
    # A correctly rounded square root contains two fused steps, in float64 eight, where a correctly
    # rounded quotient contains five.
    fused = len(re.findall(r"\bv_(?:pk_)?(?:fma|fmac|fmaak|fmamk|mad|mac)_f\d", text))
    for step, count in (("v_sqrt_f32", 2), ("v_rsq_f64", 8), ("v_div_fixup_f64", 5)):
        fused -= count * len(re.findall(rf"\b{step}", text))
    verdict.fused = fused


def _run(*command: str | os.PathLike[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(arguments: list[str] | None = None) -> int:
    """Judge all variants, print a table; 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--only", default="", help="part of the names of the variants to compile")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: nothing would be compiled")
    work = product([v for v in VARIANTS if options.only in v.name], options.target or list(TARGETS))
    variants, targets = zip(*work, strict=True)
    print(f"{HEADER}{'fma':>5}  (Triton {triton.__version__})")
    failed = 0
    # Forked processes would share the compiler's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        for verdict in pool.map(judge, variants, targets):
            print(verdict.row(), flush=True)
            failed += bool(verdict.faults)
    print(f"{failed} of {len(variants)} fail" if failed else f"all {len(variants)} pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
