"""torchsde's Brownian motions on the stateless tree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_integer
from fastgen.noise import brownian_path


def fresh_entropy() -> int:
    """A seed drawn from torch's global generator, below 2^62."""
    return int(torch.randint(2**62, ()))


class BrownianInterval:
    """Brownian motion of a size on [t0, t1]; called as bm(ta, tb) for W(tb) - W(ta).

    A function of entropy and times alone: no cache, no tree of queries, no recursion. The
    arguments dt, tol, pool_size, cache_size and halfway_tree, which tune torchsde's cache, have
    nothing to tune.

    Args:
        t0, t1: the interval.
        size: (batch, channels), or any other.
        dtype, device: of what it returns.
        entropy: the seed; None draws one from torch's generator.
        levy_area_approximation: "none", or "space-time" for ``return_U=True`` and "srk".

    Raises:
        ValueError: for given W or H, or approximations of the Levy area.
    """

    def __init__(
        self,
        t0: float | Tensor = 0.0,
        t1: float | Tensor = 1.0,
        size: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        entropy: int | None = None,
        dt: float | Tensor | None = None,
        tol: float = 0.0,
        pool_size: int = 8,
        cache_size: int | None = 45,
        halfway_tree: bool = False,
        levy_area_approximation: str = "none",
        W: Tensor | None = None,
        H: Tensor | None = None,
    ) -> None:
        if W is not None or H is not None:
            raise ValueError("W, H: a motion with given ends is not offered; leave them out")
        if levy_area_approximation not in ("none", "space-time"):
            raise ValueError(
                f"levy_area_approximation={levy_area_approximation!r}: the tree has increments "
                "and, for 'space-time', the space-time Levy area"
            )
        self.levy_area_approximation = levy_area_approximation
        if size is None:
            raise ValueError("size: expected (batch, channels), got None")
        self._size = torch.Size(size)
        self._dtype = dtype or torch.get_default_dtype()
        if entropy is None:
            entropy = fresh_entropy()
        # torchsde's sizes may be empty; the motion needs a batch axis.
        shape = self._size if self._size else torch.Size((1,))
        entropy = check_integer("entropy", entropy)
        self.entropy = entropy
        self.path = brownian_path.BrownianPath(
            shape,
            float(t0),
            float(t1),
            seed=entropy % 2**64,
            levy_area=levy_area_approximation == "space-time",
            dtype=self._dtype,
            device=device or "cpu",
        )

    def __call__(
        self,
        ta: float | Tensor,
        tb: float | Tensor | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """W(tb) - W(ta), or W(ta) - W(t0); times outside of the interval are its ends.

        With return_U also U, the integral of W_u - W(ta) over [ta, tb].
        """
        if return_A or (return_U and not self.path.levy_area):
            raise ValueError(
                "return_U, return_A: the tree has U with levy_area_approximation='space-time', "
                "and no Levy areas"
            )
        start, end = (self.path.t0, float(ta)) if tb is None else (float(ta), float(tb))
        if start > end:
            raise RuntimeError(
                f"Query times ta={start:.3f} and tb={end:.3f} must respect ta <= tb."
            )
        start, end = self._clamped(start), self._clamped(end)
        if not return_U:
            return self.path(start, end).reshape(self._size)
        if start == end:
            zero = torch.zeros(self._size, dtype=self._dtype, device=self.path.device)
            return zero, zero.clone()
        w, h = (x.reshape(self._size) for x in self.path.with_area(start, end))
        return w, (end - start) * (w / 2 + h)

    def _clamped(self, t: float) -> float:
        inside = min(max(t, self.path.t0), self.path.t1)
        if inside != t:
            warnings.warn(
                f"time {t} is outside of [{self.path.t0}, {self.path.t1}]; using {inside}",
                stacklevel=3,
            )
        return inside

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(t0={self.path.t0}, t1={self.path.t1}, "
            f"size={tuple(self._size)}, dtype={self._dtype}, entropy={self.entropy})"
        )

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of increments."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where increments are made."""
        return self.path.device

    @property
    def shape(self) -> torch.Size:
        """Size of increments."""
        return self._size


class BrownianPath(BrownianInterval):
    """Brownian motion from w0 at t0, on [t0, t0 + 1]; bm(t) is its value.

    window_size is not used, as in torchsde.
    """

    def __init__(self, t0: float | Tensor, w0: Tensor, window_size: int = 8) -> None:
        super().__init__(t0, float(t0) + 1, w0.shape, w0.dtype, w0.device)
        self._w0 = w0

    def __call__(
        self,
        t: float | Tensor,
        tb: float | Tensor | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The value at t, or the increment from t to tb."""
        w: Any = super().__call__(t, tb, return_U, return_A)
        return w + self._w0 if tb is None else w


class BrownianTree(BrownianPath):
    """Brownian motion from w0 at t0, on [t0, t1], of a given entropy.

    tol, pool_size, cache_depth and safety have nothing to tune: the tree has 24 levels. A given
    end w1 is not offered.
    """

    def __init__(
        self,
        t0: float | Tensor,
        w0: Tensor,
        t1: float | Tensor | None = None,
        w1: Tensor | None = None,
        entropy: int | None = None,
        tol: float = 1e-6,
        pool_size: int = 24,
        cache_depth: int = 9,
        safety: float | None = None,
    ) -> None:
        end = float(t0) + 1 if t1 is None else t1
        BrownianInterval.__init__(
            self, t0, end, w0.shape, w0.dtype, w0.device, entropy, W=None if w1 is None else w1
        )
        self._w0 = w0
