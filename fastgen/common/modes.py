"""The modes of torch in which networks are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn


def unrecorded(net: Any) -> AbstractContextManager[Any]:
    """Where networks are called without gradients: `torch.no_grad`, outside of inference mode.

    What a network makes in inference mode and keeps, such as a table that it fills when it is
    first called, can never take part in a backward pass, and its training would fail later. So
    inference mode is never entered here, and left where the caller is in it; but not for a network
    that was itself made there, since its tensors can be written to nowhere else.
    """
    if not torch.is_inference_mode_enabled():
        return torch.no_grad()
    if isinstance(net, nn.Module):
        tensors = (*net.parameters(), *net.buffers())
        if any(x.is_inference() for x in tensors):
            return torch.no_grad()
    return _outside_inference_mode()


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    # Leaving inference mode switches gradients on: they are switched off after it.
    with torch.inference_mode(False), torch.no_grad():
        yield
