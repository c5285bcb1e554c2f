"""What a rule of guidance makes of outputs, as weights of each sample's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastgen.kernels import dispatch
from fastgen.kernels.gram.operator import gram
from fastgen.rules import Rule, Space, rescaled
from fastgen.rules.rule import Branches, Time


def combinations(
    rule: Rule,
    rescale: float,
    outputs: Sequence[Tensor],
    against: Sequence[int],
    scales: Sequence[Tensor],
    t: Time,
    memory: Tensor | None,
    *,
    active: Tensor | None = None,
    plain: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors that a rule combines, and its combinations of them.

    Args:
        rule, rescale: see `fastgen.Guidance`.
        outputs, against: of the branches, and which of them each is compared with.
        scales: of the branches, [B, 1] or [1, 1].
        t: the time, or that of each sample, [B].
        memory: what the rule made at the evaluation before, if it remembers.
        active: samples [B] that are guided; None for all.
        plain: whether nothing is recorded.

    Returns:
        N tensors [B, ...], and weights [B, N] or [1, N]: of the guided output, and of what the rule
        remembers if it does.
    """
    first = outputs[0]
    tensors = [*outputs, *rule.derive(outputs, against)]
    derived = len(tensors)
    if rule.remembers:
        tensors.append(torch.zeros_like(first) if memory is None else memory)
    if rule.linear and not rescale:  # weights of scales alone: no inner products
        size = len(tensors) + 1
        space = Space(torch.zeros(1, size, size, dtype=torch.float64, device=first.device))
    else:
        found = dispatch.find("gram", first.device)(tensors) if plain else gram(tensors)
        arrays = plain and rule.of_arrays and found.device.type == "cpu"
        arrays = arrays and not torch.compiler.is_compiling()  # which makes tensors of arrays
        space = Space(found, arrays)
    basis = space.basis()
    n = len(outputs)
    given = Branches(
        space,
        basis[:n],
        against,
        [space.taken(scale) for scale in scales],
        t,
        basis[n:derived],
        basis[-1] if rule.remembers else None,
    )
    with np.errstate(all="ignore"):  # outputs may be infinite: torch does not warn of it either
        combined = rule.combine(given)
        output = combined.output
        if rescale:
            output = rescaled(space, basis[0], output, rescale)
    made = [output] if combined.memory is None else [output, combined.memory]
    rows = [space.tensor(row) for row in made]
    if active is not None:
        own = [space.tensor(row) for row in (basis[0], basis[-1])]
        rows = [torch.where(active[:, None], a, b) for a, b in zip(rows, own, strict=False)]
    return tensors, rows
