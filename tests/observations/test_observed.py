"""Observations: shapes, operators, adjoints, and errors that name what is wrong."""

from itertools import pairwise

import pytest
import torch

import fastgen
from fastgen import observations
from fastgen.observations import Linear, Mask, Nonlinear, Operator
from fastgen.observations.solving import conjugate_gradients, conjugate_residuals

IMAGES, SERIES = (2, 8, 8), (2, 12)
OPERATORS = {
    "matrix": (observations.matrix(torch.randn(5, 24), SERIES), SERIES),
    "projection": (observations.random_projection(IMAGES, 20, seed=3), IMAGES),
    "pool": (observations.average_pool(2), IMAGES),
    "pool_series": (observations.average_pool(3, dims=1), SERIES),
    "blur": (observations.blur(torch.rand(3, 5)), IMAGES),
    "gaussian": (observations.gaussian_blur(0.8), IMAGES),
    "gaussian_series": (observations.gaussian_blur(1.0, dims=1), SERIES),
    "volume": (observations.gaussian_blur(0.5, dims=3, size=3), (2, 4, 4, 4)),
    "radon": (observations.radon([0.0, 0.5, 1.3]), IMAGES),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_linear_with_their_transposes(name):
    operator, shape = OPERATORS[name]
    x = torch.randn(3, *shape, dtype=torch.float64)
    y = operator(x)
    # Checks linearity, the transpose (autograd's where there is none) and the shapes.
    observation = Linear(operator, y=y)
    observation.check_shape((3, *shape), torch.float64, torch.device("cpu"))
    near = observation.near(torch.zeros_like(x))
    w = torch.randn_like(y)
    assert torch.allclose((y * w).sum(), (x * near.transpose(w)).sum())
    assert torch.allclose(near.residual, y)
    if operator.pseudo_inverse is not None:
        again = operator(operator.pseudo_inverse(y))
        assert torch.allclose(again, y, atol=1e-5)
        # A^+ A is symmetric.
        v = torch.randn_like(x)
        left = (v * operator.pseudo_inverse(operator(x))).sum()
        assert torch.allclose(left, (x * operator.pseudo_inverse(operator(v))).sum(), rtol=1e-4)


def test_values_of_operators():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert observations.average_pool(2)(x).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    sums = observations.radon([0.0, torch.pi / 2])(x)
    assert torch.allclose(sums[0, 0, 0], x[0, 0].sum(0), atol=1e-4)
    turned = sums[0, 0, 1]
    rows = x[0, 0].sum(1)
    assert min((turned - rows).abs().max(), (turned - rows.flip(0)).abs().max()) < 1e-3
    line = observations.blur(torch.tensor([1.0, 2.0, 3.0]))(torch.eye(5)[2].reshape(1, 1, 5))
    assert line.tolist() == [[[0.0, 1.0, 2.0, 3.0, 0.0]]]  # a convolution: the kernel itself
    assert torch.allclose(
        observations.gaussian_blur(1.0)(torch.ones(1, 1, 9, 9))[0, 0, 4, 4], torch.ones(())
    )


def test_conjugate_gradients_solve_each_row():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(3, 5, 5, generator=g, dtype=torch.float64)
    matrices = root @ root.transpose(1, 2) + 0.1 * torch.eye(5, dtype=torch.float64)
    right = torch.randn(3, 5, generator=g, dtype=torch.float64)
    right[1] = 0

    def apply(v):
        return (matrices @ v[..., None])[..., 0]

    found = conjugate_gradients(apply, right, 5)
    assert torch.allclose(found, torch.linalg.solve(matrices, right[..., None])[..., 0], atol=1e-8)
    # A row alone gives the same numbers; more iterations than numbers change nothing.
    assert torch.equal(conjugate_gradients(apply, right, 50), found)
    # A singular system is solved where it can be, and a negative direction stops its row alone.
    flat = torch.diag(torch.tensor([1.0, 2.0, 0.0])).double()
    y = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    assert torch.allclose(
        conjugate_gradients(lambda v: v @ flat, y, 9)[0], torch.tensor([1, 0.5, 0]).double()
    )
    assert conjugate_gradients(lambda v: -v, y, 3).abs().max() == 0
    assert conjugate_gradients(lambda v: v, torch.zeros(0, 3), 3).shape == (0, 3)


def test_conjugate_residuals_of_matrices_that_are_not_symmetric():
    g = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 5, 5, generator=g, dtype=torch.float64)
    matrices = matrices + 3 * torch.eye(5, dtype=torch.float64)
    right = torch.randn(3, 5, generator=g, dtype=torch.float64)
    right[1] = 0

    def apply(v):
        return (matrices @ v[..., None])[..., 0]

    exact = torch.linalg.solve(matrices, right[..., None])[..., 0]
    assert torch.allclose(conjugate_residuals(apply, right, 5), exact, atol=1e-9)
    assert torch.allclose(conjugate_residuals(apply, right, 50), exact, atol=1e-9)
    errors = [(right - apply(conjugate_residuals(apply, right, k))).norm(dim=1) for k in range(6)]
    for before, after in pairwise(errors):
        assert (after <= before + 1e-12).all()
    # The least residual in the Krylov space of two, by least squares.
    basis = torch.stack([right, apply(right)], 2)
    image = matrices @ basis
    best = torch.linalg.lstsq(image[::2], right[::2, :, None]).solution
    wanted = (right[::2] - (image[::2] @ best)[..., 0]).norm(dim=1)
    assert torch.allclose(errors[2][::2], wanted)
    assert conjugate_residuals(lambda v: 0 * v, right, 3).abs().max() == 0


