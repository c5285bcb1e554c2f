"""The numbers of a tensor within transforms of `torch.func`, with each release of torch."""

import pytest
import torch
from torch import func

from fastgen.common.transforms import listed

TABLE = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize("transform", [func.grad, func.jacrev, func.jacfwd])
def test_numbers_within_transforms(transform):
    def seen(y):
        found.append(listed(TABLE))
        found.append(listed(2 * TABLE[0]))
        found.append(listed(TABLE[1, 2]))
        found.append(listed(TABLE[:0]))
        return y.sum()

    found = []
    transform(seen)(torch.ones(2))
    assert found == [[[0, 1, 2], [3, 4, 5]], [0, 2, 4], 5, []]


def test_outside_it_is_tolist():
    assert listed(TABLE) == TABLE.tolist()
    with pytest.raises(RuntimeError, match="meta"):
        listed(TABLE.to("meta"))


def test_an_axis_that_vmap_hides_has_no_numbers():
    with pytest.raises(RuntimeError, match="vmap"):
        func.vmap(listed)(TABLE)
