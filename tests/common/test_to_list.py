"""The numbers of a tensor within transforms of `torch.func`, with each release of torch."""

import pytest
import torch
from torch import func

from fastgen.common.transforms import to_list

TABLE = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize("transform", [func.grad, func.jacrev, func.jacfwd])
def test_numbers_within_transforms(transform):
    def seen(y):
        found.append(to_list(TABLE))
        found.append(to_list(2 * TABLE[0]))
        found.append(to_list(TABLE[1, 2]))
        found.append(to_list(TABLE[:0]))
        return y.sum()

    found = []
    transform(seen)(torch.ones(2))
    assert found == [[[0, 1, 2], [3, 4, 5]], [0, 2, 4], 5, []]


def test_outside_it_is_tolist():
    assert to_list(TABLE) == TABLE.tolist()
    with pytest.raises(RuntimeError, match="meta"):
        to_list(TABLE.to("meta"))


def test_an_axis_that_vmap_hides_has_no_numbers():
    with pytest.raises(RuntimeError, match="vmap"):
        func.vmap(to_list)(TABLE)
