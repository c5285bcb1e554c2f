"""Orders of samples: permutations, functions of (seed, position), classes in equal shares."""

import pytest
import torch

from fastgen.training import Order
from fastgen.training.order import SORTED_UP_TO, WITHIN_CLASSES, feistel


@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000, 4097])
def test_a_feistel_network_permutes(size):
    places = torch.arange(size)
    found = feistel(places, size, 7, 0, WITHIN_CLASSES)
    assert torch.equal(found.sort().values, places)
    other = feistel(places, size, 7, 1, WITHIN_CLASSES)
    assert torch.equal(other.sort().values, places)
    if size > 60:
        assert not torch.equal(found, other)
        assert not torch.equal(found, feistel(places, size, 8, 0, WITHIN_CLASSES))
        part = feistel(places[11:30], size, 7, 0, WITHIN_CLASSES)
        assert torch.equal(part, found[11:30])


def test_it_passes_for_random():
    """Fixed points and falls of a random permutation: about 1, and half."""
    size, places = 20_000, torch.arange(20_000)
    fixed, falls, neighbours = 0, 0.0, 0
    for epoch in range(10):
        x = feistel(places, size, 1, epoch, WITHIN_CLASSES)
        fixed += int((x == places).sum())
        falls += float((x[1:] < x[:-1]).double().mean()) / 10
        neighbours += int(((x[1:] - x[:-1]).abs() == 1).sum())
    assert 1 <= fixed <= 23  # Poisson of 10: within 4 deviations
    assert falls == pytest.approx(0.5, abs=4 * (1 / 12 / size / 10) ** 0.5)
    assert 4 <= neighbours <= 38  # Poisson of 20


def test_large_sets_take_no_memory_and_every_sample_comes_once():
    size = SORTED_UP_TO + 3
    order = Order(size, 5)
    seen = torch.zeros(size, dtype=torch.int32)
    for first in range(0, size, 1 << 18):
        numbers = order.at(first, min(1 << 18, size - first))
        seen.index_add_(0, numbers, torch.ones(len(numbers), dtype=torch.int32))
    assert bool((seen == 1).all())
    assert not order._tables
    over = order.at(size - 5, 10)  # reaches into the next pass
    assert torch.equal(over[:5], order.at(size - 5, 5))
    assert torch.equal(over[5:], order.at(size, 5))


def test_classes_come_equally_often_and_go_through_their_samples():
    labels = torch.tensor([4] * 90 + [1] * 7 + [2] * 3)
    order = Order(100, 3, labels)
    numbers = order.at(0, 3 * 90)
    found = labels[numbers]
    assert torch.equal(found.reshape(90, 3).sort(1).values, torch.tensor([[1, 2, 4]] * 90))
    assert len({tuple(row) for row in found.reshape(90, 3).tolist()}) == 6
    assert torch.equal(numbers[found == 4].sort().values, torch.arange(90))
    rare = numbers[found == 2].reshape(30, 3)
    assert torch.equal(rare.sort(1).values, torch.tensor([[97, 98, 99]] * 30))
    for first, count in ((0, 7), (7, 100), (41, 1), (200, 70)):
        assert torch.equal(order.at(first, count), numbers[first : first + count])


def test_without_samples():
    with pytest.raises(ValueError, match="expected at least one sample"):
        Order(0, 1)


def test_more_positions_than_any_memory_has_are_refused():
    for labels in (None, torch.tensor([0, 1, 1, 2, 2])):
        with pytest.raises(ValueError, match=r"count=281474976710656: at most 4294967296"):
            Order(5, 1, labels).at(0, 2**48)


def test_no_positions_are_no_samples():
    for labels in (None, torch.tensor([0, 1, 1, 2, 2])):
        assert Order(5, 1, labels).at(3, 0).shape == (0,)
