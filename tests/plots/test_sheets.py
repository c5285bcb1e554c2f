"""Sheets of images, clouds and histograms: what the artists hold."""

import math

import numpy as np
import pytest
import torch

from fastgen.plots import samples, sheet

COLUMNS_OF = {1: 1, 3: 1, 2: 2, 4: 4}


def image(values):
    return torch.as_tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


class TestSheet:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_size_and_lines_between(self, channels):
        picture = sheet(torch.zeros(6, channels, 5, 4), columns=3)
        beside = COLUMNS_OF[channels]
        assert picture.shape == (2 * 6 - 1, 3 * beside * 5 - 1, 4)
        assert (picture[5, :, 3] == 0).all()
        assert (picture[:, 4::5, 3] == 0).all()
        assert (picture[:5, :4, 3] == 1).all()

    def test_places_and_colours(self):
        x = torch.zeros(3, 3, 2, 2) - 1
        x[2, 0] = 1  # the third is red
        picture = sheet(x, columns=2)
        assert (picture[3:, :2, :3] == [1, 0, 0]).all()
        assert (picture[:2, :2, :3] == 0).all()
        assert (picture[3:, 2:, 3] == 0).all()  # there is no fourth

    def test_channels_of_latents_stand_side_by_side(self):
        x = torch.arange(4.0).reshape(1, 4, 1, 1).expand(2, 4, 1, 1)
        picture = sheet(x, columns=1)
        assert picture[0, ::2, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
        assert picture.shape[:2] == (3, 7)

    @pytest.mark.parametrize(
        ("values", "drawn"),
        [
            ([-1.0, 0.0, 1.0], [0, 0.5, 1]),
            ([0.0, 0.5, 1.0], [0, 0.5, 1]),
            ([0.0, 8.0, 16.0], [0, 0.5, 1]),  # as scikit-learn has its digits
            ([-1.5, 0.0, 1.5], [0, 0.5, 1]),  # samples overshoot
            ([-0.5, 0.0, 0.5], [0.25, 0.5, 0.75]),
            ([0.2, 0.4, 0.6], [0.2, 0.4, 0.6]),
        ],
    )
    def test_range_of_real_numbers(self, values, drawn):
        assert sheet(image(values))[0, :, 0].tolist() == pytest.approx(drawn)

    def test_range_of_bytes(self):
        x = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 3)
        assert sheet(x)[0, :, 1].tolist() == pytest.approx([0, 0.2, 1])
        assert sheet(x.numpy())[0, :, 1].tolist() == pytest.approx([0, 0.2, 1])
        assert sheet(x > 100)[0, :, 1].tolist() == [0, 0, 1]

    def test_range_given_and_inverted(self):
        x = image([0.0, 1.0, 5.0])
        assert sheet(x, limits=(0, 4))[0, :, 2].tolist() == [0, 0.25, 1]
        assert sheet(x, limits=(0, 4), invert=True)[0, :, 2].tolist() == [1, 0.75, 0]

    @pytest.mark.parametrize("invert", [False, True])
    def test_nan_is_magenta_and_infinities_are_clipped(self, invert):
        picture = sheet(image([math.nan, math.inf, -math.inf, -0.5]), invert=invert)
        red, green, _ = picture[0, 0, :3]
        assert red > 2 * green
        assert picture[0, 1, 0] == 1 - invert
        assert picture[0, 2, 0] == invert

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_dtypes_gradients_and_numpy(self, dtype):
        x = (torch.rand(5, 3, 4, 4) * 2 - 1).to(dtype)
        expected = sheet(x.double().numpy())
        assert np.array_equal(sheet(x.requires_grad_()), expected)
        assert expected.dtype == np.float64

    @pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 3, 8, 8), (0, 4, 8, 8)])
    def test_empty_batch(self, shape):
        assert (sheet(torch.zeros(shape))[..., 3] == 0).all()

    def test_one_sample_is_as_large_as_itself(self):
        assert sheet(torch.zeros(1, 1, 8, 6), columns=20).shape == (8, 6, 4)

    def test_refusals(self):
        for x in (torch.zeros(3), torch.zeros(2, 1, 0, 3), torch.zeros(1, 1, 1, 1, 1)):
            with pytest.raises(ValueError, match=r"x: expected images"):
                sheet(x)
        with pytest.raises(ValueError, match="columns=0"):
            sheet(image([1.0]), 0)
        with pytest.raises(ValueError, match=r"limits=\(1, 0\)"):
            sheet(image([1.0]), limits=(1, 0))
        with pytest.raises(TypeError, match="no numbers to draw"):
            sheet(torch.zeros(1, 1, 2, 2, device="meta"))
        with pytest.raises(TypeError, match="x="):
            sheet("cat.png")


class TestSamples:
    def test_images(self):
        x = torch.rand(9, 3, 8, 8) * 2 - 1
        axes = samples(x, columns=9, title="nine")
        (drawn,) = axes.images
        assert np.array_equal(drawn.get_array(), sheet(x, 9))
        assert axes.get_title() == "nine"
        assert len(axes.get_xticks()) == 0

    def test_points_and_their_classes(self):
        x = torch.randn(40, 2, dtype=torch.float64)
        labels = torch.arange(40) % 3
        axes = samples(x, labels=labels)
        for k, cloud in enumerate(axes.collections):
            assert np.array_equal(cloud.get_offsets(), x[labels == k])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "1", "2"]
        assert len({tuple(c.get_facecolor()[0]) for c in axes.collections}) == 3
        assert samples(x).get_legend() is None

    def test_points_that_are_not_finite_are_left_out(self):
        x = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [2.0, math.inf]])
        (cloud,) = samples(x).collections
        assert cloud.get_offsets().tolist() == [[0.0, 1.0]]

    @pytest.mark.parametrize("shape", [(500,), (500, 1)])
    def test_histogram(self, shape):
        axes = samples(torch.linspace(0, 1, 500).reshape(shape))
        areas = [bar.get_width() * bar.get_height() for bar in axes.patches]
        assert sum(areas) == pytest.approx(1)
        assert np.std([bar.get_height() for bar in axes.patches]) < 0.1

    @pytest.mark.parametrize("shape", [(0, 2), (0,), (0, 1), (0, 1, 8, 8), (1, 2), (1,), (1, 8, 8)])
    def test_empty_batches_and_one_sample(self, shape):
        axes = samples(torch.zeros(shape))
        axes.figure.canvas.draw()

    def test_on_axes_that_are_there(self):
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, sharex=True, sharey=True)
        before = plt.get_fignums()
        assert samples(torch.zeros(3, 2), right, s=3, alpha=0.1) is right
        assert plt.get_fignums() == before
        assert not left.collections
        assert right.collections[0].get_alpha() == 0.1
        figure.canvas.draw()

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"choose two, x\[:, :2\]"):
            samples(torch.zeros(4, 3))
        with pytest.raises(ValueError, match="labels: of points"):
            samples(torch.zeros(4, 1, 2, 2), labels=torch.zeros(4))
        with pytest.raises(ValueError, match=r"labels: expected one for each of 4 samples, got"):
            samples(torch.zeros(4, 2), labels=torch.zeros(3))
        with pytest.raises(ValueError, match="columns: of images"):
            samples(torch.zeros(4, 2), columns=2)
        with pytest.raises(TypeError, match=r"ax=.*expected the Axes"):
            samples(torch.zeros(4, 2), 3)
        figure = samples(torch.zeros(4, 2)).figure
        with pytest.raises(TypeError, match=r"one of figure\.axes"):
            samples(torch.zeros(4, 2), figure)
