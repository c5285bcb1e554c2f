"""The Python of a Markdown page, run in its order and in one namespace.

* A fence of ``python`` is run.
* ``<!-- python ... -->`` is run and not shown: what an example takes for given.
* ``<!-- skip: reason -->`` before a fence: it is compiled and not run.
* ``<!-- needs: module -->`` before a fence: it is run where the module is installed.
* ``<!-- raises: ValueError: part of the message -->`` before a fence: it has to.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastgen
from tests.support.mixtures import MEANS, STDS, WEIGHTS, Mixture

ROOT = Path(__file__).parents[2]
# Folders of docs/ that a build writes.
WRITTEN = ("_build", "gallery", "api")
_BLOCK = re.compile(
    r"(?P<note><!-- *(?P<kind>skip|needs|raises): *(?P<what>[^>]*?) *-->\s*)?"
    r"^(?:```python\n(?P<shown>.*?)^```|<!-- python\n(?P<hidden>.*?)^-->)",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block's code, the line of the page on which it begins, and the note before it."""

    code: str
    line: int
    kind: str | None
    what: str


def pages() -> list[Path]:
    """README.md and the pages of docs/ that are written by hand."""
    found = [p for p in (ROOT / "docs").rglob("*.md") if not set(p.parts) & set(WRITTEN)]
    return [ROOT / "README.md", *sorted(found)]


def name_of(page: Path) -> str:
    """Of a test."""
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[Block]:
    """The blocks of a page."""
    found = []
    for match in _BLOCK.finditer(text):
        kind = "shown" if match["shown"] is not None else "hidden"
        line = text.count("\n", 0, match.start(kind)) + 1
        found.append(Block(match[kind], line, match["kind"], match["what"] or ""))
    return found


def run(text: str, name: str, scope: dict[str, Any]) -> int:
    """Run a page's blocks in ``scope``; how many were run.

    Raises:
        AssertionError: if one that has to raise does not, or says something else.
        Exception: whatever a block raises, with the page's lines in the traceback.
    """
    count = 0
    for block in blocks(text):
        code = compile("\n" * (block.line - 1) + block.code, name, "exec")
        if block.kind == "skip":
            continue
        if block.kind == "needs" and not all(find_spec(m) for m in block.what.split(", ")):
            continue
        count += 1
        if block.kind != "raises":
            exec(code, scope)
            continue
        found = _raised(code, scope)
        kind, _, said = block.what.partition(": ")
        right = found.startswith(f"{kind}: ") and said in found
        assert right, f"{name}, line {block.line}: expected {block.what}, got {found}"
    return count


def _raised(code: Any, scope: dict[str, Any]) -> str:
    """Type and message of what a block raises."""
    try:
        exec(code, scope)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


class Ideal(Mixture):
    """The ideal network of a mixture in the plane, its formulas being 0 / 0 at t = 0."""

    def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        low = 1e-5
        return super().forward(x, t.double().clamp(low, 1 - low * self.data_at), **kwargs)


def assert_drawn(x: Tensor, far: float = 0.3) -> None:
    """What a page sampled [B, 2] is from the mixture of `tests.support.mixtures`: W2 below far.

    Exact points are about 0.2 from 600 others, noise is 0.5 away.
    """
    generator = torch.Generator().manual_seed(3)
    part = torch.multinomial(WEIGHTS, len(x), True, generator=generator)
    noise = torch.randn(len(x), 2, generator=generator, dtype=torch.float64)
    exact = MEANS[part] + STDS[part, None] * noise
    assert x.shape == exact.shape
    found = fastgen.wasserstein(x.detach().double(), exact)
    assert found < far, f"W2 = {found:.3g} from the data of the network"
