"""Running one case in a forked child, so that a crash is an outcome."""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import fastgen

SECONDS = 30.0  # on a machine with much else to do
MEMORY = 6 << 30
ROOM = str(Path(fastgen.__file__).parent)
# What a user's mistake may end in. A RuntimeError of torch's own, for want of memory, is clear too.
CLEAR = (ValueError, TypeError, FloatingPointError, NotImplementedError, OSError, AssertionError)


@dataclass(frozen=True)
class Outcome:
    """kind: "returned", "clear", "unclear", "wrong", "crash" or "hang"; text: what was said."""

    kind: str
    text: str = ""


def in_child(case: Callable[[], str | None], seconds: float = SECONDS) -> Outcome:
    """Run a case; it returns what is wrong with its result, or None."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _run(case, writer)
        finally:
            os._exit(0)
    os.close(writer)
    deadline, parts = time.monotonic() + seconds, list[bytes]()
    while True:
        ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
            return Outcome("hang", f"more than {seconds} s")
        part = os.read(reader, 1 << 16)
        if not part:
            break
        parts.append(part)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return Outcome("crash", signal.Signals(os.WTERMSIG(status)).name)
    if not parts:
        return Outcome("crash", f"status {status}")
    found: Outcome = pickle.loads(b"".join(parts))
    return found


def _run(case: Callable[[], str | None], writer: int) -> None:
    used = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, used[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    try:
        wrong = case()
        outcome = Outcome("returned") if wrong is None else Outcome("wrong", wrong)
    except BaseException as error:
        outcome = judged(error)
    os.write(writer, pickle.dumps(outcome))


def judged(error: BaseException) -> Outcome:
    """Whether an error tells the caller what to do."""
    text = f"{type(error).__name__}: {str(error)[:300]}"
    frames = traceback.extract_tb(error.__traceback__)
    if "Expected a value of type" in str(error) and "for argument" in str(error):
        return Outcome("clear", text)  # torch's, of an operator: argument, value and type
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return Outcome("clear", text)
    call = isinstance(error, TypeError) and "argument" in str(error)
    if call and (len(frames) <= 3 or "positional" in str(error)):
        return Outcome("clear", text)  # Python's own, of the call or of the user's function
    if frames[-1].filename.endswith("tests/modes/entries.py"):
        return Outcome("clear", text)  # the user's network's own
    inside = [f for f in frames if f.filename.startswith(ROOM)]
    raised_here = bool(inside) and frames[-1] is inside[-1]
    said = raised_here and any(w in (frames[-1].line or "") for w in ("raise", "assert"))
    if said and isinstance(error, (*CLEAR, RuntimeError)) and len(str(error)) > 12:
        return Outcome("clear", text)
    where = f"{Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else "outside"
    return Outcome("unclear", f"{text} [{where}]")


def agree(first: object, second: object) -> str | None:
    """Whether two results are one to rounding; None if they are."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            return f"{first.dtype} {tuple(first.shape)} and {second.dtype} {tuple(second.shape)}"
        numbers = first.dtype.is_floating_point and not first.is_meta
        if numbers and not torch.allclose(
            first.double(), second.double(), 1e-3, 1e-3, equal_nan=True
        ):
            return f"off by {(first.double() - second.double()).abs().max():.3g}"
    return None
