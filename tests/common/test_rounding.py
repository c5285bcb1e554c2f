"""Powers whose bits are a number's own."""

import math

import pytest
import torch

from fastgen.common.rounding import power


@pytest.mark.parametrize("exponent", [0.14, -0.14, 0.2, -0.33, 1.0, 0.0])
def test_powers(exponent):
    x = torch.logspace(-10, 10, 4001, dtype=torch.float64)
    wanted = torch.tensor([math.pow(v, exponent) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(power(x, exponent), wanted, rtol=3e-15, atol=0)
    for i in (0, 5, 4000):  # wherever it stands
        assert torch.equal(power(x[i : i + 1], exponent), power(x, exponent)[i : i + 1])


def test_ends():
    x = torch.tensor([0.0, 1e-310, math.nan, math.inf, 1.0], dtype=torch.float64)
    assert torch.equal(power(x, 0.2).nan_to_num(-1), torch.tensor([0, 0, -1, -1, 1]).double())
    # Beyond the range of exponents results saturate; they do not wrap.
    large = power(torch.tensor([1e-300, 1e300], dtype=torch.float64), -3.0)
    assert large[0] > 1e300
    assert large[1] < 1e-300
