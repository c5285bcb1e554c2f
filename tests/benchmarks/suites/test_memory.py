"""Peak memory is a run's own, whatever the process that starts it holds."""

import torch

from benchmarks.suites import memory


def test_peak_is_above_what_the_parent_holds():
    held = torch.ones(2**26)  # 256 MiB
    state = 4 * torch.Size(memory.SHAPE).numel() / 2**20
    assert state <= memory.peak("fastgen", "ddim") <= 10 * state
    assert held.numel() == 2**26
