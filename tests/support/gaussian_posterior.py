"""Gaussian data and a linear observation: priors as networks, and posteriors in closed form."""

import torch

import fastgen


class GaussianPrior:
    """x_0 = mean + L z with covariance [n, n], float64."""

    def __init__(self, covariance, mean):
        self.covariance, self.mean = covariance.double(), mean.double()

    @classmethod
    def correlated(cls, n=6, seed=0):
        g = torch.Generator().manual_seed(seed)
        root = 0.5 * torch.randn(n, n, generator=g, dtype=torch.float64)
        covariance = root @ root.T + 0.1 * torch.eye(n, dtype=torch.float64)
        return cls(covariance, torch.randn(n, generator=g, dtype=torch.float64))

    def at(self, schedule, x, t):
        """E[x_0 | x_t] and Cov[x_0 | x_t], [B, n] and [B, n, n]."""
        a, s = (f(t).reshape(-1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        eye = torch.eye(len(self.mean), dtype=torch.float64)
        gain = torch.linalg.solve(a**2 * self.covariance + s**2 * eye, a * self.covariance)
        data = self.mean + ((x - a[:, 0] * self.mean)[:, None] @ gain)[:, 0]
        return data, self.covariance - a * self.covariance @ gain

    def model(self, schedule, predicts="data"):
        def net(x, t):
            t = t.double()
            data, _ = self.at(schedule, x.double(), t)
            a, s, da, ds = (
                f(t)[:, None]
                for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma)
            )
            noise = (x.double() - a * data) / s
            found = {
                "data": data,
                "noise": noise,
                "velocity": da * data + ds * noise,
                "score": -noise / s,
                "v": a * noise - s * data,
            }
            return found[predicts].to(x.dtype)

        return fastgen.Model(net, schedule, predicts, time_dtype=torch.float64)


def given(mean, covariance, matrix, y, std):
    """Mean and covariance of x_0 given y = A x_0 + std z, for each row of the mean."""
    noise = std**2 * torch.eye(len(matrix), dtype=torch.float64)
    total = matrix @ covariance @ matrix.T + noise
    gain = covariance @ matrix.T @ torch.linalg.inv(total)
    found = mean + (gain @ (y - mean @ matrix.T)[..., None])[..., 0]
    return found, covariance - gain @ matrix @ covariance
