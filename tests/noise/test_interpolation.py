"""Noises between two noises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import fastgen

A, B = (fastgen.randn((4, 3), seed=seed) for seed in (1, 2))
WEIGHTS = [0.0, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("correlation", [None, -0.5, 0.0, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_ends_are_the_noises(dtype: torch.dtype, correlation: float | None) -> None:
    a, b = A.to(dtype), B.to(dtype)
    for w, end in ((0.0, a), (1.0, b)):
        found = fastgen.interpolate(a, b, w, correlation=correlation)
        assert found.dtype == dtype
        if correlation == 1.0 or w in (0.0, 1.0):
            torch.testing.assert_close(found, end, rtol=0, atol=1e-15)


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.3, 0.999])
@pytest.mark.parametrize("w", WEIGHTS)
def test_the_variance_is_one(w: float, correlation: float) -> None:
    """The weights p, q of unit noises of correlation c have p^2 + q^2 + 2 c p q = 1."""
    basis = torch.eye(2, dtype=torch.float64)
    p, q = fastgen.interpolate(basis[:1], basis[1:], w, correlation=correlation)[0].tolist()
    assert abs(p * p + q * q + 2 * correlation * p * q - 1) < 1e-12
    # and that with the first is cos(w theta)
    assert abs(p + correlation * q - math.cos(w * math.acos(correlation))) < 1e-12


def test_mixes_of_the_contract_are_normal() -> None:
    shape, count = (50_000, 2), 100_000
    a, b = (fastgen.randn(shape, seed=3, draw=draw) for draw in (0, 1))
    mixed = fastgen.interpolate(a, b, 0.5)
    assert abs(float(mixed.mean())) < 5 / math.sqrt(count)
    assert abs(float(mixed.std()) - 1) < 5 / math.sqrt(2 * count)
    alone = fastgen.interpolate(a[7:8], b[7:8], 0.5)
    assert torch.equal(alone, mixed[7:8])


def test_measured_angles_keep_the_norm_and_go_at_one_speed() -> None:
    a = torch.nn.functional.normalize(A.double(), dim=1)
    b = torch.nn.functional.normalize(B.double(), dim=1)
    path = torch.stack([fastgen.interpolate(a, b, w, correlation=None) for w in (0, 0.25, 0.5, 1)])
    one = torch.ones(4, 4, dtype=torch.float64)
    torch.testing.assert_close(path.norm(dim=2), one, rtol=1e-12, atol=0)
    between = [torch.arccos((path[i] * path[i + 1]).sum(1)) for i in range(3)]
    torch.testing.assert_close(between[0], between[1], rtol=1e-9, atol=0)
    torch.testing.assert_close(between[2], 2 * between[0], rtol=1e-9, atol=0)
    same = fastgen.interpolate(a, a, 0.3, correlation=None)
    torch.testing.assert_close(same, a, rtol=1e-12, atol=0)


def test_one_row_stands_for_all_and_weights_go_with_their_rows() -> None:
    w = torch.tensor([0.2, 0.4, 0.6, 1.0])
    found = fastgen.interpolate(A[:1], B, w)
    rows = [fastgen.interpolate(A[:1], B[i : i + 1], float(w[i])) for i in range(4)]
    torch.testing.assert_close(found, torch.cat(rows))
    assert fastgen.interpolate(A[:1], B[:1], w).shape == (4, 3)


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "opposite": ("opposite", {"second": -A, "correlation": None}),
    "zeros": ("row of zeros", {"second": 0 * A, "correlation": None}),
    "another dtype": ("second", {"second": B.double()}),
    "another shape": ("second", {"second": B[:, :2]}),
    "more weights than rows": ("weights", {"weights": torch.ones(3)}),
    "weight above 1": ("weights", {"weights": 1.5}),
    "weight NaN": ("weights", {"weights": math.nan}),
    "correlation of -1": ("correlation", {"correlation": -1.0}),
    "whole numbers": ("first", {"first": A.int()}),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_has_no_between_is_named(case: str) -> None:
    message, changed = BAD[case]
    options: dict[str, Any] = {"first": A, "second": B, "weights": 0.5} | changed
    with pytest.raises(ValueError, match=message):
        fastgen.interpolate(**options)
