"""Work on fixed memory, recorded once as a CUDA graph and repeated."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch


class Recording(Protocol):
    """Work on fixed memory, recorded once and repeated."""

    graphed: bool

    def record(self, work: Callable[[], None]) -> None:
        """Take note of the work."""

    def replay(self) -> None:
        """Do it again on what the memory holds now."""


class Repetition:
    """Where there are no graphs: the work is called again."""

    graphed = False

    def record(self, work: Callable[[], None]) -> None:
        """Keep the work."""
        self.work = work

    def replay(self) -> None:
        """Do it."""
        self.work()


class Graph:
    """A CUDA graph (a HIP graph on ROCm)."""

    graphed = True

    def __init__(self, device: torch.device) -> None:
        self.device, self.graph = device, torch.cuda.CUDAGraph()

    def record(self, work: Callable[[], None]) -> None:
        """Capture the work, which must have run before: kernels cannot be loaded now."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            # Other threads may allocate memory meanwhile.
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                work()

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self.graph.replay()


def recording(device: torch.device) -> Recording:
    """What records on this device."""
    return Graph(device) if device.type == "cuda" else Repetition()


class _ReadsBackError(Exception):
    """Work that makes the host wait cannot be captured."""


def _unwaiting(work: Callable[[], None]) -> None:
    """Run work; a `_ReadsBackError` where it makes the host wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*prototype feature", category=UserWarning)
            torch.cuda.set_sync_debug_mode("error")
        work()
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        raise _ReadsBackError(f"it reads values back: {error}") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def warm_up(work: Callable[[], None], device: torch.device, runs: int) -> str | None:
    """Run the work as it is before a capture: kernels are compiled, libraries take their memory.

    Captures forbid the default stream, so a side stream is used here too. The last run may not make
    the host wait; where it is the only one, it is tried again, since a first run may. A run that
    was broken off is followed by a whole one.

    Returns:
        Why a capture would fail, if it would. To begin one that fails is not harmless: torch 2.11
        then leaves its random numbers in a state in which no later capture works.
    """
    if device.type != "cuda":
        work()
        return None
    refused = None
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(runs - 1):
                work()
            for _ in range(2 if runs <= 1 else 1):
                try:
                    _unwaiting(work)
                except _ReadsBackError as error:
                    refused = str(error)
                else:
                    refused = None
                    break
            if refused is not None:
                work()
        current.wait_stream(side)
    return refused


def recorded(
    work: Callable[[], None], device: torch.device, what: str, refused: str | None
) -> Recording:
    """Warm work, recorded; if it cannot be, called again each time, with a warning.

    refused: what `warm_up` returned; then no capture is begun.
    """
    made = recording(device)
    try:
        if refused is not None:
            raise _ReadsBackError(refused)
        made.record(work)
    except Exception as error:  # whatever the network throws while it is captured
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        warnings.warn(
            f"fastgen: the {what} could not be captured as a graph ({reason}); it runs eagerly. "
            "A network is captured only if it never reads values back (.item(), .cpu(), shapes "
            "or branches that depend on data) and works in fixed memory.",
            RuntimeWarning,
            stacklevel=4,
        )
        made = Repetition()
        made.record(work)
    return made
