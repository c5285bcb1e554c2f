"""Moments, Fréchet distances, precision and recall, beside closed forms."""

import numpy as np
import pytest
import torch

from fastgen.generation import (
    Features,
    Moments,
    Statistics,
    frechet,
    frechet_distance,
    precision_recall,
    stored_statistics,
)


def with_moments(n, mean, covariance, seed):
    """n points whose sample mean and covariance are exactly the given ones."""
    x = torch.randn(n, len(mean), dtype=torch.float64, generator=torch.manual_seed(seed))
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)))
    return x @ whiten.T @ torch.linalg.cholesky(covariance).T + mean


def random_covariance(d, seed):
    a = torch.randn(d, d, dtype=torch.float64, generator=torch.manual_seed(seed))
    return a @ a.T + 0.1 * torch.eye(d, dtype=torch.float64)


class TestFrechetDistance:
    def test_commuting_gaussians_have_the_closed_form(self):
        mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        a = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
        b = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
        x = with_moments(50, torch.zeros_like(mean), torch.diag(a), 0)
        y = with_moments(70, mean, torch.diag(b), 1)
        expected = mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
        assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-10)

    def test_agrees_with_the_matrix_square_root_of_scipy(self):
        linalg = pytest.importorskip("scipy.linalg")
        x = with_moments(40, torch.zeros(6, dtype=torch.float64), random_covariance(6, 2), 3)
        y = with_moments(60, torch.ones(6, dtype=torch.float64), random_covariance(6, 4), 5)
        a, b = np.cov(x.T), np.cov(y.T)
        expected = 6 + np.trace(a + b - 2 * np.real(linalg.sqrtm(a @ b)))
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)

    def test_one_dimension(self):
        x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [5.0]])
        assert frechet_distance(x, y) == pytest.approx(3**2 + (8**0.5 - 2**0.5) ** 2)

    def test_singular_covariances_and_a_set_with_itself(self):
        x = torch.randn(5, 32, generator=torch.manual_seed(0))
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)
        assert frechet_distance(x, x + 2) == pytest.approx(4 * 32, rel=1e-6)

    @pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((1, 3), (5, 3)), ((5,), (5,))])
    def test_refuses_other_shapes(self, shapes):
        with pytest.raises(ValueError, match="expected"):
            frechet_distance(*map(torch.zeros, shapes))


class TestMoments:
    def test_parts_merged_are_the_whole(self):
        x = torch.randn(90, 5, dtype=torch.float64, generator=torch.manual_seed(0)) * 3 + 100
        merged = Moments.of(x[:20])
        for part in (x[20:21], x[21:21], x[21:90]):
            merged = merged.with_others(Moments.of(part))
        whole = Moments.of(x)
        assert merged.count == 90
        # To rounding of numbers of size 100 and of sums of 90 squares of size 10.
        assert torch.allclose(merged.mean, x.mean(0), rtol=0, atol=1e-12)
        assert torch.allclose(merged.covariance, torch.cov(x.T), rtol=1e-12, atol=1e-12)
        assert torch.allclose(whole.covariance, torch.cov(x.T), rtol=1e-12, atol=1e-12)

    def test_one_sample_has_no_covariance(self):
        with pytest.raises(ValueError, match="statistics of 1 samples"):
            _ = Moments.of(torch.ones(1, 2)).covariance

    def test_half_precision_is_summed_in_double(self):
        x = torch.full((4096, 1), 1.0, dtype=torch.float16)
        x[0] = 2.0
        assert float(Moments.of(x).mean[0]) == 1 + 1 / 4096


class TestStoredStatistics:
    def test_round_trip_and_distance(self, tmp_path):
        x = with_moments(50, torch.zeros(3, dtype=torch.float64), random_covariance(3, 0), 1)
        found = Moments.of(x)
        Statistics(50, found.mean.numpy(), found.covariance.numpy()).save(tmp_path / "s.npz")
        mean, covariance = stored_statistics(tmp_path / "s.npz")
        assert torch.equal(mean, found.mean)
        assert torch.equal(covariance, found.covariance)
        assert frechet(mean + 2, covariance, mean, covariance) == pytest.approx(12)

    def test_what_is_none_is_named(self, tmp_path):
        np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
        np.savez(tmp_path / "b.npz", mean=np.zeros(3))
        (tmp_path / "c.npz").write_bytes(b"PK")
        for name, message in (("a", "sigma"), ("b", "mu and sigma"), ("c", "mu and sigma")):
            with pytest.raises(ValueError, match=rf"{name}\.npz: expected .*{message}"):
                stored_statistics(tmp_path / f"{name}.npz")
        with pytest.raises(ValueError, match="3 features against those of 2"):
            frechet(torch.zeros(3), torch.eye(3), torch.zeros(2), torch.eye(2))


class TestPrecisionRecall:
    def test_one_set_within_the_other(self):
        """Real: a line of points one apart. Generated: some of its points, and far ones."""
        real = torch.arange(20.0)[:, None]
        generated = torch.cat([real[:5] + 0.25, torch.arange(4.0)[:, None] * 0.1 + 1000])
        precision, recall = precision_recall(real, generated, neighbours=1)
        # Balls of radius 1 around the real points cover the first five. Balls of the generated
        # points, which are one apart too, cover 0 ... 5; those of the far ones none.
        assert precision == 5 / 9
        assert recall == 6 / 20

    def test_the_same_set_and_blocks_of_rows(self):
        x = torch.randn(50, 4, generator=torch.manual_seed(0))
        y = torch.randn(40, 4, generator=torch.manual_seed(1)) + 1
        assert precision_recall(x, x) == (1.0, 1.0)
        assert precision_recall(x, y, rows=7) == precision_recall(x, y, rows=1000)

    def test_refusals(self):
        x = torch.zeros(5, 2)
        with pytest.raises(ValueError, match="neighbours=5"):
            precision_recall(x, x, neighbours=5)
        with pytest.raises(ValueError, match="expected \\[N, D\\]"):
            precision_recall(x, torch.zeros(5, 3))


class TestFeatures:
    def test_too_many_pixels_are_refused(self):
        with pytest.raises(ValueError, match=r"12288 numbers, whose covariance takes 1\.1 GiB"):
            Features()(torch.zeros(2, 3, 64, 64))

    def test_what_a_function_returns_is_checked(self):
        with pytest.raises(ValueError, match=r"mine must return a tensor \[2, D\], got \[2\]"):
            Features(lambda x: x.flatten(1).sum(1), "mine")(torch.zeros(2, 3))