class TestErrors:
    def test_masks(self):
        known = torch.zeros(2, 3)
        for mask in (torch.zeros(4), torch.zeros(2, 2), torch.zeros(3, 1, 3)):
            with pytest.raises(ValueError, match="mask: expected a shape that broadcasts to known"):
                Mask(known, mask)
        with pytest.raises(ValueError, match=r"weights in .0, 1."):
            Mask(known, torch.full((3,), 1.5))
        with pytest.raises(ValueError, match="known: expected finite numbers"):
            Mask(torch.full((2, 3), torch.nan), torch.ones(3))
        with pytest.raises(ValueError, match="known: expected floating"):
            Mask(torch.zeros(3), torch.ones(3))
        # What is not known may be NaN.
        part = torch.tensor([[1.0, torch.nan, 2.0]])
        assert Mask(part, torch.tensor([True, False, True])).known.tolist() == [[1.0, 0.0, 2.0]]

    def test_a_transpose_that_is_none(self):
        matrix = torch.randn(2, 3)
        y = torch.zeros(1, 2)
        with pytest.raises(ValueError, match="A_transpose: it is not the transpose of A"):
            Linear(lambda x: x @ matrix.T, lambda w: 2 * w @ matrix, y=y)
        with pytest.raises(ValueError, match="A_transpose: it is not the transpose of A"):
            Linear(lambda x: x @ matrix.T + 1, lambda w: w @ matrix, y=y)
        with pytest.raises(ValueError, match=r"A: expected \[1, 2\], the shape of y"):
            Linear(lambda x: x, lambda w: w @ matrix, y=y)
        with pytest.raises(ValueError, match="A_transpose: expected batches"):
            Linear(lambda x: x, lambda w: None, y=y)

    def test_maps_that_do_not_fit(self):
        def refused(observation, match, shape=(4, 3)):
            with pytest.raises(ValueError, match=match):
                observation.check_shape(shape, torch.float32, torch.device("cpu"))

        matrix, y = torch.randn(2, 3), torch.zeros(1, 2)
        refused(Linear(lambda x: x @ matrix.T + 1, y=y), "is not linear; give .*Nonlinear")
        refused(Linear(lambda x: x.abs()[:, :2], y=y), "is not linear")
        refused(
            Linear(lambda x: x, y=y), r"A: of samples \[1, 3\] it gives \[1, 3\], y is \[1, 2\]"
        )
        refused(Linear(lambda x: x @ matrix.T, y=y), r"does not take samples \[1, 5\]", (4, 5))
        refused(Nonlinear(lambda x: x, y), "f: of samples")
        refused(Mask(torch.zeros(1, 3), torch.ones(3)), "known is", (4, 5))
        refused(
            Linear(observations.average_pool(2), y=torch.zeros(1, 1, 2, 2)),
            "it does not divide",
            (1, 1, 5, 5),
        )

    def test_numbers(self):
        with pytest.raises(ValueError, match="y: expected finite numbers"):
            Linear(lambda x: x, y=torch.tensor([[torch.inf]]))
        with pytest.raises(ValueError, match=r"y: expected .B, ....* with a batch axis"):
            Linear(lambda x: x, y=torch.zeros(3))
        for noise in (-1.0, torch.tensor([-1.0, 2.0]), float("nan")):
            with pytest.raises(ValueError, match="noise"):
                Linear(lambda x: x, y=torch.zeros(1, 2), noise=noise)
        with pytest.raises(TypeError, match="noise"):
            Linear(lambda x: x, y=torch.zeros(1, 2), noise="small")
        with pytest.raises(ValueError, match="gain"):
            observations.Poisson(0.0)
        with pytest.raises(TypeError, match="A=3: expected a function"):
            Operator(3)

    def test_operators(self):
        for make, match in (
            (lambda: observations.blur(torch.ones(2)), "odd sizes"),
            (lambda: observations.gaussian_blur(1.0, size=4), "size=4"),
            (lambda: observations.gaussian_blur(1.0, dims=4), "dims=4"),
            (lambda: observations.average_pool(0), "factor=0"),
            (lambda: observations.matrix(torch.ones(2, 3), (4,)), "values: expected"),
            (lambda: observations.radon([float("nan")]), "angles"),
            (lambda: observations.radon([0.0])(torch.zeros(1, 1, 2, 3)), "square images"),
            (lambda: observations.real_time_chunk(torch.zeros(1, 4, 2), 3, 2), "delay . execute"),
            (lambda: observations.random_projection((3,), 0), "measurements=0"),
        ):
            with pytest.raises(ValueError, match=match):
                make()

    def test_methods_that_do_not_take_an_observation(self):
        model = fastgen.Model(lambda x, t: x, fastgen.schedules.LinearVP(), "noise")
        linear = Linear(lambda x: x, y=torch.zeros(1, 3))
        soft = Mask(torch.zeros(1, 3), torch.tensor([0.5, 1, 0]))
        curved = Nonlinear(lambda x: x**2, torch.zeros(1, 3))
        for observation, method, match in (
            (linear, "replacement", "Replacement is for fastgen.observations.Mask"),
            (soft, "mmps", "MMPS takes masks of 0 and 1"),
            (curved, "ddnm", "DDNM needs a linear observation"),
        ):
            with pytest.raises(ValueError, match=match):
                observations.conditioned(model, observation, method)
        with pytest.raises(TypeError, match="observation"):
            observations.conditioned(model, torch.zeros(1, 3))
        guidance = fastgen.Guidance(2.0, network=model.net, interval=(0.1, 0.5))
        with pytest.raises(ValueError, match="interval"):
            observations.conditioned(model, linear, guidance=guidance)
        guidance = fastgen.Guidance(torch.ones(3), network=model.net)
        with pytest.raises(ValueError, match="one scale for all samples"):
            observations.conditioned(model, linear, guidance=guidance)

    def test_rows(self):
        model = fastgen.Model(lambda x, t: x, fastgen.schedules.LinearVP(), "noise")
        given = observations.conditioned(model, Linear(lambda x: x, y=torch.zeros(3, 2)), "ddnm")
        with pytest.raises(ValueError, match="3 rows for a batch of 4; pass"):
            fastgen.sample(given, (4, 2), "ddim", 3)
        for observed, match in (
            ({"known": torch.zeros(4, 2)}, "expected a dictionary of"),
            ({"y": torch.zeros(4, 3)}, r"expected \[B, ...\] like \[3, 2\]"),
        ):
            with pytest.raises(ValueError, match=match):
                fastgen.sample(given, (4, 2), "ddim", 3, net_kwargs={"observed": observed})
