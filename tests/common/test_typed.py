"""Arguments held against their annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgen.common.typed import typed, typed_fields


@typed
def call(
    count: int = 1,
    rate: float = 0.5,
    name: str | None = None,
    flag: bool = False,
    x: Tensor | None = None,
    shape: Sequence[int] | Tensor = (2, 3),
    bounds: tuple[float, float] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    options: Mapping[str, Any] | None = None,
    function: Callable[..., Tensor] | None = None,
    anything: Any = None,
    *rest: Any,
    **named: Any,
) -> dict[str, Any]:
    return {k: v for k, v in locals().items() if k not in ("rest", "named")}


@pytest.mark.parametrize(
    "given",
    [
        {"count": 3},
        {"count": np.int64(3)},
        {"count": torch.tensor(3)},
        {"rate": 1},
        {"rate": np.float32(0.5)},
        {"rate": torch.tensor(0.5)},
        {"rate": torch.tensor([0.5])},
        {"flag": np.bool_(True)},
        {"name": None},
        {"x": torch.nn.Parameter(torch.zeros(2))},
        {"shape": torch.Size((2,))},
        {"shape": range(3)},
        {"shape": np.array([1, 2])},
        {"shape": torch.tensor([1, 2])},
        {"bounds": (0, 1.5)},
        {"bounds": [0.0, 1.0]},
        {"device": "cpu"},
        {"device": torch.device("meta")},
        {"options": {"a": 1}},
        {"function": torch.nn.Identity()},
        {"anything": object()},
        {"unknown": object()},
    ],
)
def test_what_fits_is_handed_on(given):
    found = call(**given)
    for name, value in given.items():
        assert found.get(name, value) is value


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 2.0}, "count=2.0: expected a whole number"),
        ({"count": True}, "count=True: expected a whole number"),
        ({"rate": "x"}, "rate='x': expected a number"),
        ({"rate": 1j}, "rate=1j: expected a number"),
        ({"rate": torch.zeros(2)}, "rate=<tensor torch.float32 [2]>: expected a number"),
        ({"name": 3}, "name=3: expected a text or None"),
        ({"flag": 1}, "flag=1: expected True or False"),
        ({"x": [1.0]}, "x=[1.0]: expected a dense tensor or None"),
        ({"x": torch.eye(2).to_sparse()}, "x=<tensor torch.float32 torch.sparse_coo>: expected"),
        ({"x": np.zeros(2)}, "x=<array float64 [2]>: expected a dense tensor or None"),
        ({"shape": 3}, "shape=3: expected a sequence, each a whole number or a dense tensor"),
        ({"shape": (2, 1.5)}, "shape=(2, 1.5): expected a sequence, each a whole number"),
        ({"shape": "23"}, "shape='23': expected a sequence"),
        ({"bounds": (1,)}, "bounds=(1,): expected (a number, a number) or None"),
        ({"bounds": 2.0}, "bounds=2.0: expected (a number, a number) or None"),
        ({"device": 3.5}, "device=3.5: expected a device of this machine or None"),
        ({"dtype": "float32"}, "dtype='float32': expected a torch.dtype"),
        ({"options": [1]}, "options=[1]: expected a dictionary or None"),
        ({"function": 3}, "function=3: expected a function or None"),
    ],
)
def test_what_does_not_is_named(given, says):
    with pytest.raises(TypeError) as caught:
        call(**given)
    assert says in str(caught.value)


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device='nonsense': expected a device of this machine"):
        call(device="nonsense")


def test_positional_arguments_too():
    with pytest.raises(TypeError, match="rate='x': expected a number"):
        call(1, "x")


def test_fields_of_a_dataclass():
    @dataclass(frozen=True)
    class Numbers:
        rate: float
        names: Sequence[str] = ()

        def __post_init__(self) -> None:
            typed_fields(self)

    assert Numbers(1, ["a"]).rate == 1
    with pytest.raises(TypeError, match=r"names=\[1\]: expected a sequence, each a text"):
        Numbers(1, [1])
