"""The noise of an observation, as the variance that it has where a prediction is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastgen.common.checks import check_finite, check_number, check_positive
from fastgen.common.display import displayed


class Noise(ABC):
    """What the observation has besides the noiseless one, independent between its numbers."""

    @abstractmethod
    def variance(self, predicted: Tensor) -> Tensor:
        """The variance, broadcastable to the noiseless observation ``predicted`` [B, ...]."""

    @property
    def none(self) -> bool:
        """Whether there is none, known before any prediction."""
        return False


@displayed
@dataclass(frozen=True, eq=False)
class Gaussian(Noise):
    """Normal noise: y = A(x) + std z.

    Args:
        std: one number >= 0, or a tensor that broadcasts to the observation [B, ...].
    """

    std: float | Tensor

    def __post_init__(self) -> None:
        if isinstance(self.std, Tensor):
            check_finite("noise", self.std)
            if not bool((self.std >= 0).all()):
                raise ValueError("noise: expected standard deviations >= 0")
        elif not 0 <= check_number("noise", self.std) < math.inf:
            raise ValueError(f"noise={self.std!r}: expected a finite standard deviation >= 0")

    def variance(self, predicted: Tensor) -> Tensor:
        """See `Noise.variance`."""
        if isinstance(self.std, Tensor):
            return self.std.to(predicted) ** 2
        return predicted.new_full((1,) * predicted.ndim, float(self.std) ** 2)

    @property
    def none(self) -> bool:
        """See `Noise.none`."""
        return not isinstance(self.std, Tensor) and self.std == 0


@displayed
@dataclass(frozen=True)
class Poisson(Noise):
    """Counts: y = n / gain with n Poisson distributed of mean gain A(x).

    The methods need a Gaussian likelihood: its variance is A(x) / gain at the prediction, and at
    least that of one count.

    Args:
        gain: counts for one unit of A(x): the larger, the less noise.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_positive("gain", self.gain)

    def variance(self, predicted: Tensor) -> Tensor:
        """See `Noise.variance`."""
        return predicted.clamp_min(1 / self.gain) / self.gain


def noise_of(noise: Any) -> Noise:
    """A noise from itself, or from a standard deviation.

    Raises:
        TypeError, ValueError: for something else, and for a negative number.
    """
    if isinstance(noise, Noise):
        return noise
    if isinstance(noise, Tensor) and noise.ndim:
        return Gaussian(noise)
    return Gaussian(check_number("noise", noise))
