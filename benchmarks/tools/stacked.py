"""Small networks side by side: their layers are batched products, so that K trainings cost one.

Each network of a stack has its own weights, data and targets; the loss is the sum of theirs and
AdamW works elementwise, so that every network takes the very steps it would take alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgen.common.files import load_strictly, read_safetensors, write_safetensors

EVERY = 1000  # steps between checkpoints
DECAY = 0.999  # of the averaged weights
CHUNK = 512  # points that are simulated together


class Stack(nn.Module):
    """Networks [width] * 3 with SELU: x [K, B, d], t [K, B] -> [K, B, d].

    Args:
        names: one for each network; its first weights, uniform as those of `torch.nn.Linear`, are a
            function of its name alone.
        dims: d.
        width: of the hidden layers.
    """

    def __init__(self, names: Sequence[str], dims: int = 2, width: int = 64) -> None:
        super().__init__()
        sizes = [dims + 1, width, width, width, dims]
        generators = [torch.Generator().manual_seed(_number(name)) for name in names]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in pairwise(sizes):
            drawn = [torch.rand(a + 1, b, generator=g) * 2 - 1 for g in generators]
            layer = torch.stack(drawn) / math.sqrt(a)
            self.weights.append(nn.Parameter(layer[:, :a].clone()))
            self.biases.append(nn.Parameter(layer[:, a:].clone()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """All outputs."""
        h = torch.cat([x, t[..., None]], -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            h = nn.functional.selu(h) if i < last else h
        return h

    def part(self, first: int, count: int) -> Stack:
        """The networks first .. first + count - 1, as copies."""
        found = Stack([""] * count, self.weights[0].shape[1] - 1, self.weights[0].shape[2])
        with torch.no_grad():
            for mine, theirs in zip(found.parameters(), self.parameters(), strict=True):
                mine.copy_(theirs[first : first + count])
        return found


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


class Targets(NamedTuple):
    """One step's inputs and targets: the loss of network k is |scale_k net_k(x_k, t_k) - y_k|^2.

    x, y: [K, B, d]; t, scale: [K, B].
    """

    x: Tensor
    t: Tensor
    scale: Tensor
    y: Tensor


def losses_of(stack: Stack, targets: Targets) -> Tensor:
    """The loss of every network, [K]."""
    x, t, scale, y = targets
    return (scale[..., None] * stack(x, t) - y).square().mean((1, 2))


def train(
    stack: Stack,
    draw: Callable[[int], Targets],
    steps: int,
    *,
    average: Stack | None = None,
    compiled: bool = False,
    checkpoint: Path | None = None,
    protocol: Mapping[str, Any] | None = None,
    progress: Callable[[int, Tensor], None] | None = None,
) -> dict[str, float]:
    """AdamW at 1e-3 with weight decay 1e-5; where the seconds went.

    Args:
        stack: trained in place.
        draw: the targets of a step, a function of its number alone.
        steps: how many.
        average: becomes the moving average of the weights, over about 1000 steps.
        compiled: let torch.compile fuse what lies between the products.
        checkpoint: file of a run that goes on where it stopped; written every `EVERY` steps.
        protocol: what the checkpoint must have been written for.
        progress: called with the step and the losses [K] as often.

    Raises:
        ValueError: for a checkpoint of another protocol.
    """
    optimiser = torch.optim.AdamW(stack.parameters(), 1e-3, weight_decay=1e-5, fused=True)
    about = json.dumps({**(protocol or {}), "steps": steps}, sort_keys=True)
    seconds = {"drawing": 0.0, "network": 0.0}
    first = 0
    stacks = {"": stack} | ({} if average is None else {"average ": average})
    if checkpoint is not None and checkpoint.exists():
        first, seconds = _restore(checkpoint, about, stacks, optimiser)
    weights = [p.detach() for p in stack.parameters()]
    averages = [] if average is None else [p.detach() for p in average.parameters()]
    loss = torch.compile(losses_of) if compiled else losses_of
    for step in range(first, steps):
        began = time.perf_counter()
        targets = draw(step)
        drawn = time.perf_counter()
        found = loss(stack, targets)
        optimiser.zero_grad()
        found.sum().backward()
        optimiser.step()
        if averages:
            decay = min(DECAY, (1 + step) / (10 + step))
            torch._foreach_lerp_(averages, weights, 1 - decay)
        seconds["drawing"] += drawn - began
        seconds["network"] += time.perf_counter() - drawn
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            if checkpoint is not None:
                _store(checkpoint, about, step + 1, seconds, stacks, optimiser)
            if progress is not None:
                progress(step + 1, found.detach())
    return seconds


def _store(
    path: Path,
    about: str,
    step: int,
    seconds: Mapping[str, float],
    stacks: Mapping[str, Stack],
    optimiser: torch.optim.AdamW,
) -> None:
    tensors = {f"{which}{k}": v for which, s in stacks.items() for k, v in s.state_dict().items()}
    for name, p in stacks[""].named_parameters():
        tensors |= {f"{field} {name}": x for field, x in optimiser.state[p].items()}
    metadata = {"about": about, "step": str(step), "seconds": json.dumps(seconds)}
    write_safetensors(path, tensors, metadata)


def _restore(
    path: Path, about: str, stacks: Mapping[str, Stack], optimiser: torch.optim.AdamW
) -> tuple[int, dict[str, float]]:
    tensors, metadata = read_safetensors(path)
    if metadata.get("about") != about:
        raise ValueError(f"{path} is of {metadata.get('about')}, not of {about}: remove it")
    for which, stack in stacks.items():
        load_strictly(stack, {k: tensors[which + k] for k in stack.state_dict()}, path)
    for name, p in stacks[""].named_parameters():
        fields = ("step", "exp_avg", "exp_avg_sq")
        optimiser.state[p] = {field: tensors[f"{field} {name}"] for field in fields}
    return int(metadata["step"]), json.loads(metadata["seconds"])


def euler(stack: Stack, x: Tensor, steps: int = 100) -> tuple[Tensor, Tensor]:
    """End points [K, N, d] and path energies E int |v|^2 dt [K] of the K flows from x [K, N, d]."""
    energy, ends = torch.zeros(len(x)), []
    with torch.no_grad():
        for piece in x.split(CHUNK, 1):
            y = piece
            for i in range(steps):
                v = stack(y, torch.full(y.shape[:2], i / steps))
                energy += v.square().sum((1, 2)) / (steps * x.shape[1])
                y = y + v / steps
            ends.append(y)
    return torch.cat(ends, 1), energy
