"""Problems with exact denoisers: what is left of an error is the solver's.

Every problem has ``denoise(x, t)``, E[x_0 | x_t = x], for one t, and ``samples(count, seed)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.schedules import Schedule

COMPONENTS = 16


class Mixture:
    """Equal Gaussians around normal means, with a power-law spectrum of variances."""

    def __init__(self, dimension: int, schedule: Schedule) -> None:
        generator = torch.Generator().manual_seed(dimension)
        self.dimension, self.schedule = dimension, schedule
        self.means = torch.randn(COMPONENTS, dimension, generator=generator, dtype=torch.float64)
        self.variance = 0.25 * torch.arange(1, dimension + 1, dtype=torch.float64) ** -0.5

    def samples(self, count: int, seed: int) -> Tensor:
        """Exact samples [count, dimension]."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(COMPONENTS, (count,), generator=generator)
        z = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64)
        return self.means[chosen] + self.variance.sqrt() * z

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t = x], x [B, dimension], one t for all."""
        time = t[0].item()
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        total = alpha**2 * self.variance + sigma**2
        # log N(x; alpha m, total) without what all components share.
        logits = alpha * (x / total) @ self.means.T - 0.5 * alpha**2 * (self.means**2 / total).sum(
            1
        )
        mean = logits.softmax(1) @ self.means
        return torch.addcmul(mean, alpha * self.variance / total, x - alpha * mean)


class DataSet:
    """A data set itself as the data distribution: its closed-form denoiser is a softmax.

    D(x, t) = sum_i softmax_i(-|x - alpha y_i|^2 / (2 sigma^2)) y_i over the points y_i
    (De Bortoli 2022, arXiv 2208.05314; Karras et al. 2022, arXiv 2206.00364, eq. 57).

    Args:
        points: [N, dimension], float64.
        schedule: of the noise.
    """

    def __init__(self, points: Tensor, schedule: Schedule) -> None:
        self.points, self.schedule, self.dimension = points, schedule, points.shape[1]
        self._half_norms = 0.5 * points.square().sum(1)

    def samples(self, count: int, seed: int) -> Tensor:
        """Points drawn with replacement [count, dimension]."""
        generator = torch.Generator().manual_seed(seed)
        return self.points[torch.randint(len(self.points), (count,), generator=generator)]

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t = x], x [B, dimension], one t for all."""
        time = t[0].item()
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        logits = (alpha * (x @ self.points.T) - alpha**2 * self._half_norms) / sigma**2
        return logits.softmax(1) @ self.points


def digits(schedule: Schedule) -> DataSet:
    """The 1797 digits of scikit-learn, 8 x 8, scaled to [-1, 1]."""
    from sklearn.datasets import load_digits

    return DataSet(torch.from_numpy(load_digits().data / 8.0 - 1.0), schedule)


def patches(schedule: Schedule, size: int = 8, count: int = 4096) -> DataSet:
    """Patches of the two photographs that come with scikit-learn, scaled to [-1, 1]."""
    from sklearn.datasets import load_sample_images
    from sklearn.feature_extraction.image import extract_patches_2d

    found = [
        extract_patches_2d(image, (size, size), max_patches=count // 2, random_state=0)
        for image in load_sample_images().images
    ]
    flat = torch.cat([torch.from_numpy(f.reshape(len(f), -1)) for f in found])
    return DataSet(flat.to(torch.float64) / 127.5 - 1.0, schedule)


Problem = Mixture | DataSet
EXACT: dict[str, Callable[[Schedule], Problem]] = {
    "mixture, d = 2": lambda schedule: Mixture(2, schedule),
    "mixture, d = 64": lambda schedule: Mixture(64, schedule),
    "mixture, d = 3072": lambda schedule: Mixture(3072, schedule),
    "digits, d = 64": digits,
    "photographs, d = 192": patches,
}
