"""Means and covariances of features, gathered by shard; Fréchet distances, precision and recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.checks import check_whole
from fastgen.common.display import displayed
from fastgen.generation.identity import digest

MOST_PIXELS = 4096  # whose covariance, 128 MiB of float64, is not refused
PIXELS = "pixels"


@displayed
@dataclass(frozen=True)
class Moments:
    """Of n feature vectors: their mean [D], and the sum of (x - mean)(x - mean)^T [D, D].

    Those of two sets together follow from those of each (Chan, Golub and LeVeque 1979), to
    rounding. Merged in the order of the shards, the bits depend on nothing else.
    """

    count: int
    mean: Tensor = field(repr=False)
    scatter: Tensor = field(repr=False)

    @staticmethod
    def of(features: Tensor) -> Moments:
        """Of features [n, D], in float64."""
        x = features.to(torch.float64)
        mean = x.mean(0) if len(x) else torch.zeros(x.shape[1], dtype=torch.float64, device="cpu")
        centred = x - mean
        return Moments(len(x), mean, centred.T @ centred)

    def with_others(self, other: Moments) -> Moments:
        """Of both sets together."""
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter + weight * torch.outer(step, step)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    @property
    def covariance(self) -> Tensor:
        """The unbiased one, over n - 1."""
        if self.count < 2:
            raise ValueError(f"statistics of {self.count} samples: a covariance takes at least 2")
        return self.scatter / (self.count - 1)


@displayed
@dataclass(frozen=True)
class Features:
    """What statistics are of: a function of samples as they are stored, or the pixels.

    function: from [B, ...] to [B, D], of the samples' dtype; None for all numbers of a sample in
    one row. name: for the manifest. device: where samples are put before. keep: whether every
    feature is stored, which precision and recall need.
    """

    function: Callable[[Tensor], Tensor] | None = None
    name: str = PIXELS
    device: str = "cpu"
    keep: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the numbers."""
        own = None if self.function is None else digest(self.function)
        return {"name": self.name, "function": own, "keep": self.keep}

    def __call__(self, samples: Tensor) -> NDArray[np.float32]:
        """The features [B, D] of a batch.

        Raises:
            ValueError: if the function returns something else, or there are too many pixels.
        """
        if self.function is None:
            found = samples.flatten(1)
            if found.shape[1] > MOST_PIXELS:
                raise ValueError(
                    f"features={PIXELS!r}: a sample has {found.shape[1]} numbers, whose covariance "
                    f"takes {found.shape[1] ** 2 * 8 / 2**30:.1f} GiB; give a function of at most "
                    "a few thousand features"
                )
        else:
            with torch.inference_mode():
                found = self.function(samples.to(self.device))
        rows = len(samples)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != rows:
            what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"features: {self.name} must return a tensor [{rows}, D], got {what}")
        return found.to(torch.float32).cpu().numpy()


@displayed
@dataclass(frozen=True)
class Statistics:
    """What was found of a whole set.

    mean [D] and covariance [D, D] are float64. frechet: the distance to stored statistics.
    precision, recall: to stored features. Each None where it was not asked for.
    """

    count: int
    mean: NDArray[np.float64] = field(repr=False)
    covariance: NDArray[np.float64] = field(repr=False)
    frechet: float | None = None
    precision: float | None = None
    recall: float | None = None

    def save(self, path: Path | str) -> None:
        """Write ``mu`` and ``sigma``, as evaluators of the Fréchet distance read them."""
        from fastgen.common.files import replacing

        with replacing(Path(path)) as file:
            np.savez(file, mu=self.mean, sigma=self.covariance, count=self.count)


def stored_statistics(path: Path | str) -> tuple[Tensor, Tensor]:
    """``mu`` [D] and ``sigma`` [D, D] of an npz file.

    Raises:
        ValueError, OSError: naming the file.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as found:
            mu, sigma = np.asarray(found["mu"]), np.asarray(found["sigma"])
    except (KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected an npz file with mu and sigma ({error})") from error
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or mu.dtype.kind != "f":
        raise ValueError(f"{path}: expected mu [D] and sigma [D, D], got {mu.shape}, {sigma.shape}")
    return torch.from_numpy(mu.astype(np.float64)), torch.from_numpy(sigma.astype(np.float64))


def frechet(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, [D] and [D, D], in float64.

    |m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a^1/2 C_b C_a^1/2)^1/2, with both square roots those
    of symmetric matrices (Dowson and Landau 1982; FID: Heusel et al. 2017, arXiv 1706.08500).

    Raises:
        ValueError: for matrices of other sizes.
    """
    if mean_a.shape != mean_b.shape or covariance_a.shape != covariance_b.shape:
        raise ValueError(
            f"statistics of {len(mean_a)} features against those of {len(mean_b)}: give those of "
            "the same features"
        )
    a, b = covariance_a.to(torch.float64), covariance_b.to(torch.float64)
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    means = (mean_a.to(torch.float64) - mean_b.to(torch.float64)).square().sum()
    return max(0.0, float(means + a.trace() + b.trace() - 2 * cross))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """`frechet` of the Gaussians fitted to features a [N, D] and b [M, D].

    Raises:
        ValueError: unless both are [at least 2, D] with one D.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"a, b: expected [N, D] and [M, D] with N, M >= 2, got {list(a.shape)} and "
            f"{list(b.shape)}"
        )
    x, y = Moments.of(a), Moments.of(b)
    return frechet(x.mean, x.covariance, y.mean, y.covariance)


def precision_recall(
    real: Tensor, generated: Tensor, *, neighbours: int = 3, rows: int = 1024
) -> tuple[float, float]:
    """The share of generated samples in the real ones' manifold, and the other way round.

    A manifold is the union of balls around features, each of the distance to its k-th nearest
    neighbour in its own set (Kynkäänniemi et al. 2019, arXiv 1904.06991). Besides both sets,
    memory for ``rows`` x max(N, M) distances; time grows as (N + M)^2.

    Args:
        real: features [N, D].
        generated: features [M, D].
        neighbours: k.
        rows: features whose distances are computed at once.

    Raises:
        ValueError: for sets of other widths, or no more than k features.
    """
    check_whole("neighbours", neighbours, 1)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"real, generated: expected [N, D] and [M, D], got {list(real.shape)} and "
            f"{list(generated.shape)}"
        )
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(f"neighbours={neighbours}: each set needs more features than that")
    sets = real.to(torch.float32), generated.to(torch.float32)
    radii = [_radii(x, neighbours, rows) for x in sets]
    shares = [
        _covered(sets[1], sets[0], radii[0], rows),
        _covered(sets[0], sets[1], radii[1], rows),
    ]
    return shares[0], shares[1]


def _radii(x: Tensor, neighbours: int, rows: int) -> Tensor:
    # The nearest is the point itself, at distance 0.
    parts = [
        torch.cdist(part, x, compute_mode="donot_use_mm_for_euclid_dist")
        .kthvalue(neighbours + 1, dim=1)
        .values
        for part in _parts(x, rows)
    ]
    return torch.cat(parts)


def _parts(x: Tensor, rows: int) -> list[Tensor]:
    return [x[first : first + rows] for first in range(0, len(x), rows)]


def _covered(points: Tensor, centres: Tensor, radii: Tensor, rows: int) -> float:
    inside = 0
    for part in _parts(points, rows):
        distances = torch.cdist(part, centres, compute_mode="donot_use_mm_for_euclid_dist")
        inside += int((distances <= radii).any(1).sum())
    return inside / len(points)
