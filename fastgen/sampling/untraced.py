"""Network calls of runs that no derivative may see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.transforms import check_untraced
from fastgen.sampling.run import CallsNetwork

Within = Callable[[Callable[..., Any]], Callable[..., Any]]
CALL = "a Sampler's run in buffers of its own"
RECORD = "pass differentiable=True"


class Untraced:
    """Network calls of which nothing may be seen by forward-mode derivatives and `torch.func`."""

    def __init__(self, calls: CallsNetwork, within: Within) -> None:
        self.provide = calls.provide

        def checked(*arguments: Any) -> tuple[Tensor, ...]:
            with torch.enable_grad():  # else torch.func.grad does not show
                outputs = calls(*arguments)
            check_untraced(CALL, RECORD, net=outputs)
            return outputs

        self._call = within(checked)

    def __call__(self, k: int, network_input: Tensor, state: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs that evaluation k's stage reads."""
        found: tuple[Tensor, ...] = self._call(k, network_input, state)
        return found
