"""Compile the kernels without a GPU and judge the machine code: ``python -m fastgen.kernels.aot``.

Every entry of `aot_variants.VARIANTS` is a call as a sampler makes it. The gate is closed by: a
stack, spilled registers, shared memory, more registers than the entry's ceiling, an access to a
tensor narrower than 128 bits where they are promised, a fused multiply-add. The table's last
figure, for NVIDIA, counts a thread's instructions; nothing is asked of it.
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

import triton
from triton.backends.compiler import GPUTarget

from fastgen.kernels.aot_variants import F64, VARIANTS, Variant
from fastgen.kernels.triton_support.geometry import THREADS, Geometry
from fastgen.kernels.triton_support.launch import ALIGNMENT

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


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
    instructions: int = 0
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """A line of the table."""
        wide = f"{self.wide}/{self.promised}" if self.promised else "-"
        v = self.variant
        return (
            f"{v.name:28}{self.target:8}{self.registers:5}{self.stack:6}{self.spills:7}"
            f"{self.shared:7}{wide:>8}{self.fused:5}{self.instructions:7}"
            f"  {'; '.join(self.faults) or 'ok'}"
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
    options = variant.options(target, gpu.warp_size)
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
        allowed = {
            "stack": verdict.stack <= variant.stack,
            "spills": 4 * verdict.spills <= variant.stack,
            "shared": exchange or variant.tensor_cores,
            "fused": variant.library or variant.tensor_cores,
        }[name]
        if getattr(verdict, name) and not allowed:
            verdict.faults.append(f"{name} {getattr(verdict, name)}")
    ceiling = variant.ceiling * gpu.warp_size // 32  # where waves are twice as wide, so are files
    if verdict.registers > ceiling:
        verdict.faults.append(f"more than {ceiling} registers")
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
    verdict.instructions = until_exit(sass)
    verdict.wide = len(re.findall(r"\b(?:LDG|STG)\.E\.(?:\w+\.)*128\b", sass))
    # In the PTX, since correctly rounded square roots contain fused steps in machine code. A
    # product or sum without a rounding mode is one that ptxas may fuse.
    verdict.fused = len(re.findall(r"\b(?:fma|mad)\.\S*f\d|\b(?:mul|add|sub)\.f\d", asm["ptx"]))


def until_exit(sass: str) -> int:
    """Instructions from the start of machine code to the last exit; behind it are slow paths.

    Of code without loops and branches this is what a thread executes, but for the slow paths.
    """
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", sass)
    exits = [i for i, name in enumerate(names) if name == "EXIT"]
    return exits[-1] + 1 if exits else len(names)


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
    print(f"{HEADER}{'fma':>5}{'instr':>7}  (Triton {triton.__version__})")
    failed = 0
    # Forked processes would share the compiler's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        for verdict in pool.map(judge, variants, targets):
            print(verdict.line(), flush=True)
            failed += bool(verdict.faults)
    print(f"{failed} of {len(variants)} fail" if failed else f"all {len(variants)} pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
