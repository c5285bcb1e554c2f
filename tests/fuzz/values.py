"""Values that a call may be given by mistake."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tests.modes.tensors import Tagged, Wrapped


def tensors() -> list[torch.Tensor]:
    """Tensors of the wrong kind, shape, dtype or contents."""
    x = torch.linspace(-1, 1, 18).reshape(3, 6)
    return [
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(0, 6),
        torch.zeros(3, 0),
        torch.zeros(6),
        torch.zeros(3, 1),
        torch.zeros(1, 6),
        torch.zeros(2, 6),
        torch.zeros(3, 6, 1),
        torch.arange(3),
        torch.arange(18).reshape(3, 6),
        x > 0,
        x + 1j * x,
        torch.conj(x + 1j * x),
        torch._neg_view(x),
        x.half(),
        x.bfloat16(),
        x.to(torch.float8_e4m3fn),
        x.double(),
        x * math.nan,
        x * math.inf,
        x * 1e30,
        x.double() * 1e300,
        x.t(),
        x[:, ::2],
        x[:1].expand(3, 6),
        x.clone().requires_grad_(),
        x.to("meta"),
        x.to_sparse(),
        x.as_subclass(Tagged),
        Wrapped(x),
        torch.nn.Parameter(x),
        torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        torch.nested.nested_tensor([x[0], x[1, :3]]),
        torch.tensor([2**62, -1, 0]),
    ]


def plain() -> list[Any]:
    """Everything else."""
    return [
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        17,
        2**31,
        2**48,
        2**63,
        2**64,
        -(2**63),
        10**30,
        0.0,
        -0.0,
        0.5,
        1.5,
        -1.0,
        1e-300,
        1e308,
        math.nan,
        math.inf,
        -math.inf,
        1j,
        "",
        "nonsense",
        "auto",
        "cpu",
        "meta",
        "cuda:7",
        b"bytes",
        (),
        [],
        [0.5],
        [1, 2, 3],
        [math.nan, 1.0],
        [1.0, 0.5, 0.0],
        [0.0, 0.5, 1.0],
        [[1.0], [2.0, 3.0]],
        (1, -1),
        (3, 6),
        (1.0, 2.0),
        (2.0, 1.0),
        {},
        {"shift": 1},
        {"a": torch.zeros(3)},
        {1, 2},
        range(3),
        object(),
        print,
        int,
        torch.float16,
        torch.int64,
        torch.complex64,
        np.float64(0.5),
        np.int64(3),
        np.float32("nan"),
        np.array([0.5, 0.25]),
        np.array(["a"]),
        np.zeros((3, 6)),
        torch.device("meta"),
        torch.nn.Identity(),
    ]


def mistakes() -> st.SearchStrategy[Any]:
    """Any of them, or a number or text of hypothesis' choice; steps beyond use are left out."""
    small = st.integers(-1000, 1000) | st.floats(width=32) | st.text(max_size=6)
    listed = st.integers(0, len(plain()) - 1).map(lambda k: plain()[k])
    odd = st.integers(0, len(tensors()) - 1).map(lambda k: tensors()[k])
    return listed | odd | small
