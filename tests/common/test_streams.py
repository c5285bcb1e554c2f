"""What belongs to one stream, what waits for another, and captures that are not begun.

A stand-in for torch's streams: what is asked of them is looked at, nothing runs on a device.
"""

from contextlib import nullcontext

import pytest
import torch

from fastgen.common import graphs
from fastgen.common.devices import Turns, current_stream
from fastgen.sampling.run import BufferKey

CUDA = torch.device("cuda", 0)


class Stream:
    def __init__(self, number=0):
        self.cuda_stream, self.waited = number, []

    def wait_stream(self, other):
        self.waited.append(other)


class Device:
    """Says which stream is the current one, and what a host that waits is told."""

    def __init__(self):
        self.stream, self.mode = Stream(1), 0

    def set_mode(self, mode):
        self.mode = mode

    def synchronise(self):
        if self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")


@pytest.fixture
def device(monkeypatch):
    made = Device()
    for name, value in {
        "current_stream": lambda *_: made.stream,
        "get_sync_debug_mode": lambda: made.mode,
        "set_sync_debug_mode": made.set_mode,
        "device": lambda *_: nullcontext(),
        "stream": lambda *_: nullcontext(),
        "Stream": Stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return made


def key(device=CUDA):
    return BufferKey((2, 3), device, (torch.float32, torch.float32), 1, False, False)


def test_buffers_belong_to_a_stream(device):
    first = key()
    assert key() == first
    device.stream = Stream(2)
    assert key() != first
    assert key().stream == current_stream(CUDA) == 2
    assert key(torch.device("cpu")).stream == 0


def test_turns_wait_for_the_stream_before(device):
    turns, first = Turns(CUDA), device.stream
    turns.take()
    turns.take()
    assert first.waited == []
    second = device.stream = Stream(2)
    turns.take()
    assert second.waited == [first]
    device.stream = first
    turns.take()
    assert first.waited == [second]
    Turns(torch.device("cpu")).take()


class Recorder:
    graphed = True

    def record(self, work):
        self.recorded = True


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("synchronisations", [0, 1, 100])
def test_a_capture_that_would_fail_is_not_begun(device, runs, synchronisations, monkeypatch):
    """Work that waits once, in its first run, is warm afterwards; what always waits is refused."""
    made, complete, started = Recorder(), [], []
    monkeypatch.setattr(graphs, "recording", lambda device: made)

    def work():
        started.append(device.mode)
        if len(started) <= synchronisations:
            device.synchronise()
        complete.append(device.mode)

    refused = graphs.warm_up(work, CUDA, runs)
    assert device.mode == 0
    if synchronisations < 100:
        assert refused is None
        assert graphs.recorded(work, CUDA, "run", refused) is made
        assert made.recorded
        assert complete[-1] == "error"
        return
    assert "synchronizing" in refused
    assert complete[-1] == 0  # whole, in the end
    with pytest.warns(RuntimeWarning, match="could not be captured as a graph .it reads values"):
        eager = graphs.recorded(work, CUDA, "run", refused)
    assert not eager.graphed
    assert not hasattr(made, "recorded")


def test_other_errors_of_a_warm_up_pass(device):
    def work():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        graphs.warm_up(work, CUDA, 2)
    assert device.mode == 0
