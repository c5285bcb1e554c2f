"""Telling tensors from other values without importing torch where there can be none.

Schedules, time grids, plans and solvers compute in floats and numpy. They take tensors too, but a
program that gives them none, such as the command line's tables, is spared the import, which takes
seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

# What is no tensor on the face of it: nothing of these kinds needs torch to say so.
_OTHERS = (float, int, str, bytes, list, tuple, dict, np.ndarray, np.generic, type(None))


def is_tensor(value: Any) -> TypeIs[Tensor]:
    """Whether it is a tensor of torch."""
    if isinstance(value, _OTHERS):
        return False
    from torch import Tensor

    return isinstance(value, Tensor)
