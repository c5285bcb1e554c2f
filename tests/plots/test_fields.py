"""Vector fields and maps of densities: their numbers, and the direction of arrows."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen.plots import likelihood, vector_field

SCHEDULE = fastgen.schedules.Rectified()


def gaussian(x, t, centre=0.0, seen=None):
    """The data prediction of N(0, 1) data around a point under the straight path."""
    if seen is not None:
        seen.append((tuple(x.shape), float(t[0])))
    t = t[:, None]
    a, s = 1 - t, t
    return centre + a / (a**2 + s**2) * (x - a * centre)


MODEL = fastgen.Model(gaussian, SCHEDULE, "data")


class TestVectorField:
    def test_a_function(self):
        axes = vector_field(
            lambda t, y: torch.stack([t + y[:, 1], -y[:, 0]], 1), 2.0, (-1, 3, 0, 2)
        )
        (arrows,) = axes.collections
        x, y = arrows.XY.T
        assert (x.min(), x.max(), y.min(), y.max()) == (-1, 3, 0, 2)
        assert np.allclose(arrows.U, 2 + y, atol=1e-6)
        assert np.allclose(arrows.V, -x, atol=1e-6)
        assert np.allclose(arrows.get_array(), np.hypot(arrows.U, arrows.V))
        assert len(x) == 20 * 20

    def test_a_models_velocity_leads_to_data(self):
        model = fastgen.Model(gaussian, SCHEDULE, "data")
        options = {"density": 5, "net_kwargs": {"centre": torch.tensor([2.0, 0.0])}}
        (towards,) = vector_field(model, 0.9, 1, **options).collections
        assert (np.asarray(towards.U) > 0).all()
        (in_time,) = vector_field(model, 0.9, 1, way="time", **options).collections
        assert np.array_equal(in_time.U, -towards.U)
        x = torch.from_numpy(towards.XY).float()
        expected = model.predict("velocity", x, 0.9, net_kwargs=options["net_kwargs"])
        assert np.allclose(in_time.U, expected[:, 0])

    def test_data_at_one_draws_the_same(self):
        flow = fastgen.Model(lambda x, t: -x * t[:, None], SCHEDULE, "velocity", data_at=1)
        same = fastgen.Model(lambda x, t: x * (1 - t[:, None]), SCHEDULE, "velocity")
        (a,), (b,) = (vector_field(m, 0.3, 1).collections for m in (flow, same))
        assert np.allclose(a.U, b.U)

    def test_score_and_data_lead_where_they_say(self):
        (score,) = vector_field(MODEL, 0.5, 2, quantity="score", density=4).collections
        assert np.allclose(score.U, -score.XY[:, 0] / 0.5, atol=1e-5)
        (data,) = vector_field(MODEL, 0.5, 2, quantity="data", density=4).collections
        assert np.allclose(data.U, data.XY[:, 0] * 1.0 - data.XY[:, 0], atol=1e-5)

    def test_the_longest_arrow_reaches_its_neighbour(self):
        (arrows,) = vector_field(lambda t, y: 100 * y, 0, 1, density=11).collections
        longest = np.hypot(arrows.U, arrows.V).max()
        assert longest / arrows.scale == pytest.approx(1.5 * 0.2)

    def test_streamlines_fields_of_zeros_and_of_nan(self):
        assert vector_field(lambda t, y: y, 0, 1, streamlines=True).collections
        vector_field(lambda t, y: y * 0, 0, 1).figure.canvas.draw()
        vector_field(lambda t, y: y * math.nan, 0, 1).figure.canvas.draw()

    def test_on_axes_with_a_style(self):
        axes = vector_field(lambda t, y: y, 0, 1)
        assert vector_field(lambda t, y: y, 0, 1, axes, color="red", cmap=None, title="two") is axes
        assert axes.get_title() == "two"

    def test_no_gradient_is_recorded(self):
        weight = torch.ones(1, requires_grad=True)
        vector_field(lambda t, y: weight * y, 0, 1)
        vector_field(fastgen.Model(lambda x, t: weight * x, SCHEDULE, "data"), 0.5, 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((MODEL, 0.5, 0), "bounds=0"),
            ((MODEL, 0.5, (0, 1)), r"left, right, bottom, top"),
            ((MODEL, 0.5, (0, 1, 1, 0)), "bottom < top"),
            ((MODEL, 0.5, math.inf), "bounds=inf"),
            ((MODEL, 2.0, 1), r"t=2\.0"),
            ((lambda t, y: y[:, :1], 0.5, 1), r"model: expected shape \[400, 2\]"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            vector_field(*arguments)

    def test_refusals_of_options(self):
        with pytest.raises(ValueError, match="quantity='speed'"):
            vector_field(MODEL, 0.5, 1, quantity="speed")
        with pytest.raises(ValueError, match="of a Model"):
            vector_field(lambda t, y: y, 0.5, 1, quantity="score")
        with pytest.raises(TypeError, match="model=3"):
            vector_field(3, 0.5, 1)


class TestLikelihood:
    def test_of_a_model(self):
        axes = likelihood(MODEL, 2, resolution=9, rtol=1e-4, atol=1e-4)
        (image,) = axes.images
        line = np.linspace(-2, 2, 9)
        x, y = np.meshgrid(line, line)
        variance = (1 - SCHEDULE.t_min) ** 2 + SCHEDULE.t_min**2  # where the data is taken to be
        expected = -(x**2 + y**2) / (2 * variance) - math.log(2 * math.pi * variance)
        assert np.allclose(image.get_array(), expected, atol=1e-3)
        assert image.get_extent() == pytest.approx([-2.25, 2.25, -2.25, 2.25])
        low, high = image.get_clim()
        assert high == pytest.approx(expected.max(), abs=1e-3)
        assert low == pytest.approx(high - 10)

    def test_of_a_function_and_upright(self):
        axes = likelihood(lambda x: x[:, 1], (0, 1, 5, 6), resolution=3, depth=math.inf)
        (image,) = axes.images
        assert image.get_array().data.tolist() == [[5.0] * 3, [5.5] * 3, [6.0] * 3]
        assert image.origin == "lower"

    def test_the_density_itself(self):
        axes = likelihood(lambda x: -x.square().sum(1), 1, log=False, resolution=3, colorbar=False)
        (image,) = axes.images
        assert image.get_array()[1, 1] == pytest.approx(1)
        assert image.get_clim()[0] == 0
        assert len(axes.figure.axes) == 1

    def test_numbers_that_are_not_finite(self):
        axes = likelihood(lambda x: x[:, 0].log(), 1, resolution=4)
        axes.figure.canvas.draw()
        assert axes.images[0].get_clim()[1] == pytest.approx(0)
        likelihood(lambda x: x[:, 0] * math.nan, 1).figure.canvas.draw()

    def test_refusals(self):
        with pytest.raises(TypeError, match="rtol: of a Model"):
            likelihood(lambda x: x[:, 0], 1, rtol=1e-3)
        with pytest.raises(ValueError, match="resolution=1"):
            likelihood(MODEL, 1, resolution=1)
        with pytest.raises(TypeError, match="model='no'"):
            likelihood("no", 1)
