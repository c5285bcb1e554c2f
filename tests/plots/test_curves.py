"""Trajectories: the lines' points and the marked ends."""

import math

import numpy as np
import pytest
import torch

from fastgen.plots import trajectories


def lines(axes):
    return [np.asarray(s) for s in axes.collections[0].get_segments()]


def test_ways_and_ends_in_the_plane():
    states = torch.randn(7, 5, 2, dtype=torch.float64).cumsum(0)
    axes = trajectories(states)
    assert np.array_equal(np.stack(lines(axes), 1), states)
    _, first, last = axes.collections
    assert np.array_equal(first.get_offsets(), states[0])
    assert np.array_equal(last.get_offsets(), states[-1])
    low, high = axes.get_xlim()
    assert low <= float(states[..., 0].min())
    assert float(states[..., 0].max()) <= high


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1)])
def test_over_time(shape):
    states, times = torch.randn(shape, dtype=torch.float64), np.linspace(1, 0, 6)
    axes = trajectories(states, times)
    for k, line in enumerate(lines(axes)):
        assert np.array_equal(line[:, 0], times)
        assert np.array_equal(line[:, 1], states.reshape(6, 4)[:, k])
    assert axes.get_xlabel() == "time"
    counted = trajectories(states)
    assert lines(counted)[0][:, 0].tolist() == list(range(6))
    assert counted.get_xlabel() == "step"


def test_few_lines_of_many_samples_from_all_over_the_batch():
    states = torch.arange(1000.0).expand(3, 1000)
    axes = trajectories(states, lines=10)
    assert len(lines(axes)) == 10
    assert lines(axes)[-1][0, 1] == 999
    assert len(axes.collections[1].get_offsets()) == 1000
    assert lines(trajectories(states, lines=0)) == []


def test_classes_of_the_ends():
    states, labels = torch.randn(2, 30, 2, dtype=torch.float64), torch.arange(30) % 10
    axes = trajectories(states, labels=labels)
    ends = axes.collections[2:]
    assert len({tuple(e.get_facecolor()[0]) for e in ends}) == 10
    assert np.array_equal(ends[3].get_offsets(), states[-1, labels == 3])
    assert len(trajectories(states, labels=labels, ends=False).collections) == 1


def test_nan_breaks_a_line_and_not_the_picture():
    states = torch.zeros(4, 2, 2)
    states[2:, 1] = math.nan
    states[:, 0, 0] = torch.arange(4.0)
    axes = trajectories(states)
    axes.figure.canvas.draw()
    assert len(axes.collections[2].get_offsets()) == 1
    assert axes.get_xlim()[1] == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_and_gradients(dtype):
    states = torch.randn(3, 2, 2).to(dtype).requires_grad_()
    assert np.array_equal(np.stack(lines(trajectories(states)), 1), states.detach().double())


@pytest.mark.parametrize("shape", [(5, 0, 2), (1, 3, 2), (1, 1), (5, 0)])
def test_empty_batch_and_one_state(shape):
    trajectories(torch.zeros(shape)).figure.canvas.draw()


def test_style_goes_to_the_lines():
    axes = trajectories(torch.zeros(3, 4, 2), color="black", linewidths=2, title="ways")
    assert axes.collections[0].get_linewidths() == [2]
    assert axes.collections[0].get_colors()[0][:3].tolist() == [0, 0, 0]
    assert axes.get_title() == "ways"
    coloured = trajectories(torch.zeros(3, 2, 2), colors=["red", "blue"])
    assert coloured.collections[0].get_colors()[0][0] == 1


def test_refusals():
    with pytest.raises(ValueError, match=r"choose two, states\[\.\.\., :2\]"):
        trajectories(torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match=r"states: expected"):
        trajectories(torch.zeros(0, 4, 2))
    with pytest.raises(ValueError, match="times: of states"):
        trajectories(torch.zeros(3, 4, 2), [0, 1, 2])
    with pytest.raises(ValueError, match=r"times: expected \[3\], got \[2\]"):
        trajectories(torch.zeros(3, 4), [0, 1])
