"""A kernel's PTX as a list of instructions.

Unknown instructions, and products and sums that `ptxas` may fuse since they name no rounding, are
refused here, before anything runs.
"""

import re
from typing import NamedTuple

from tests.ptx.instructions import INSTRUCTIONS

BRANCHES = {"bra", "bra.uni", "ret", "exit"}
# Fused or approximate: no two devices need agree on what is made with these.
INEXACT = re.compile(r"fma\.|mad\.\S*f\d|\S*\.approx\.|div\.full\.")
UNROUNDED = re.compile(r"(add|sub|mul)(\.ftz)?\.(f16|bf16|f32|f64)(x2)?$")


class PtxError(RuntimeError):
    """What a device would refuse, fail on, or compute differently."""


class Step(NamedTuple):
    """One instruction: it runs where `predicate` (a register or None) differs from `negated`."""

    predicate: str | None
    negated: bool
    name: str
    operands: list


class Program:
    """The one kernel of a PTX text.

    Attributes:
        name: the kernel's.
        threads: of a block.
        parameters: {name: place among the arguments}.
        widths: {"%rd": 64, "tmp": 32, ...}: bits of registers; predicates have 1.
        steps, labels: the code, {label: index into it}.
        inexact: names of fused and approximate instructions that it contains.
    """

    def __init__(self, ptx):
        head = re.search(r"\.visible \.entry (\w+)\s*\((.*?)\)\s*(.*?)\{", ptx, re.S)
        if head is None:
            raise PtxError("no .visible .entry")
        self.name = head[1]
        threads = re.search(r"\.(?:reqntid|maxntid) (\d+)", head[3])
        if threads is None:
            raise PtxError(f"{self.name}: the number of threads is not stated")
        self.threads = int(threads[1])
        names = re.findall(r"\.param [^,]*?(\w+)\s*(?:,|$)", head[2])
        self.parameters = {name: i for i, name in enumerate(names)}
        self.widths, self.steps, self.labels = {}, [], {}
        end = re.search(r"^\}", ptx[head.end() :], re.M)
        for line in _lines(ptx[head.end() :][: end.start()]):
            self._read(line)
        self.inexact = sorted({s.name for s in self.steps if INEXACT.match(s.name)})

    def _read(self, line):
        declared = re.match(r"\.reg \.[a-z]*?(\d+|pred)\s+([%\w]+?)(?:<\d+>)?$", line)
        if declared:
            self.widths[declared[2]] = 1 if declared[1] == "pred" else int(declared[1])
        elif line.startswith("."):
            return
        elif line.endswith(":"):
            self.labels[line[:-1]] = len(self.steps)
        else:
            parts = re.match(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)$", line, re.S)
            if parts is None:
                raise PtxError(f"{self.name}: cannot read {line!r}")
            negated, predicate, name, rest = parts.groups()
            if UNROUNDED.match(name):
                raise PtxError(f"{self.name}: {name} may be fused with another instruction")
            if name not in INSTRUCTIONS and name not in BRANCHES:
                raise PtxError(f"{self.name}: unknown instruction {name} in {line!r}")
            self.steps.append(Step(predicate, bool(negated), name, operands(rest)))


def _lines(body):
    """Statements without comments, places in the source and braces; labels end in a colon."""
    body = re.sub(r"//[^\n]*", "", body)
    kept = [x for x in body.splitlines() if not x.strip().startswith((".loc", ".file", ".pragma"))]
    body = re.sub(r"^\s*(\$?\w+):\s*$", r"\1: ;", "\n".join(kept), flags=re.M)
    for statement in body.replace("\n", " ").split(";"):
        line = re.sub(r"^[\s{}]+", "", statement).strip()
        if line:
            yield line


def operands(text):
    """The operands of an instruction; `{a, b}` becomes a list."""
    found = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", text)
    return [
        [x.strip() for x in o[1:-1].split(",")] if o.startswith("{") else o.strip() for o in found
    ]
