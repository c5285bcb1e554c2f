"""A row of a benchmark to change."""

import dataclasses

import torch

from benchmarks.tools.rows import row


def example(median=10.0, spread=0.5, **changes):
    made = row("suite", "case", "fastgen", "fastgen-torch", (3,), torch.float32, "time",
                       "us", [median - spread, median, median + spread])  # fmt: skip
    return dataclasses.replace(made, **changes)
